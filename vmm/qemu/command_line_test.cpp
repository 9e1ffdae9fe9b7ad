// SPDX-License-Identifier: Apache-2.0
#include "vmm/qemu/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kiln::vmm {
namespace {

VmConfig example() {
  VmConfig config;
  config.machine = {2, 384, false};
  config.boot_source = {"/guest/vmlinux", "/guest/initramfs.cpio", ""};
  return config;
}

// The value after `option`; empty without it.
std::string value_of(const std::vector<std::string>& arguments, const std::string& option) {
  for (size_t i = 0; i + 1 < arguments.size(); ++i) {
    if (arguments[i] == option) return arguments[i + 1];
  }
  return {};
}

TEST(QemuArguments, SizeTheMachineAndShareItsMemory) {
  const auto arguments = qemu_arguments(example(), "tcg", 0);
  ASSERT_TRUE(arguments);
  EXPECT_EQ(value_of(*arguments, "-smp"), "2");
  EXPECT_EQ(value_of(*arguments, "-m"), "384M");
  EXPECT_EQ(value_of(*arguments, "-object"), "memory-backend-memfd,id=mem,size=384M,share=on");
}

TEST(QemuArguments, TellTheEmulatedGuestItsClockRate) {
  const auto emulated = qemu_arguments(example(), "tcg", 2445434);
  const auto native = qemu_arguments(example(), "kvm", 2445434);
  ASSERT_TRUE(emulated);
  ASSERT_TRUE(native);
  EXPECT_THAT(value_of(*emulated, "-append"), ::testing::HasSubstr(" tsc_early_khz=2445434"));
  EXPECT_THAT(value_of(*native, "-append"), ::testing::Not(::testing::HasSubstr("tsc_early")));
}

TEST(QemuArguments, AppendBootArguments) {
  VmConfig config = example();
  config.boot_source.boot_args = "kiln.debug";
  const auto arguments = qemu_arguments(config, "tcg", 0);
  ASSERT_TRUE(arguments);
  EXPECT_THAT(value_of(*arguments, "-append"), ::testing::EndsWith(" kiln.debug"));
}

TEST(QemuArguments, KeepAShareTagFromBecomingAnOption) {
  VmConfig config = example();
  config.fs = {{"a,chardev=qmp", 7}};
  const auto arguments = qemu_arguments(config, "tcg", 0);
  ASSERT_TRUE(arguments);
  EXPECT_THAT(*arguments, ::testing::Contains("vhost-user-fs-device,chardev=fs0,"
                                              "tag=a,,chardev=qmp,queue-size=256"));
  EXPECT_THAT(*arguments, ::testing::Contains("socket,id=fs0,fd=6"));
}

TEST(QemuArguments, HideVirtualizationUnlessAsked) {
  VmConfig config = example();
  EXPECT_EQ(value_of(*qemu_arguments(config, "tcg", 0), "-cpu"), "max,-svm");
  config.machine.nested = true;
  EXPECT_EQ(value_of(*qemu_arguments(config, "tcg", 0), "-cpu"), "EPYC,+svm,+npt");
}

TEST(QemuArguments, RefuseAnUnknownAccelerator) {
  EXPECT_FALSE(qemu_arguments(example(), "hax", 0));
}

TEST(TscRate, IsMeasuredTheSameTwice) {
  const uint64_t first = tsc_khz_since(sample_tsc());
  const uint64_t second = tsc_khz_since(sample_tsc());
  EXPECT_GT(first, 100'000U);
  // One part in a thousand: two measurements of one crystal, however loaded the machine.
  EXPECT_NEAR(static_cast<double>(first), static_cast<double>(second),
              static_cast<double>(first) / 1000);
}

}  // namespace
}  // namespace kiln::vmm
