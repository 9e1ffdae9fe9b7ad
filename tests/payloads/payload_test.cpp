// SPDX-License-Identifier: Apache-2.0
// The built-in machine, driven through real exits by guests that mean well and guests that do not.
// What they check is in their own sources; here is what stands behind their devices, and how they
// end.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "tests/payloads/backends.h"
#include "tests/payloads/payload_vm.h"
#include "vmm/api/fs_server.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kDiskSize = 1U << 20;

class Payload : public testing::Test {
 protected:
  void SetUp() override {
    if (access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "/dev/kvm cannot be opened";
    ASSERT_FALSE(vmm_binary().empty()) << "KILN_VMM and KILN_PAYLOADS say what to run";
    ASSERT_FALSE(directory_.path().empty());
    config_.vsock.uds_path = directory_.path() + "/vsock";
  }

  void add_disk(bool read_only) {
    auto disk = make_disk(directory_.path(), kDiskSize, read_only);
    ASSERT_TRUE(disk) << disk.error().message;
    DriveConfig drive;
    drive.drive_id = read_only ? "read-only" : "payload-disk";
    drive.fd = disk->get();
    drive.is_read_only = read_only;
    config_.drives.push_back(drive);
    files_.push_back(std::move(*disk));
  }

  void start(const std::string& name, const std::string& arguments = "") {
    auto vm = PayloadVm::start(name, config_, arguments);
    ASSERT_TRUE(vm) << vm.error().message;
    vm_ = std::move(*vm);
  }

  // The payload's report: nothing failed, and it came to its end.
  void expect_all_good(size_t least_checks) {
    const std::string console = vm_->console();
    const PayloadReport report = parse_report(console);
    EXPECT_EQ(report.failed, std::vector<std::string>());
    EXPECT_GE(report.passed.size(), least_checks);
    EXPECT_TRUE(report.done) << console;
  }

  void expect_end(VmExit::Reason reason) {
    const auto ended = vm_->wait();
    ASSERT_TRUE(ended) << ended.error().message << "\n" << vm_->console();
    EXPECT_EQ(ended->reason, reason) << ended->detail << "\n" << vm_->console();
  }

  // Boots it, and expects a good report and a poweroff.
  void run(const std::string& name, size_t least_checks, const std::string& arguments = "") {
    ASSERT_NO_FATAL_FAILURE(start(name, arguments));
    ASSERT_NO_FATAL_FAILURE(expect_end(VmExit::Reason::kPoweroff));
    expect_all_good(least_checks);
  }

  TemporaryDirectory directory_;
  VmConfig config_;
  std::vector<UniqueFd> files_;
  std::unique_ptr<PayloadVm> vm_;
};

TEST_F(Payload, MachineIsAsDescribedAndPowersOff) { run("machine", 25); }

TEST_F(Payload, ResetEndsTheMachineWithItsReason) {
  ASSERT_NO_FATAL_FAILURE(start("machine", "end=reset"));
  expect_end(VmExit::Reason::kReset);
  expect_all_good(25);
}

TEST_F(Payload, TripleFaultEndsTheMachineAsAReset) {
  ASSERT_NO_FATAL_FAILURE(start("machine", "end=triple-fault"));
  expect_end(VmExit::Reason::kReset);
  expect_all_good(25);
}

TEST_F(Payload, HaltedMachineCanBeStopped) {
  ASSERT_NO_FATAL_FAILURE(start("machine", "end=halt"));
  ASSERT_TRUE(vm_->wait_for("done\n")) << vm_->console();
  const auto stopped = vm_->vm().stop();
  EXPECT_TRUE(stopped) << stopped.error().message;
  expect_end(VmExit::Reason::kStopped);
}

TEST_F(Payload, RngAnswersGoodAndBadDrivers) {
  config_.entropy.present = true;
  run("rng", 150);
  // Neither by a shortcut: the kernel has counted.
  const Json& metrics = vm_->vm().last_metrics();
  EXPECT_GT(metrics["exits"]["mmio_read"], 500) << metrics;
  EXPECT_GT(metrics["devices"][1]["requests"], 100) << metrics;
}

TEST_F(Payload, ConsoleAnswersGoodAndBadDrivers) {
  config_.console = true;
  ASSERT_NO_FATAL_FAILURE(run("console", 150));
  const std::string console = vm_->console();
  EXPECT_NE(console.find("\nconsole: all of this\n"), std::string::npos);
  EXPECT_NE(console.find("\n0123456\n"), std::string::npos);
}

TEST_F(Payload, BlockAnswersGoodAndBadDrivers) {
  ASSERT_NO_FATAL_FAILURE(add_disk(false));
  ASSERT_NO_FATAL_FAILURE(add_disk(true));
  run("block", 200, "capacity=2048");
  struct stat status {};
  ASSERT_EQ(fstat(files_[0].get(), &status), 0);
  EXPECT_EQ(static_cast<uint64_t>(status.st_size), kDiskSize);
}

TEST_F(Payload, BalloonAnswersGoodAndBadDrivers) {
  config_.balloon.present = true;
  config_.balloon.amount_mib = 3;
  config_.balloon.stats_polling_interval_s = 1;
  run("balloon", 170, "pages=768 polls-statistics");
}

TEST_F(Payload, NetAnswersGoodAndBadDrivers) {
  if (unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "no network namespace of its own: not root";
  auto tap = make_tap();
  ASSERT_TRUE(tap) << tap.error().message;
  NetworkInterfaceConfig nic;
  nic.iface_id = "eth0";
  nic.tap_fd = tap->get();
  nic.guest_mac = "02:00:00:00:00:15";
  nic.mtu = 1400;
  config_.network_interfaces.push_back(nic);
  run("net", 170, "mtu=1400");
}

TEST_F(Payload, VsockAnswersGoodAndBadDrivers) {
  auto echo = EchoServer::listen(config_.vsock.uds_path + "_5000");
  ASSERT_TRUE(echo) << echo.error().message;
  config_.vsock.guest_cid = 42;
  ASSERT_NO_FATAL_FAILURE(start("vsock", "cid=42 host-connects"));
  ASSERT_TRUE(vm_->wait_for("ready for the host\n")) << vm_->console();
  const auto answer = ask_guest(config_.vsock.uds_path, 4000, "ping", 4);
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(*answer, "pong");
  expect_end(VmExit::Reason::kPoweroff);
  expect_all_good(160);
}

TEST_F(Payload, FsAnswersGoodAndBadDrivers) {
  const auto server = FsServer::launch(vmm_binary(), STDERR_FILENO);
  ASSERT_TRUE(server) << server.error().message;
  const UniqueFd share(open(directory_.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const auto added = (*server)->add_entry("entry", share.get(), {});
  ASSERT_TRUE(added) << added.error().message;
  config_.fs.push_back({"kiln", (*server)->vhost_user_fd()});
  run("fs", 160);
}

TEST_F(Payload, FourProcessorsDriveFourDevicesAtOnce) {
  config_.machine.vcpu_count = 4;
  config_.console = true;
  config_.entropy.present = true;
  config_.balloon.present = true;
  ASSERT_NO_FATAL_FAILURE(add_disk(false));
  run("smp", 12);
}

TEST_F(Payload, PausesInMidFlightLoseNothing) {
  config_.machine.vcpu_count = 4;
  config_.console = true;
  config_.entropy.present = true;
  config_.balloon.present = true;
  ASSERT_NO_FATAL_FAILURE(add_disk(false));
  ASSERT_NO_FATAL_FAILURE(start("smp", "rounds=12"));
  size_t pauses = 0;
  // The last of them finds the machine gone.
  while (vm_->vm().pause() && vm_->vm().resume()) ++pauses;
  EXPECT_GE(pauses, 2U);
  expect_end(VmExit::Reason::kPoweroff);
  expect_all_good(12);
}

}  // namespace
}  // namespace kiln::vmm
