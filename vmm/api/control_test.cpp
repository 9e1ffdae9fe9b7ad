// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/control.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace kiln::vmm {
namespace {

VmConfig example() {
  VmConfig config;
  config.backend = Backend::kQemu;
  config.machine = {4, 512, true};
  config.boot_source = {"/guest/vmlinux", "/guest/initramfs.cpio", "loglevel=7"};
  config.vsock = {17, "/run/kiln/c1/vsock"};
  config.fs = {{"kiln", 9}, {"other", 11}};
  config.machine.huge_pages = true;
  config.machine.spare_slots = 3;
  config.drives = {{"root", 13, true, {{1000, 500, 100}, {}}}};
  config.network_interfaces = {{"eth0", 15, "02:00:00:00:00:01", 9000, {}, {{}, {7, 0, 10}}}};
  config.balloon = {true, 64, false, 5, true};
  config.entropy.present = true;
  config.console = true;
  config.start = false;
  config.qemu_binary = "/opt/qemu";
  config.qemu_accel = "tcg";
  return config;
}

TEST(BootDocument, ComesBackAsItWasWritten) {
  const auto parsed = parse_boot_document(boot_document(example()));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(boot_document(*parsed), boot_document(example()));
  EXPECT_EQ(parsed->backend, Backend::kQemu);
  EXPECT_EQ(parsed->machine.vcpu_count, 4U);
  EXPECT_TRUE(parsed->machine.nested);
  EXPECT_EQ(parsed->vsock.guest_cid, 17U);
}

TEST(BootDocument, KeepsDevicesOfTheBuiltInMachine) {
  const auto parsed = parse_boot_document(boot_document(example()));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->drives.size(), 1U);
  EXPECT_TRUE(parsed->drives[0].is_read_only);
  EXPECT_EQ(parsed->drives[0].rate_limiter.bandwidth.one_time_burst, 500U);
  EXPECT_EQ(parsed->drives[0].rate_limiter.ops.size, 0U);
  ASSERT_EQ(parsed->network_interfaces.size(), 1U);
  EXPECT_EQ(parsed->network_interfaces[0].mtu, 9000U);
  EXPECT_EQ(parsed->network_interfaces[0].tx_rate_limiter.ops.refill_time_ms, 10U);
  EXPECT_EQ(parsed->balloon.stats_polling_interval_s, 5U);
  EXPECT_FALSE(parsed->balloon.deflate_on_oom);
  EXPECT_TRUE(parsed->entropy.present);
  EXPECT_TRUE(parsed->console);
  EXPECT_FALSE(parsed->start);
  EXPECT_TRUE(parsed->machine.huge_pages);
  EXPECT_EQ(parsed->machine.spare_slots, 3U);
}

TEST(BootDocument, MayLeaveOutWhatOnlyTheBuiltInMachineHas) {
  Json document = boot_document(example());
  for (const char* member :
       {"drives", "network-interfaces", "balloon", "entropy", "console", "start"})
    document.erase(member);
  const auto parsed = parse_boot_document(document);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_TRUE(parsed->drives.empty());
  EXPECT_FALSE(parsed->balloon.present);
  EXPECT_FALSE(parsed->entropy.present);
  EXPECT_TRUE(parsed->start);
}

TEST(BootDocument, NumbersShareDescriptorsByPlace) {
  const auto parsed = parse_boot_document(boot_document(example()));
  ASSERT_TRUE(parsed);
  ASSERT_EQ(parsed->fs.size(), 2U);
  EXPECT_EQ(parsed->fs[0].vhost_user_fd, kVmFirstFsFd);
  EXPECT_EQ(parsed->fs[1].vhost_user_fd, kVmFirstFsFd + 1);
  EXPECT_EQ(parsed->drives[0].fd, kVmFirstFsFd + 2);
  EXPECT_EQ(parsed->network_interfaces[0].tap_fd, kVmFirstFsFd + 3);
  EXPECT_EQ(boot_descriptors(example()), (std::vector<int>{9, 11, 13, 15}));
}

struct BrokenDocument {
  const char* pointer;
  Json value;  // null: the member is taken away
  const char* message;
};

class BrokenBootDocument : public ::testing::TestWithParam<BrokenDocument> {};

TEST_P(BrokenBootDocument, IsRefusedByPointer) {
  Json document = boot_document(example());
  document[Json::json_pointer(GetParam().pointer)] = GetParam().value;
  const auto parsed = parse_boot_document(document);
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().message, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenBootDocument,
    ::testing::Values(
        BrokenDocument{"/backend", "xen", "boot document: /backend: unknown, is `xen`"},
        BrokenDocument{"/backend", 3, "boot document: /backend: must be a string"},
        BrokenDocument{"/machine-config/vcpu_count", 0,
                       "boot document: /machine-config/vcpu_count: must be a number"},
        BrokenDocument{
            "/machine-config/vcpu_count", 65U,
            "boot document: /machine-config/vcpu_count: must be between 1 and 64, is 65"},
        BrokenDocument{
            "/machine-config/mem_size_mib", 63U,
            "boot document: /machine-config/mem_size_mib: must be between 64 and 16777216, is 63"},
        BrokenDocument{"/machine-config/nested", "yes",
                       "boot document: /machine-config/nested: must be true or false"},
        BrokenDocument{"/machine-config", nullptr,
                       "boot document: /machine-config/vcpu_count: must be a number"},
        BrokenDocument{"/boot-source/initrd_path", nullptr,
                       "boot document: /boot-source/initrd_path: must be a string"},
        BrokenDocument{"/vsock/guest_cid", 2U,
                       "boot document: /vsock/guest_cid: must be between 3 and 4294967294, is 2"},
        BrokenDocument{"/fs", "kiln", "boot document: /fs: must be a list of at most 16 shares"},
        BrokenDocument{"/drives/0/drive_id", "",
                       "boot document: /drives/0/drive_id: must have 1 to 64 bytes"},
        BrokenDocument{"/drives/0/rate_limiter/bandwidth/refill_time", 0U,
                       "boot document: /drives/0/rate_limiter/bandwidth/refill_time: must be "
                       "between 1 and 18446744073709551615, is 0"},
        BrokenDocument{"/network-interfaces/0/mtu", 67U,
                       "boot document: /network-interfaces/0/mtu: must be between 68 and 65535, "
                       "is 67"},
        BrokenDocument{"/machine-config/spare_slots", 17U,
                       "boot document: /machine-config/spare_slots: must be between 0 and 16, "
                       "is 17"},
        BrokenDocument{"/balloon/amount_mib", "much",
                       "boot document: /balloon/amount_mib: must be a number"},
        BrokenDocument{"/fs/0/tag", std::string(37, 'x'),
                       "boot document: /fs/0/tag: must have 1 to 36 bytes"}));

TEST(ExitReason, HasOneNameEach) {
  using Reason = VmExit::Reason;
  for (const Reason reason :
       {Reason::kPoweroff, Reason::kReset, Reason::kPanic, Reason::kStopped, Reason::kCrashed}) {
    const auto parsed = parse_exit_reason(name_of(reason));
    ASSERT_TRUE(parsed);
    EXPECT_EQ(*parsed, reason);
  }
  EXPECT_FALSE(parse_exit_reason("bored"));
}

TEST(ChooseBackend, RefusesAnUnknownAccelerator) {
  const auto choice = choose_backend(Backend::kAuto, "hax");
  ASSERT_FALSE(choice);
  EXPECT_EQ(choice.error().message, "unknown accelerator `hax`: kvm or tcg");
}

TEST(ChooseBackend, TakesTheAcceleratorAsked) {
  const auto choice = choose_backend(Backend::kQemu, "tcg");
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->qemu_accel, "tcg");
  EXPECT_EQ(choice->backend, Backend::kQemu);
}

TEST(ChooseBackend, SaysWhatItFound) {
  const auto choice = choose_backend(Backend::kAuto, "");
  ASSERT_TRUE(choice);
  EXPECT_FALSE(choice->reason.empty());
  EXPECT_EQ(choice->qemu_accel, choice->hardware_virtualization ? "kvm" : "tcg");
}

}  // namespace
}  // namespace kiln::vmm
