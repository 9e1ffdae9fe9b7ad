// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/console/console_device.h"

#include <algorithm>
#include <array>

#include "base/bytes.h"

namespace kiln::vmm {
namespace {

// virtio 1.2 §5.3.2: of port 0; the queues behind them exist with MULTIPORT only.
constexpr unsigned kReceiveQueue = 0;
constexpr unsigned kTransmitQueue = 1;
constexpr std::array<uint16_t, 2> kQueueSizes = {64, 64};
// Then the other devices on the thread have their turn: pieces, of one chain or of many.
constexpr int kPiecesPerTurn = 64;

}  // namespace

Result<std::unique_ptr<ConsoleDevice>> ConsoleDevice::create(EventLoop& loop, Output output) {
  if (!output) return invalid_argument("console has no output");
  return std::unique_ptr<ConsoleDevice>(new ConsoleDevice(loop, std::move(output)));
}

ConsoleDevice::~ConsoleDevice() { ConsoleDevice::reset(); }

std::span<const uint16_t> ConsoleDevice::queue_sizes() const { return kQueueSizes; }

void ConsoleDevice::read_config(uint32_t, std::span<std::byte> out) const {
  // §5.3.4: cols and rows are there with SIZE, max_nr_ports with MULTIPORT, emerg_wr with
  // EMERG_WRITE. What is not there reads as zero, and writes to it are ignored.
  std::fill(out.begin(), out.end(), std::byte{0});
}

Queue* ConsoleDevice::queue(unsigned index) const {
  return index < activation_.queues.size() ? activation_.queues[index] : nullptr;
}

Result<void> ConsoleDevice::activate(Activation activation) {
  activation_ = std::move(activation);
  // Nothing was typed: the driver need not tell us of each buffer that it adds.
  if (Queue* receive = queue(kReceiveQueue); receive != nullptr && typed_.empty())
    receive->set_notification(false);
  return {};
}

void ConsoleDevice::suspend() {
  activation_ = {};
  if (timer_) loop_.cancel_timer(*timer_);
  timer_.reset();
}

void ConsoleDevice::reset() {
  suspend();
  is_printing_ = false;
  typed_.clear();
}

Result<void> ConsoleDevice::process_queue(unsigned index) {
  Queue* const kicked = queue(index);
  if (kicked == nullptr) return {};
  if (index == kReceiveQueue) return deliver(*kicked);
  if (index != kTransmitQueue || timer_) return {};
  return print(*kicked);
}

// ---- what the guest prints

Result<void> ConsoleDevice::print(Queue& queue) {
  queue.set_notification(false);  // we look by ourselves
  for (int pieces = 0; pieces < kPiecesPerTurn; ++pieces) {
    if (!is_printing_) {
      if (!TRY(queue.pop(printing_))) {
        queue.set_notification(true);
        // The driver may have added a buffer before it saw that.
        if (!queue.has_available()) return {};
        queue.set_notification(false);
        continue;
      }
      ++metrics_.requests;
      is_printing_ = true;
      printed_ = 0;
    }
    TRY(print_piece(queue));
  }
  continue_printing();
  return {};
}

Result<void> ConsoleDevice::print_piece(Queue& queue) {
  std::array<char, kMaxPiece> bytes;
  // After a pause the chain is an old one in what may be another memory: it is checked again here.
  const size_t size = std::min<size_t>(printing_.readable_size - printed_, bytes.size());
  TRY(activation_.memory->read_ranges(printing_.readable, printed_,
                                      std::as_writable_bytes(std::span(bytes.data(), size))));
  printed_ += static_cast<uint32_t>(size);
  if (printed_ == printing_.readable_size) {
    is_printing_ = false;
    // §5.3.6.2: a transmit buffer is the device's to read; there is nothing to put into it.
    if (printing_.writable_size != 0) ++metrics_.failed_requests;
    // Linux spins until it has its buffer back, with interrupts off in a panic. So it gets it as
    // soon as the bytes are copied, and not when the output has dealt with them.
    TRY(queue.push_used(printing_.head, 0));
    if (queue.needs_interrupt()) activation_.interrupt(kTransmitQueue);
  }
  metrics_.bytes_from_guest += size;
  if (size != 0) output_(std::string_view(bytes.data(), size));
  return {};
}

void ConsoleDevice::continue_printing() {
  timer_ = loop_.add_timer(0, [this] {
    timer_.reset();
    report(kTransmitQueue, process_queue(kTransmitQueue));
  });
}

// ---- what is typed

size_t ConsoleDevice::type(std::string_view bytes) {
  bytes = bytes.substr(0, kMaxTyped - typed_.size());
  typed_.append(bytes);
  if (Queue* receive = queue(kReceiveQueue); receive != nullptr)
    report(kReceiveQueue, deliver(*receive));
  return bytes.size();
}

Result<void> ConsoleDevice::deliver(Queue& queue) {
  size_t given = 0;
  const auto result = fill_buffers(queue, given);
  typed_.erase(0, given);
  if (result && queue.needs_interrupt()) activation_.interrupt(kReceiveQueue);
  return result;
}

// `given`: how many of the typed bytes the guest has got.
Result<void> ConsoleDevice::fill_buffers(Queue& queue, size_t& given) {
  queue.set_notification(false);
  // Each turn of the loop takes a byte at least, so it ends.
  while (given < typed_.size()) {
    if (!TRY(queue.pop(input_chain_))) {
      queue.set_notification(true);
      if (!queue.has_available()) break;
      queue.set_notification(false);
      continue;
    }
    ++metrics_.requests;
    // §5.3.6.1: the driver populates the queue with buffers to receive into.
    if (input_chain_.writable_size == 0) {
      ++metrics_.failed_requests;
      return invalid_argument("the guest's console driver sent a receive buffer without room");
    }
    const size_t size = std::min<size_t>(typed_.size() - given, input_chain_.writable_size);
    TRY(activation_.memory->write_ranges(input_chain_.writable, 0,
                                         as_bytes(std::string_view(typed_).substr(given, size))));
    given += size;
    metrics_.bytes_to_guest += size;
    TRY(queue.push_used(input_chain_.head, static_cast<uint32_t>(size)));
  }
  return {};
}

// For what happens when nobody called who could be told.
void ConsoleDevice::report(unsigned index, const Result<void>& result) const {
  if (!result && activation_.broken) activation_.broken(index, result.error());
}

}  // namespace kiln::vmm
