// SPDX-License-Identifier: Apache-2.0
#include "vmm/vhost_user/server.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <sys/epoll.h>
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "vmm/vhost_user/rings.h"

namespace kiln::vmm {

using vhost_user::Request;

namespace {

constexpr uint64_t kTransportFeatures = (uint64_t{1} << VIRTIO_F_VERSION_1) |
                                        (uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC) |
                                        (uint64_t{1} << VIRTIO_RING_F_EVENT_IDX);
constexpr int kMessagesPerEvent = 32;

constexpr size_t kU64 = sizeof(uint64_t);
constexpr size_t kVringState = sizeof(vhost_user::VringState);

}  // namespace

struct VhostUserServer::Handler {
  Request request;
  size_t min_payload;
  size_t max_payload;
  size_t max_fds;
  bool replies;  // has an answer of its own, so that REPLY_ACK does not apply
  Result<void> (VhostUserServer::*handle)();
};

const VhostUserServer::Handler* VhostUserServer::find_handler(uint32_t request) {
  using S = VhostUserServer;
  constexpr size_t kMemTable = sizeof(vhost_user::MemoryTableHead) +
                               vhost_user::kMaxMemoryRegions * sizeof(vhost_user::MemoryRegion);
  constexpr size_t kConfig = sizeof(vhost_user::ConfigHead) + vhost_user::kMaxConfigSize;
  constexpr size_t kAddr = sizeof(vhost_user::VringAddresses);
  static const std::array kHandlers{
      Handler{Request::kGetFeatures, 0, 0, 0, true, &S::get_features},
      Handler{Request::kSetFeatures, kU64, kU64, 0, false, &S::set_features},
      Handler{Request::kSetOwner, 0, 0, 0, false, &S::set_owner},
      Handler{Request::kResetOwner, 0, 0, 0, false, &S::reset_owner},
      Handler{Request::kSetMemTable, sizeof(vhost_user::MemoryTableHead), kMemTable,
              vhost_user::kMaxMemoryRegions, false, &S::set_mem_table},
      Handler{Request::kSetVringNum, kVringState, kVringState, 0, false, &S::set_vring_num},
      Handler{Request::kSetVringAddr, kAddr, kAddr, 0, false, &S::set_vring_addr},
      Handler{Request::kSetVringBase, kVringState, kVringState, 0, false, &S::set_vring_base},
      Handler{Request::kGetVringBase, kVringState, kVringState, 0, true, &S::get_vring_base},
      Handler{Request::kSetVringKick, kU64, kU64, 1, false, &S::set_vring_kick},
      Handler{Request::kSetVringCall, kU64, kU64, 1, false, &S::set_vring_call},
      Handler{Request::kSetVringErr, kU64, kU64, 1, false, &S::set_vring_err},
      Handler{Request::kGetProtocolFeatures, 0, 0, 0, true, &S::get_protocol_features},
      Handler{Request::kSetProtocolFeatures, kU64, kU64, 0, false, &S::set_protocol_features},
      Handler{Request::kGetQueueNum, 0, 0, 0, true, &S::get_queue_num},
      Handler{Request::kSetVringEnable, kVringState, kVringState, 0, false, &S::set_vring_enable},
      Handler{Request::kGetConfig, sizeof(vhost_user::ConfigHead), kConfig, 0, true,
              &S::get_config},
      Handler{Request::kSetConfig, sizeof(vhost_user::ConfigHead), kConfig, 0, false,
              &S::set_config},
      Handler{Request::kResetDevice, 0, 0, 0, false, &S::reset_device},
  };
  const auto* found = std::find_if(kHandlers.begin(), kHandlers.end(), [&](const Handler& handler) {
    return static_cast<uint32_t>(handler.request) == request;
  });
  return found == kHandlers.end() ? nullptr : found;
}

VhostUserServer::VhostUserServer(EventLoop& loop, UniqueFd connection, VirtioDevice& device,
                                 std::function<void(Result<void>)> on_end)
    : loop_(loop),
      connection_(std::move(connection)),
      device_(device),
      on_end_(std::move(on_end)),
      rings_(std::make_unique<VhostUserRings>(loop, device)) {}

Result<std::unique_ptr<VhostUserServer>> VhostUserServer::create(
    EventLoop& loop, UniqueFd connection, VirtioDevice& device,
    std::function<void(Result<void>)> on_end) {
  const int fd = connection.get();
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    return sys_error("serve a vhost-user connection");
  std::unique_ptr<VhostUserServer> server(
      new VhostUserServer(loop, std::move(connection), device, std::move(on_end)));
  TRY(loop.add_fd(fd, EPOLLIN, [raw = server.get()](uint32_t) { raw->receive(); }));
  return server;
}

VhostUserServer::~VhostUserServer() {
  if (connection_) loop_.remove_fd(connection_.get());
}

// The last thing that anyone may do: on_end may destroy us.
void VhostUserServer::end(Result<void> why) {
  loop_.remove_fd(connection_.get());
  connection_.reset();
  rings_.reset();  // the device is reset, whoever owns it
  bytes_.clear();
  fds_.clear();
  if (!why) why = tl::unexpected(std::move(why.error()).wrap("vhost-user"));
  if (const auto on_end = std::exchange(on_end_, nullptr)) on_end(std::move(why));
}

void VhostUserServer::receive() {
  for (int i = 0; i < kMessagesPerEvent;) {
    const Result<bool> complete = receive_some();
    if (!complete) {
      // Nothing to read: not an error. A connection closed between messages is how it ends well.
      if (complete.error().sys_errno == EAGAIN) return;
      const bool clean = complete.error().kind == ErrorKind::kUnavailable && bytes_.empty();
      return end(clean ? Result<void>() : tl::unexpected(complete.error()));
    }
    if (!*complete) continue;
    const Result<void> handled = handle_message();
    bytes_.clear();
    fds_.clear();
    if (!handled) return end(handled);
    ++i;
  }
}

// Reads on; true when a message is there in full. Never past its end: the descriptors that come
// with a read belong to this message.
Result<bool> VhostUserServer::receive_some() {
  size_t wanted = sizeof header_;
  if (bytes_.size() >= sizeof header_) wanted += header_.size;
  ReceivedMessage part = TRY(receive_with_fds(connection_.get(), wanted - bytes_.size()));
  for (UniqueFd& fd : part.fds) fds_.push_back(std::move(fd));
  if (part.bytes.empty())
    return make_error(ErrorKind::kUnavailable, "the front-end has closed the connection");
  // Refuses the surplus before it piles up in many small parts.
  if (fds_.size() > vhost_user::kMaxMemoryRegions)
    return invalid_argument(format("{} descriptors in a message", fds_.size()));
  bytes_ += part.bytes;
  if (bytes_.size() < sizeof header_) return false;
  if (bytes_.size() == sizeof header_) {
    std::memcpy(&header_, bytes_.data(), sizeof header_);
    if ((header_.flags & vhost_user::kVersionMask) != vhost_user::kVersion ||
        (header_.flags & vhost_user::kFlagReply) != 0)
      return invalid_argument(
          format("request {} with flags {:#x}", header_.request, header_.flags));
    if (header_.size > vhost_user::kMaxPayload)
      return make_error(ErrorKind::kOutOfRange,
                        format("request {} has {} bytes", header_.request, header_.size));
  }
  if (bytes_.size() < sizeof header_ + header_.size) return false;
  payload_ = std::string_view(bytes_).substr(sizeof header_);
  return true;
}

Result<void> VhostUserServer::handle_message() {
  const Handler* handler = find_handler(header_.request);
  const bool wants_ack = (header_.flags & vhost_user::kFlagNeedReply) != 0 &&
                         (protocol_features_ & vhost_user::kProtocolReplyAck) != 0;
  const char* name = handler == nullptr ? "" : vhost_user::request_name(handler->request);
  Result<void> done;
  if (handler == nullptr) {
    done = make_error(ErrorKind::kUnimplemented, format("unknown request {}", header_.request));
  } else if (payload_.size() < handler->min_payload || payload_.size() > handler->max_payload) {
    done = invalid_argument(format("{}: {} bytes of payload", name, payload_.size()));
  } else if (fds_.size() > handler->max_fds) {
    done = invalid_argument(format("{}: {} descriptors", name, fds_.size()));
  } else {
    done = wrap((this->*handler->handle)(), name);
  }
  return finish_message(handler != nullptr && handler->replies, wants_ack, std::move(done));
}

// Answers for a request without an answer of its own. An error that the front-end did not ask to
// hear of ends the connection: going on would leave the two sides with different ideas.
Result<void> VhostUserServer::finish_message(bool replies, bool wants_ack, Result<void> done) {
  if (replies || !wants_ack) return done;
  if (!done) log_warning("vhost-user: refuse {}", done.error().message);
  return reply_u64(done ? 0 : 1);
}

Result<void> VhostUserServer::reply(const void* payload, size_t size) {
  const vhost_user::Header header{header_.request, vhost_user::kVersion | vhost_user::kFlagReply,
                                  static_cast<uint32_t>(size)};
  std::string message(sizeof header + size, '\0');
  std::memcpy(message.data(), &header, sizeof header);
  if (size != 0) std::memcpy(message.data() + sizeof header, payload, size);
  return send_with_fds(connection_.get(), message, {});
}

template <typename T>
T VhostUserServer::payload() const {
  return ByteReader(as_bytes(payload_)).read<T>().value_or(T{});  // its size has been checked
}

uint64_t VhostUserServer::offered_features() const {
  return device_.features() | kTransportFeatures | vhost_user::kFeatureProtocolFeatures;
}

Result<void> VhostUserServer::get_features() { return reply_u64(offered_features()); }

Result<void> VhostUserServer::set_features() {
  const auto features = payload<uint64_t>();
  if ((features & ~offered_features()) != 0)
    return invalid_argument(format("features {:#x} were not offered", features));
  const bool needs_enable = (features & vhost_user::kFeatureProtocolFeatures) != 0;
  return rings_->set_features(features & ~vhost_user::kFeatureProtocolFeatures, needs_enable);
}

Result<void> VhostUserServer::set_owner() { return {}; }  // there is one connection only

// No longer sent; the specification leaves ignoring it and disabling all rings.
Result<void> VhostUserServer::reset_owner() { return rings_->disable_all(); }

Result<void> VhostUserServer::reset_device() { return rings_->reset_device(); }

Result<void> VhostUserServer::set_mem_table() {
  ByteReader reader(as_bytes(payload_));
  const auto head = reader.read<vhost_user::MemoryTableHead>();
  const size_t count = head->region_count;
  if (count > vhost_user::kMaxMemoryRegions ||
      reader.rest().size() != count * sizeof(vhost_user::MemoryRegion))
    return invalid_argument(format("{} regions in {} bytes", count, payload_.size()));
  if (fds_.size() != count)
    return invalid_argument(format("{} regions with {} descriptors", count, fds_.size()));
  auto memory = std::make_shared<GuestMemory>();
  for (const UniqueFd& fd : fds_) {
    const auto region = reader.read<vhost_user::MemoryRegion>();
    TRY(memory->map_region(fd, region->mmap_offset, region->guest_address, region->size,
                           region->user_address));
  }
  return rings_->set_memory(std::move(memory));
}

Result<void> VhostUserServer::set_vring_num() {
  const auto state = payload<vhost_user::VringState>();
  return rings_->set_size(state.index, state.num);
}

Result<void> VhostUserServer::set_vring_addr() {
  return rings_->set_addresses(payload<vhost_user::VringAddresses>());
}

Result<void> VhostUserServer::set_vring_base() {
  const auto state = payload<vhost_user::VringState>();
  return rings_->set_base(state.index, state.num);
}

Result<void> VhostUserServer::get_vring_base() {
  auto state = payload<vhost_user::VringState>();
  state.num = TRY(rings_->stop(state.index));
  return reply(&state, sizeof state);
}

// The ring's index and its descriptor, which is invalid where the message says that there is none.
Result<UniqueFd> VhostUserServer::take_ring_fd(unsigned& index) {
  const auto value = payload<uint64_t>();
  index = static_cast<unsigned>(value & vhost_user::kVringIndexMask);
  const bool has_fd = (value & vhost_user::kVringNoFd) == 0;
  if (fds_.size() != (has_fd ? 1U : 0U))
    return invalid_argument(format("{:#x} with {} descriptors", value, fds_.size()));
  return has_fd ? std::move(fds_.front()) : UniqueFd();
}

Result<void> VhostUserServer::set_vring_kick() {
  unsigned index = 0;
  UniqueFd fd = TRY(take_ring_fd(index));
  if (!fd) return make_error(ErrorKind::kUnimplemented, "rings are not polled");
  return rings_->set_kick(index, std::move(fd));
}

Result<void> VhostUserServer::set_vring_call() {
  unsigned index = 0;
  UniqueFd fd = TRY(take_ring_fd(index));
  return rings_->set_call(index, std::move(fd));
}

Result<void> VhostUserServer::set_vring_err() {
  unsigned index = 0;
  UniqueFd fd = TRY(take_ring_fd(index));
  return rings_->set_error(index, std::move(fd));
}

uint64_t VhostUserServer::offered_protocol_features() const {
  return vhost_user::kProtocolMq | vhost_user::kProtocolReplyAck |
         vhost_user::kProtocolResetDevice |
         (device_.has_config() ? vhost_user::kProtocolConfig : 0);
}

Result<void> VhostUserServer::get_protocol_features() {
  return reply_u64(offered_protocol_features());
}

Result<void> VhostUserServer::set_protocol_features() {
  const auto features = payload<uint64_t>();
  if ((features & ~offered_protocol_features()) != 0)
    return invalid_argument(format("protocol features {:#x} were not offered", features));
  protocol_features_ = features;
  return {};
}

Result<void> VhostUserServer::get_queue_num() { return reply_u64(device_.queue_sizes().size()); }

Result<void> VhostUserServer::set_vring_enable() {
  const auto state = payload<vhost_user::VringState>();
  if (state.num > 1) return invalid_argument(format("enable is {}", state.num));
  return rings_->set_enabled(state.index, state.num == 1);
}

Result<void> VhostUserServer::get_config() {
  const auto head = payload<vhost_user::ConfigHead>();
  // An answer without payload is the protocol's way to say no.
  if (head.size > vhost_user::kMaxConfigSize || head.offset > vhost_user::kMaxConfigSize ||
      payload_.size() != sizeof head + head.size)
    return reply(nullptr, 0);
  std::string answer(payload_);
  std::span<std::byte> content = std::as_writable_bytes(std::span(answer)).subspan(sizeof head);
  std::fill(content.begin(), content.end(), std::byte{0});
  device_.read_config(head.offset, content);
  return reply(answer.data(), answer.size());
}

Result<void> VhostUserServer::set_config() {
  // None of our devices has a field that the driver may write.
  return make_error(ErrorKind::kUnimplemented, "the device's configuration is read-only");
}

}  // namespace kiln::vmm
