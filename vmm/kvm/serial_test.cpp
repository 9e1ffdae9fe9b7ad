// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/serial.h"

#include <gtest/gtest.h>
#include <linux/serial_reg.h>

#include <string>

namespace kiln::vmm {
namespace {

class SerialTest : public ::testing::Test {
 protected:
  std::string output_;
  int interrupts_ = 0;
  Serial port_{[this](std::string_view text) { output_ += text; }, [this] { ++interrupts_; }};
};

TEST_F(SerialTest, PassesOnWhatIsWritten) {
  for (const char c : std::string("ok\n")) port_.write(UART_TX, static_cast<uint8_t>(c));
  EXPECT_EQ(output_, "ok\n");
  EXPECT_EQ(interrupts_, 0);
}

TEST_F(SerialTest, IsAlwaysReadyForMore) {
  EXPECT_EQ(port_.read(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE);
}

TEST_F(SerialTest, InterruptsOnceItIsAskedTo) {
  port_.write(UART_IER, UART_IER_THRI);
  EXPECT_EQ(interrupts_, 1);
  EXPECT_EQ(port_.read(UART_IIR), UART_IIR_THRI);
  EXPECT_EQ(port_.read(UART_IIR), UART_IIR_NO_INT);
  port_.write(UART_TX, 'x');
  EXPECT_EQ(interrupts_, 2);
}

TEST_F(SerialTest, KeepsTheDivisorApartFromTheData) {
  port_.write(UART_LCR, UART_LCR_DLAB);
  port_.write(UART_DLL, 1);
  port_.write(UART_DLM, 2);
  EXPECT_EQ(port_.read(UART_DLL), 1);
  EXPECT_EQ(port_.read(UART_DLM), 2);
  EXPECT_EQ(output_, "");
  port_.write(UART_LCR, 0);
  EXPECT_EQ(port_.read(UART_IER), 0);
}

TEST_F(SerialTest, SaysNothingInLoopback) {
  port_.write(UART_MCR, UART_MCR_LOOP);
  port_.write(UART_TX, 'x');
  EXPECT_EQ(output_, "");
}

TEST_F(SerialTest, HasNothingBehindItsPorts) { EXPECT_EQ(port_.read(8), 0xff); }

}  // namespace
}  // namespace kiln::vmm
