// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "vmm/virtio/device.h"

namespace kiln::vmm {

// The console device (virtio 1.2 §5.3) with its one port: what the guest prints, and what is typed
// to it. Lives on the loop's thread. The guest's bytes are handed on as they are; whoever shows
// them to a person or a terminal must expect anything in them.
class ConsoleDevice : public VirtioDevice {
 public:
  // Never more than this in one call of `output`.
  static constexpr size_t kMaxPiece = 4096;
  // What was typed and is not read by the guest.
  static constexpr size_t kMaxTyped = 64U << 10;
  using Output = std::function<void(std::string_view bytes)>;  // guest-controlled

  // `loop` must outlive the device. `output` must not block and must not call the device: the guest
  // prints its last words through it.
  static Result<std::unique_ptr<ConsoleDevice>> create(EventLoop& loop, Output output);
  ~ConsoleDevice() override;

  // Gives the guest what was typed, now or when it has buffers. How many bytes were taken: those
  // that would make more than kMaxTyped wait are not.
  size_t type(std::string_view bytes);

  DeviceType type() const override { return DeviceType::kConsole; }
  // No MULTIPORT, no SIZE: the guest's terminals are on vsock streams.
  uint64_t features() const override { return 0; }
  std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  Result<void> activate(Activation activation) override;
  Result<void> process_queue(unsigned index) override;
  void reset() override;
  void suspend() override;
  DeviceMetrics metrics() const override { return metrics_; }

 private:
  ConsoleDevice(EventLoop& loop, Output output) : loop_(loop), output_(std::move(output)) {}
  Queue* queue(unsigned index) const;
  Result<void> print(Queue& queue);
  Result<void> print_piece(Queue& queue);
  Result<void> deliver(Queue& queue);
  Result<void> fill_buffers(Queue& queue, size_t& given);
  void report(unsigned index, const Result<void>& result) const;
  void continue_printing();

  EventLoop& loop_;
  Output output_;
  Activation activation_;  // empty while the device is not active
  std::optional<EventLoop::TimerId> timer_;
  std::string typed_;
  DeviceMetrics metrics_;
  // The chain that is being printed, and how far it has been.
  DescriptorChain printing_;
  bool is_printing_ = false;
  uint32_t printed_ = 0;
  DescriptorChain input_chain_;  // scratch whose capacity is kept
};

}  // namespace kiln::vmm
