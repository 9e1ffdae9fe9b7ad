// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_dir.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "runtime/container_delete.h"

namespace kiln::runtime {
namespace {

ContainerRecord record_of(const std::string& id) {
  ContainerRecord record;
  record.state.oci_version = "1.2.1";
  record.state.id = id;
  record.state.status = "running";
  record.state.bundle = "/bundle";
  record.process.args = {"true"};
  record.process.cwd = "/";
  return record;
}

class ContainerDirTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/kiln-dir-XXXXXX";
    root_ = mkdtemp(name.data());
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string root_;
};

TEST_F(ContainerDirTest, OnlyTheFirstOfTwoCreatesWins) {
  const auto first = ContainerDir::create(root_, "c1");
  ASSERT_TRUE(first);
  const auto second = ContainerDir::create(root_, "c1");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().message, "container with given ID already exists");
}

TEST_F(ContainerDirTest, BadIdsAreRefused) {
  for (const char* id : {"", ".", "..", "a/b", "a b", "a\n", "\xc3\xa4"})
    EXPECT_FALSE(ContainerDir::create(root_, id)) << id;
  EXPECT_FALSE(check_container_id(std::string(256, 'x')));
  EXPECT_TRUE(check_container_id("A_b+c-d.9"));
}

TEST_F(ContainerDirTest, TheLockKeepsOthersOutUntilItIsGone) {
  auto creator = ContainerDir::create(root_, "c1");
  auto other = ContainerDir::open(root_, "c1");
  EXPECT_FALSE(*other->try_lock());
  creator->unlock();
  EXPECT_TRUE(*other->try_lock());
}

TEST_F(ContainerDirTest, TheCgroupOutlivesADamagedRecord) {
  auto dir = *ContainerDir::create(root_, "c1");
  EXPECT_FALSE(dir.read_cgroup());
  const HostCgroup cgroup{true, {{"", root_ + "/cgroup"}}, "", false};
  std::filesystem::create_directories(root_ + "/cgroup");
  ASSERT_TRUE(dir.write_cgroup(cgroup));
  EXPECT_EQ(dir.read_cgroup()->directories, cgroup.directories);
  ASSERT_TRUE(write_file_atomic(dir.file("state.json"), "{", 0600));
  dir.unlock();
  ASSERT_TRUE(delete_container(root_, "c1", true));
  EXPECT_FALSE(std::filesystem::exists(root_ + "/cgroup"));
  EXPECT_FALSE(dir.still_there());
}

TEST_F(ContainerDirTest, TheRecordComesBackAsItWas) {
  auto dir = *ContainerDir::create(root_, "c1");
  ContainerRecord record = record_of("c1");
  record.state.pid = getpid();
  record.monitor_start_time = identify_process(getpid())->start_time;
  record.poststop_due = true;
  record.helpers = {{12, 34}};
  oci::Hook hook;
  hook.path = "/bin/true";
  hook.timeout = 3;
  record.poststop = {hook};
  record.exit_code = 42;
  record.state.annotations = {{"key", "value"}};
  record.cgroup = {false, {{"", "/v2"}, {"memory", "/m"}}, "kiln-c1.scope", true};
  record.machine = {160, 40};
  record.vcpus = 3;
  record.resources.pids.emplace().limit = 5;
  ASSERT_TRUE(dir.write_record(record));
  const auto back = dir.read_record();
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(encode_record(*back), encode_record(record));
  EXPECT_EQ(back->poststop.front().timeout, 3);
  EXPECT_EQ(back->cgroup.directories, record.cgroup.directories);
  EXPECT_EQ(back->machine.overhead_mib, 40U);
  EXPECT_EQ(back->resources.pids->limit, 5);
  EXPECT_EQ(dir.current_record()->state.status, "running");
}

TEST_F(ContainerDirTest, WithoutItsMonitorAContainerIsStopped) {
  auto dir = *ContainerDir::create(root_, "c1");
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  ContainerRecord record = record_of("c1");
  record.state.pid = pid;
  record.monitor_start_time = identify_process(pid)->start_time;
  ASSERT_TRUE(dir.write_record(record));
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(dir.current_record()->state.status, "stopped") << "a zombie has ended";
  waitpid(pid, nullptr, 0);
  EXPECT_EQ(dir.current_record()->state.status, "stopped");
  EXPECT_EQ(dir.current_record()->state.pid, 0);
}

TEST_F(ContainerDirTest, ANewProcessWithTheMonitorsPidIsNotTheMonitor) {
  ProcessId self = *identify_process(getpid());
  EXPECT_TRUE(is_alive(self));
  self.start_time += 1;
  EXPECT_FALSE(is_alive(self));
  EXPECT_TRUE(kill_process(self, 10)) << "and is not killed in its place";
}

TEST_F(ContainerDirTest, ForcedDeleteTakesAnyHalfMadeStateTwice) {
  { const auto dir = ContainerDir::create(root_, "empty"); }
  {
    const auto dir = ContainerDir::create(root_, "damaged");
    ASSERT_TRUE(write_file_atomic(dir->file("state.json"), "{\"kiln\":", 0600));
  }
  for (const char* id : {"empty", "damaged", "never-existed"}) {
    EXPECT_TRUE(delete_container(root_, id, true)) << id;
    EXPECT_TRUE(delete_container(root_, id, true)) << id;
  }
  EXPECT_TRUE(std::filesystem::is_empty(root_));
}

TEST_F(ContainerDirTest, DeleteRefusesWhatRuns) {
  {
    auto dir = ContainerDir::create(root_, "c1");
    ContainerRecord record = record_of("c1");
    record.state.pid = getpid();
    record.monitor_start_time = identify_process(getpid())->start_time;
    ASSERT_TRUE(dir->write_record(record));
  }
  const auto refused = delete_container(root_, "c1", false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "cannot delete container c1 that is not stopped: running");
  EXPECT_EQ(delete_container(root_, "c2", false).error().message, "container does not exist");
}

TEST_F(ContainerDirTest, ListIsSortedAndSkipsWhatIsNoContainer) {
  const auto b = ContainerDir::create(root_, "b");
  const auto a = ContainerDir::create(root_, "a");
  std::filesystem::create_directory(root_ + "/not an id");
  EXPECT_EQ(*list_containers(root_), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(list_containers(root_ + "/absent")->empty());
}

}  // namespace
}  // namespace kiln::runtime
