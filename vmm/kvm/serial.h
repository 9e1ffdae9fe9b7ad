// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string_view>

namespace kiln::vmm {

// A 16550's transmitter (National Semiconductor's PC16550D datasheet), whose line is never busy.
// Always there, for a kernel's early console: it is silent unless the kernel has errors to report,
// and then it is the only witness. Called on vCPU threads; what is written is guest-controlled.
class Serial {
 public:
  // `output`: on vCPU threads, one at a time. `interrupt`: raises the interrupt.
  Serial(std::function<void(std::string_view)> output, std::function<void()> interrupt)
      : output_(std::move(output)), interrupt_(std::move(interrupt)) {}

  uint8_t read(unsigned offset);
  void write(unsigned offset, uint8_t value);

  static constexpr unsigned kPorts = 8;

 private:
  void transmit(uint8_t value);
  // The transmitter is empty as soon as it is full: whoever waits for that is told (§8.5).
  void raise_if_wanted();

  std::mutex mutex_;
  const std::function<void(std::string_view)> output_;
  const std::function<void()> interrupt_;
  uint8_t interrupt_enable_ = 0;
  bool transmitter_pending_ = false;  // of the interrupt identification
  uint8_t line_control_ = 0;
  uint8_t modem_control_ = 0;
  uint8_t scratch_ = 0;
  uint8_t divisor_low_ = 12;  // 9600 baud
  uint8_t divisor_high_ = 0;
};

}  // namespace kiln::vmm
