// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/ioapic.h"

#include <gtest/gtest.h>

namespace kiln::vmm {
namespace {

constexpr unsigned kPins = 8;

class IoApicTest : public ::testing::Test {
 protected:
  uint32_t get(uint32_t index) {
    chip_.write(0x00, index);
    return chip_.read(0x10);
  }
  void set(uint32_t index, uint32_t value) {
    chip_.write(0x00, index);
    chip_.write(0x10, value);
  }
  void open_pin(unsigned pin, uint32_t low, uint32_t high = 0) {
    set(0x11 + 2 * pin, high);
    set(0x10 + 2 * pin, low);
  }

  std::vector<kvm_irq_routing_entry> routes_;
  int updates_ = 0;
  IoApic chip_{kPins, [this](std::span<const kvm_irq_routing_entry> routes) {
                 routes_.assign(routes.begin(), routes.end());
                 ++updates_;
               }};
};

TEST_F(IoApicTest, SaysItsVersionAndItsLastPin) { EXPECT_EQ(get(0x01), 0x0007'0011U); }

TEST_F(IoApicTest, StartsWithEveryPinMasked) {
  for (unsigned pin = 0; pin < kPins; ++pin) EXPECT_EQ(get(0x10 + 2 * pin), 0x1'0000U);
  EXPECT_EQ(updates_, 0);
}

TEST_F(IoApicTest, KeepsTheIdBitsOfItsId) {
  set(0x00, 0xffff'ffff);
  EXPECT_EQ(get(0x00), 0x0f00'0000U);
}

TEST_F(IoApicTest, TurnsAnOpenPinIntoAMessage) {
  open_pin(5, 0x0000'0931, 0x0300'0000);  // vector 0x31, lowest priority, logical, CPUs 0 and 1
  ASSERT_EQ(routes_.size(), 1U);
  EXPECT_EQ(routes_[0].gsi, 5U);
  EXPECT_EQ(routes_[0].type, unsigned{KVM_IRQ_ROUTING_MSI});
  EXPECT_EQ(routes_[0].u.msi.address_lo, 0xfee0'3004U);
  EXPECT_EQ(routes_[0].u.msi.data, 0x0131U);
}

TEST_F(IoApicTest, LeavesOutTheTriggerMode) {
  open_pin(1, 0x0000'8040);
  ASSERT_EQ(routes_.size(), 1U);
  EXPECT_EQ(routes_[0].u.msi.data, 0x40U);
  EXPECT_EQ(get(0x12), 0x8040U);
}

TEST_F(IoApicTest, RoutesOnlyWhenAnOpenPinChanges) {
  open_pin(2, 0x1'0022);  // masked
  EXPECT_EQ(updates_, 0);
  open_pin(2, 0x0'0022);
  EXPECT_EQ(updates_, 1);
  open_pin(2, 0x0'0022);
  EXPECT_EQ(updates_, 1);
  open_pin(2, 0x1'0022);
  EXPECT_EQ(updates_, 2);
  EXPECT_TRUE(routes_.empty());
}

TEST_F(IoApicTest, IgnoresWhatIsNotThere) {
  set(0x10 + 2 * kPins, 0x21);
  set(0xff, 0x21);
  set(0x05, 0x21);
  chip_.write(0x20, 0x21);
  chip_.write(0xffc, 0x21);
  EXPECT_EQ(updates_, 0);
  EXPECT_EQ(get(0x10 + 2 * kPins), 0U);
  EXPECT_EQ(get(0xff), 0U);
  EXPECT_EQ(chip_.read(0x20), 0U);
}

TEST_F(IoApicTest, KeepsReadOnlyBitsClear) {
  open_pin(0, 0x1'5030);
  EXPECT_EQ(get(0x10), 0x1'0030U);
}

}  // namespace
}  // namespace kiln::vmm
