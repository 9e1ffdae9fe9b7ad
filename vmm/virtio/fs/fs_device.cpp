// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/fs/fs_device.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace kiln::vmm {
namespace {

// The request queue holds a READ of kMaxTransfer: 256 pages and two headers.
constexpr std::array<uint16_t, 2> kQueueSizes = {1024, 1024};
constexpr size_t kMaxWaiting = 1024;
constexpr int64_t kFirstRetryMs = 2;
constexpr int64_t kLastRetryMs = 100;
// Answers of this size are announced at once; smaller ones together.
constexpr uint32_t kLargeAnswer = 32U << 10;

}  // namespace

FsDevice::~FsDevice() {
  if (timer_) loop_.cancel_timer(*timer_);
}

std::span<const uint16_t> FsDevice::queue_sizes() const { return kQueueSizes; }

void FsDevice::read_config(uint32_t, std::span<std::byte> out) const {
  std::fill(out.begin(), out.end(), std::byte{0});
}

Result<void> FsDevice::activate(Activation activation) {
  activation_ = std::move(activation);
  active_ = true;
  if (!waiting_.empty()) schedule_retry();
  return {};
}

void FsDevice::suspend() {
  active_ = false;
  activation_ = {};
  if (timer_) loop_.cancel_timer(*timer_);
  timer_.reset();
}

void FsDevice::reset() {
  suspend();
  waiting_.clear();
  session_.reset();
}

Result<void> FsDevice::process_queue(unsigned index) {
  if (!active_ || index >= activation_.queues.size() || activation_.queues[index] == nullptr)
    return {};
  Queue& queue = *activation_.queues[index];
  queue.set_notification(false);
  while (true) {
    while (TRY(queue.pop(chain_))) {
      if (!TRY(serve(queue, chain_))) {
        if (waiting_.size() >= kMaxWaiting)
          return make_error(ErrorKind::kResourceExhausted, "too many requests wait for locks");
        waiting_.push_back({index, chain_});
        retry_ms_ = kFirstRetryMs;
        schedule_retry();
      } else if (reply_.in_place >= kLargeAnswer && queue.needs_interrupt()) {
        activation_.interrupt(index);
      }
    }
    if (queue.needs_interrupt()) activation_.interrupt(index);
    queue.set_notification(true);
    if (!queue.has_available()) return {};
    queue.set_notification(false);
  }
}

Result<bool> FsDevice::load(const DescriptorChain& chain, FuseRequest& request) {
  const GuestMemory& memory = *activation_.memory;
  if (chain.readable_size < sizeof request.header) return false;
  TRY(memory.read_ranges(chain.readable, 0, std::as_writable_bytes(std::span(&request.header, 1))));
  // guest-controlled: from here on the copy counts.
  if (request.header.len < sizeof request.header || request.header.len > chain.readable_size)
    return false;
  uint32_t size = request.header.len - static_cast<uint32_t>(sizeof request.header);
  payload_.clear();
  if (request.header.opcode == FUSE_WRITE && size >= sizeof(fuse_write_in)) {
    request.payload_size = size - static_cast<uint32_t>(sizeof(fuse_write_in));
    size = sizeof(fuse_write_in);
    if (request.payload_size > FuseSession::kMaxTransfer) return false;
    TRY(memory.append_iovecs(chain.readable, sizeof request.header + size, request.payload_size,
                             payload_));
  }
  if (size > FuseSession::kMaxArguments) return false;
  arguments_.resize(size);
  TRY(memory.read_ranges(chain.readable, sizeof request.header, arguments_));
  request.arguments = arguments_;
  request.payload = payload_;
  space_.clear();
  if (chain.writable_size > sizeof(fuse_out_header)) {
    request.space_size =
        std::min(chain.writable_size - static_cast<uint32_t>(sizeof(fuse_out_header)),
                 FuseSession::kMaxTransfer);
    if (request.header.opcode == FUSE_READ && size >= sizeof(fuse_read_in)) {
      fuse_read_in wanted{};
      std::memcpy(&wanted, arguments_.data(), sizeof wanted);
      request.space_size = std::min(request.space_size, wanted.size);
      TRY(memory.append_iovecs(chain.writable, sizeof(fuse_out_header), request.space_size,
                               space_));
    }
  }
  request.space = space_;
  return true;
}

Result<bool> FsDevice::serve(Queue& queue, const DescriptorChain& chain) {
  FuseRequest request;
  reply_.clear();
  if (!TRY(load(chain, request))) {
    // Not a request: there may not even be a number to answer to.
    reply_.error = -EINVAL;
  } else {
    session_.handle(request, reply_);
  }
  if (reply_.kind == FuseReply::Kind::kLater) return false;
  TRY(answer(queue, chain, request.header));
  return true;
}

Result<void> FsDevice::answer(Queue& queue, const DescriptorChain& chain,
                              const fuse_in_header& header) {
  fuse_out_header out{};
  if (reply_.kind == FuseReply::Kind::kNone || chain.writable_size < sizeof out)
    return queue.push_used(chain.head, 0);
  const size_t room = chain.writable_size - sizeof out;
  // The guest gave less room than the answer needs: its kernel never does.
  if (reply_.body.size() > room) {
    reply_.error = -EIO;
    reply_.body.clear();
  }
  out.unique = header.unique;
  out.error = reply_.error;
  out.len = static_cast<uint32_t>(sizeof out + reply_.body.size()) + reply_.in_place;
  TRY(activation_.memory->write_ranges(chain.writable, 0, std::as_bytes(std::span(&out, 1))));
  if (!reply_.body.empty())
    TRY(activation_.memory->write_ranges(chain.writable, sizeof out, reply_.body));
  return queue.push_used(chain.head, out.len);
}

void FsDevice::schedule_retry() {
  if (timer_ || waiting_.empty()) return;
  timer_ = loop_.add_timer(retry_ms_, [this] {
    timer_.reset();
    retry();
  });
}

void FsDevice::retry() {
  if (!active_) return;
  std::vector<Waiting> still;
  const std::vector<Waiting> now = std::exchange(waiting_, {});
  for (const Waiting& request : now) {
    Queue* queue =
        request.queue < activation_.queues.size() ? activation_.queues[request.queue] : nullptr;
    if (queue == nullptr) continue;
    const auto served = serve(*queue, request.chain);
    if (!served) {
      if (activation_.broken) activation_.broken(request.queue, served.error());
    } else if (!*served) {
      still.push_back(request);
    } else if (queue->needs_interrupt()) {
      activation_.interrupt(request.queue);
    }
  }
  waiting_ = std::move(still);
  retry_ms_ = std::min(retry_ms_ * 2, kLastRetryMs);
  schedule_retry();
}

}  // namespace kiln::vmm
