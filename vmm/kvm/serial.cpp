// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/serial.h"

#include <linux/serial_reg.h>

namespace kiln::vmm {

uint8_t Serial::read(unsigned offset) {
  const std::lock_guard lock(mutex_);
  const bool divisor = (line_control_ & UART_LCR_DLAB) != 0;
  switch (offset) {
    case UART_RX:
      return divisor ? divisor_low_ : 0;
    case UART_IER:
      return divisor ? divisor_high_ : interrupt_enable_;
    case UART_IIR: {
      if (!transmitter_pending_) return UART_IIR_NO_INT;
      transmitter_pending_ = false;  // reading it is what answers this one
      return UART_IIR_THRI;
    }
    case UART_LCR:
      return line_control_;
    case UART_MCR:
      return modem_control_;
    case UART_LSR:
      return UART_LSR_TEMT | UART_LSR_THRE;
    case UART_MSR:
      return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
    case UART_SCR:
      return scratch_;
    default:
      return 0xff;
  }
}

void Serial::write(unsigned offset, uint8_t value) {
  const std::lock_guard lock(mutex_);
  const bool divisor = (line_control_ & UART_LCR_DLAB) != 0;
  switch (offset) {
    case UART_TX:
      if (divisor) {
        divisor_low_ = value;
      } else {
        transmit(value);
      }
      return;
    case UART_IER:
      if (divisor) {
        divisor_high_ = value;
        return;
      }
      interrupt_enable_ = value & 0x0f;
      return raise_if_wanted();
    case UART_LCR:
      line_control_ = value;
      return;
    case UART_MCR:
      modem_control_ = value;
      return;
    case UART_SCR:
      scratch_ = value;
      return;
    default:
      return;
  }
}

void Serial::transmit(uint8_t value) {
  // In loopback the line is cut; drivers that look for their port use it.
  if ((modem_control_ & UART_MCR_LOOP) == 0) {
    const char character = static_cast<char>(value);
    output_({&character, 1});
  }
  raise_if_wanted();
}

void Serial::raise_if_wanted() {
  transmitter_pending_ = (interrupt_enable_ & UART_IER_THRI) != 0;
  if (transmitter_pending_ && interrupt_) interrupt_();
}

}  // namespace kiln::vmm
