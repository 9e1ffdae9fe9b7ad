// SPDX-License-Identifier: Apache-2.0
#include "agent/core/server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/core/fake_guest.h"
#include "base/unix_socket.h"
#include "oci/parse.h"

namespace kiln::agent {
namespace {

Json container() { return {{"container", "c1"}}; }

TEST_F(ServerTest, SaysHelloFirst) {
  until([&] { return !messages_.empty(); }, "no message");
  ASSERT_TRUE(messages_.front().event);
  EXPECT_EQ(messages_.front().event->name, "hello");
  const auto hello = protocol::from_json<protocol::Hello>(messages_.front().event->params);
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->protocol_version, protocol::kProtocolVersion);
}

TEST_F(ServerTest, KnowsNoOtherMethod) {
  EXPECT_EQ(kind_of(ask("reformat", Json::object())), ErrorKind::kUnimplemented);
}

TEST_F(ServerTest, RefusesParametersThatItDoesNotKnow) {
  adopt();
  EXPECT_EQ(kind_of(ask("start", {{"container", "c1"}, {"fast", true}})),
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of(ask("shutdown", {{"fast", true}})), ErrorKind::kInvalidArgument);
}

TEST_F(ServerTest, PowersOffWhenTheHostSendsNonsense) {
  ASSERT_TRUE(send_frame(host_.get(), "{\"id\":"));
  until([&] { return state_.powered_off; }, "still on");
}

TEST_F(ServerTest, PowersOffWhenAFrameIsTooLong) {
  const uint32_t size = protocol::kMaxRequestBytes + 1;
  ASSERT_EQ(::send(host_.get(), &size, sizeof size, 0), static_cast<ssize_t>(sizeof size));
  until([&] { return state_.powered_off; }, "still on");
}

TEST_F(ServerTest, PowersOffWhenTheHostIsGone) {
  host_.reset();
  until([&] { return state_.powered_off; }, "still on");
}

TEST_F(ServerTest, TakesItsIdentityOnce) {
  ASSERT_FALSE(ask("sandbox", {{"hostname", "box"}, {"shareTag", "kiln"}}).error);
  EXPECT_EQ(state_.adopted->hostname, "box");
  EXPECT_EQ(state_.adopted->share_tag, "kiln");
  EXPECT_EQ(kind_of(ask("sandbox", {{"hostname", "other"}})), ErrorKind::kFailedPrecondition);
}

TEST_F(ServerTest, CorrectsItsClock) {
  ASSERT_FALSE(ask("clock", {{"realtimeNs", 1'700'000'000'000'000'000}}).error);
  EXPECT_EQ(state_.realtime_ns, 1'700'000'000'000'000'000);
  EXPECT_EQ(kind_of(ask("clock", Json::object())), ErrorKind::kInvalidArgument);
}

TEST_F(ServerTest, CreatesNothingBeforeItHasAnIdentity) {
  EXPECT_EQ(kind_of(create("true")), ErrorKind::kFailedPrecondition);
}

TEST_F(ServerTest, RefusesABadConfigWithItsPointer) {
  adopt();
  const auto reply = ask("create", {{"container", "c1"},
                                    {"config", {{"ociVersion", 1}}},
                                    {"rootfs", {{"entry", "r"}}},
                                    {"stdio", Json::object()}});
  ASSERT_TRUE(reply.error);
  EXPECT_NE(reply.error->message.find("/ociVersion"), std::string::npos) << reply.error->message;
}

TEST_F(ServerTest, MountsDrivesThatTheGuestFinds) {
  adopt();
  oci::Spec spec = oci::default_spec(false);
  spec.process->terminal = false;
  Json params = {{"container", "c1"},
                 {"config", oci::to_json(spec)},
                 {"rootfs", {{"drive", {{"id", "rootfs"}, {"type", "erofs"}, {"readOnly", true}}}}},
                 {"mountDrives", {{"0", {{"id", "lost"}, {"type", "ext4"}}}}},
                 {"stdio", Json::object()}};
  EXPECT_EQ(kind_of(ask("create", params)), ErrorKind::kNotFound);
  params["mountDrives"]["0"]["id"] = "mount-0";
  ASSERT_FALSE(ask("create", params).error);
  EXPECT_EQ(state_.root_device->device, "/dev/rootfs");
  EXPECT_EQ(state_.root_device->type, "erofs");
  EXPECT_TRUE(state_.root_device->read_only);
  EXPECT_EQ(state_.mount_devices.at(0).device, "/dev/mount-0");
}

// The fake guest's drives are files of this host's /dev, whose numbers are known.
TEST_F(ServerTest, GivesADriveThatIsADeviceTheGuestsNumber) {
  adopt();
  oci::Spec spec = oci::default_spec(false);
  spec.process->terminal = false;
  oci::Device device;
  device.type = "b";
  device.path = "/dev/disk";
  device.major = 7;
  device.minor = 9;
  spec.linux.devices = {device};
  spec.linux.resources.emplace().devices = {{true, "b", 7, 9, "rw"}, {true, "b", 7, 10, "rw"}};
  Json params = {{"container", "c1"},
                 {"config", oci::to_json(spec)},
                 {"rootfs", {{"entry", "rootfs"}}},
                 {"deviceDrives", {{"0", "null"}}},
                 {"stdio", Json::object()}};
  ASSERT_FALSE(ask("create", params).error);
  ASSERT_EQ(state_.devices.size(), 1U);
  EXPECT_EQ(state_.devices[0].major, 1);
  EXPECT_EQ(state_.devices[0].minor, 3);
  EXPECT_EQ(state_.device_rules.at(0).major, 1);
  EXPECT_EQ(state_.device_rules.at(1).minor, 10);
}

TEST_F(ServerTest, RefreshesVolumesOfAContainer) {
  adopt();
  oci::Spec spec = oci::default_spec(false);
  spec.process->terminal = false;
  protocol::CreateRequest request{"c1", oci::to_json(spec), {"rootfs"}, {{2, "mount-2"}}, {}};
  request.volume_versions = {{2, "..1"}};
  ASSERT_FALSE(ask("create", protocol::to_json(request)).error);
  EXPECT_EQ(state_.volume_versions, request.volume_versions);
  const Json refresh = protocol::to_json(protocol::RefreshRequest{"c1", 2, "..2"});
  ASSERT_FALSE(ask("refresh", refresh).error);
  EXPECT_EQ(state_.volume_versions.at(2), "..2");
  EXPECT_EQ(kind_of(ask("refresh", {{"container", "c2"}, {"mount", 2}, {"version", "..3"}})),
            ErrorKind::kNotFound);
}

TEST_F(ServerTest, ReleasesADriveThatNobodyHasAnyMore) {
  const Json release = protocol::to_json(protocol::ReleaseRequest{"c1-rootfs"});
  ASSERT_FALSE(ask("release", release).error);
  EXPECT_EQ(state_.released_drive, "c1-rootfs");
  EXPECT_EQ(kind_of(ask("release", {{"drive", "lost"}})), ErrorKind::kNotFound);
  EXPECT_EQ(kind_of(ask("release", {{"drive", "a/b"}})), ErrorKind::kInvalidArgument);
}

TEST_F(ServerTest, RefusesADeviceThatTheGuestCannotHave) {
  adopt();
  oci::Spec spec = oci::default_spec(false);
  oci::Device device;
  device.type = "c";
  device.path = "/dev/dri/card0";
  device.major = 226;
  spec.linux.devices = {device};
  protocol::CreateRequest request{"c1", oci::to_json(spec), {"rootfs"}, {}, {}};
  EXPECT_EQ(kind_of(ask("create", protocol::to_json(request))), ErrorKind::kUnimplemented);
}

TEST_F(ServerTest, SharesNamespacesOfContainersThatRun) {
  run("sleep 100");
  oci::Spec spec = oci::default_spec(false);
  spec.process->terminal = false;
  protocol::CreateRequest request{"c2", oci::to_json(spec), {"rootfs"}, {}, {}};
  request.shared = {{"ipc", "lost"}};
  EXPECT_EQ(kind_of(ask("create", protocol::to_json(request))), ErrorKind::kNotFound);
  request.shared = {{"ipc", "c1"}, {"uts", "c1"}};
  ASSERT_FALSE(ask("create", protocol::to_json(request)).error);
  EXPECT_EQ(state_.shared_types, CLONE_NEWIPC | CLONE_NEWUTS);
  ASSERT_FALSE(ask("signal", {{"container", "c1"}, {"signal", SIGKILL}}).error);
  wait_exit();
  request.container_id = "c3";
  EXPECT_EQ(kind_of(ask("create", protocol::to_json(request))), ErrorKind::kFailedPrecondition);
}

Json pod_request(const std::string& id, const std::string& hostname = "web") {
  oci::Spec config = oci::default_spec(false);
  config.hostname = hostname;
  return protocol::to_json(protocol::PodRequest{id, oci::to_json(config)});
}

TEST_F(ServerTest, MakesOnePodThatHasItsIdentity) {
  EXPECT_EQ(kind_of(ask("pod", pod_request("p1"))), ErrorKind::kFailedPrecondition);
  adopt();
  EXPECT_EQ(kind_of(ask("pod", pod_request("p1", "bad"))), ErrorKind::kInvalidArgument);
  ASSERT_FALSE(ask("pod", pod_request("p1")).error);
  EXPECT_EQ(state_.pod->hostname, "web");
  EXPECT_EQ(kind_of(ask("pod", pod_request("p2"))), ErrorKind::kAlreadyExists);
}

TEST_F(ServerTest, SharesThePodsNamespacesWithContainers) {
  adopt();
  ASSERT_FALSE(ask("pod", pod_request("p1")).error);
  oci::Spec spec = oci::default_spec(false);
  spec.process->terminal = false;
  protocol::CreateRequest request{"c2", oci::to_json(spec), {"rootfs"}, {}, {}};
  request.shared = {{"pid", "p1"}};
  EXPECT_EQ(kind_of(ask("create", protocol::to_json(request))), ErrorKind::kFailedPrecondition);
  request.shared = {{"ipc", "p1"}};
  ASSERT_FALSE(ask("create", protocol::to_json(request)).error);
  EXPECT_EQ(state_.shared_types, CLONE_NEWIPC);
  EXPECT_EQ(state_.shared_fds, std::vector<int>{FakeState::kPodIpc});
}

TEST_F(ServerTest, APodIsNoContainer) {
  adopt();
  ASSERT_FALSE(ask("pod", pod_request("c1")).error);
  EXPECT_EQ(kind_of(create("true")), ErrorKind::kAlreadyExists);
  for (const char* method : {"start", "delete", "pause", "processes"})
    EXPECT_EQ(kind_of(ask(method, {{"container", "c1"}})), ErrorKind::kNotFound) << method;
  state_.pod_stats.pids = 7;
  const auto stats = ask("stats", {{"container", "c1"}});
  ASSERT_FALSE(stats.error);
  EXPECT_EQ(protocol::from_json<protocol::StatsReply>(stats.result)->pids, 7U);
}

TEST_F(ServerTest, APodDoesNotHoldUpAShutdown) {
  adopt();
  ASSERT_FALSE(ask("pod", pod_request("p1")).error);
  EXPECT_FALSE(ask("shutdown", Json::object()).error);
}

TEST_F(ServerTest, ConfiguresTheNetwork) {
  adopt();
  ASSERT_FALSE(ask("network", {{"interfaces", Json::array()}}).error);
  EXPECT_TRUE(state_.network);
  EXPECT_EQ(kind_of(ask("network", {{"interfaces", 7}})), ErrorKind::kInvalidArgument);
}

TEST_F(ServerTest, LetsGoOfTheRootBeforeItTellsTheEnd) {
  run("exit 0");
  wait_exit();
  EXPECT_EQ(state_.roots_released, 1);
}

TEST_F(ServerTest, RefusesASecondContainerOfTheSameName) {
  run("sleep 100");
  EXPECT_EQ(kind_of(create("true")), ErrorKind::kAlreadyExists);
}

TEST_F(ServerTest, RunsNothingBeforeStart) {
  adopt();
  ASSERT_FALSE(create("echo ran").error);
  const UniqueFd output = dial("stdout");
  for (int i = 0; i < 5; ++i) turn();
  char byte = 0;
  EXPECT_EQ(recv(output.get(), &byte, 1, MSG_DONTWAIT), -1);
  start();
  EXPECT_EQ(drain(output), "ran\n");
}

TEST_F(ServerTest, TellsTheExitCode) {
  run("exit 42");
  const auto exit = wait_exit();
  EXPECT_EQ(exit.container_id, "c1");
  EXPECT_EQ(exit.exit_code, 42);
  EXPECT_EQ(exit.signal, 0);
  EXPECT_FALSE(exit.oom_killed);
  EXPECT_GT(exit.exited_at_ns, int64_t{1'700'000'000} * 1'000'000'000);
}

TEST_F(ServerTest, TellsTheSignal) {
  run("sleep 100");
  ASSERT_FALSE(ask("signal", {{"container", "c1"}, {"signal", SIGTERM}}).error);
  const auto exit = wait_exit();
  EXPECT_EQ(exit.signal, SIGTERM);
  EXPECT_EQ(exit.exit_code, 0);
}

TEST_F(ServerTest, AnswersStartWithTheFailureOfExecAndThenTellsTheEnd) {
  adopt();
  oci::Spec spec = oci::default_spec(false);
  spec.process->args = {"/no/such/program"};
  protocol::CreateRequest request{"c1", oci::to_json(spec), {"rootfs"}, {}, {}};
  ASSERT_FALSE(ask("create", protocol::to_json(request)).error);
  const auto reply = ask("start", container());
  ASSERT_TRUE(reply.error);
  EXPECT_EQ(reply.error->sys_errno, ENOENT);
  EXPECT_EQ(wait_exit().exit_code, 127);
  EXPECT_TRUE(messages_.back().event);  // after the reply
}

TEST_F(ServerTest, StartsOnce) {
  run("sleep 100");
  EXPECT_EQ(kind_of(ask("start", container())), ErrorKind::kFailedPrecondition);
}

TEST_F(ServerTest, TellsTheEndOfInitAfterEveryOtherProcess) {
  run("sleep 1000 & sleep 1000 & exit 3");
  EXPECT_EQ(wait_exit().exit_code, 3);
  EXPECT_EQ(ask("processes", container()).result.at("processes").size(), 0U);
}

TEST_F(ServerTest, EndsStreamsThatABackgroundProcessHeldOpen) {
  run("echo early; sleep 1000 & exit 0");
  wait_exit();
  EXPECT_EQ(drain(dial("stdout")), "early\n");
}

class ServerSyncTest : public ServerTest {
 protected:
  // A container that has ended, but for its sync: that waits for a byte.
  UniqueFd end_in_a_sync() {
    std::array<int, 2> gate{};
    EXPECT_EQ(pipe2(gate.data(), O_CLOEXEC), 0);
    state_.sync_gate.reset(gate[0]);
    run("exit 0");
    until([&] { return state_.syncs == 1; }, "no sync");
    return UniqueFd(gate[1]);
  }
};

TEST_F(ServerSyncTest, TellsTheEndOfInitAfterTheShareIsSynced) {
  const UniqueFd open_gate = end_in_a_sync();
  for (int i = 0; i < 5; ++i) turn();
  EXPECT_TRUE(messages_.back().reply);  // nothing after the reply to start
  EXPECT_EQ(kind_of(ask("delete", container())), ErrorKind::kFailedPrecondition);
  // The child that syncs has a copy of the write end; what is written ends it.
  ASSERT_EQ(write(open_gate.get(), "x", 1), 1);
  wait_exit();
}

TEST_F(ServerSyncTest, SettlesOnceTheEndIsTold) {
  const UniqueFd open_gate = end_in_a_sync();
  const uint64_t id = send("settle", Json::object());
  for (int i = 0; i < 5; ++i) turn();
  EXPECT_NE(messages_.back().reply->id, id);
  ASSERT_EQ(write(open_gate.get(), "x", 1), 1);
  wait_exit();
  EXPECT_FALSE(wait_reply(id).error);
}

TEST_F(ServerTest, IsSettledWhileNothingEnds) {
  run("sleep 100");
  EXPECT_FALSE(ask("settle", Json::object()).error);
}

TEST_F(ServerTest, DeletesOnlyWhatHasEnded) {
  run("sleep 100");
  EXPECT_EQ(kind_of(ask("delete", container())), ErrorKind::kFailedPrecondition);
  ASSERT_FALSE(ask("signal", {{"container", "c1"}, {"signal", SIGKILL}, {"all", true}}).error);
  wait_exit();
  EXPECT_EQ(kind_of(ask("delete", container())), std::nullopt);
  EXPECT_EQ(state_.destroyed, 1);
  EXPECT_EQ(kind_of(ask("delete", container())), ErrorKind::kNotFound);
}

TEST_F(ServerTest, RefusesASignalToWhatHasEnded) {
  run("exit 0");
  wait_exit();
  EXPECT_EQ(kind_of(ask("signal", {{"container", "c1"}, {"signal", SIGTERM}})),
            ErrorKind::kFailedPrecondition);
  EXPECT_EQ(kind_of(ask("signal", {{"container", "c1"}, {"signal", 9}, {"all", true}})),
            ErrorKind::kFailedPrecondition);
}

TEST_F(ServerTest, ExecutesBesideInit) {
  run("sleep 100");
  const auto reply = exec("e1", "echo from exec; exit 7");
  ASSERT_FALSE(reply.error);
  EXPECT_GT(reply.result.at("pid"), 1);
  EXPECT_EQ(wait_exit("e1").exit_code, 7);
  EXPECT_EQ(drain(dial("stdout", "e1")), "from exec\n");
  EXPECT_EQ(kind_of(exec("", "true")), ErrorKind::kInvalidArgument);
}

TEST_F(ServerTest, ForgetsAnExecOnceItIsOverAndItsStreamsAreTaken) {
  run("sleep 100");
  ASSERT_FALSE(exec("e1", "exit 0").error);
  wait_exit("e1");
  EXPECT_EQ(kind_of(exec("e1", "exit 0")), ErrorKind::kAlreadyExists);
  for (const char* stream : {"stdin", "stdout", "stderr"}) dial(stream, "e1");
  EXPECT_EQ(kind_of(exec("e1", "exit 0")), std::nullopt);
}

TEST_F(ServerTest, TellsTheEndOfAnExecBeforeThatOfInit) {
  run("sleep 100");
  ASSERT_FALSE(exec("e1", "sleep 100").error);
  ASSERT_FALSE(ask("signal", {{"container", "c1"}, {"signal", SIGKILL}}).error);
  wait_exit();
  std::vector<std::string> order;
  for (const auto& message : messages_)
    if (message.event && message.event->name == "exit")
      order.push_back(message.event->params.at("process"));
  EXPECT_EQ(order, (std::vector<std::string>{"e1", ""}));
}

TEST_F(ServerTest, RefusesExecWhilePaused) {
  run("sleep 100");
  ASSERT_FALSE(ask("pause", container()).error);
  EXPECT_TRUE(state_.frozen);
  EXPECT_EQ(kind_of(exec("e1", "true")), ErrorKind::kFailedPrecondition);
  ASSERT_FALSE(ask("resume", container()).error);
  EXPECT_EQ(kind_of(exec("e1", "true")), std::nullopt);
}

TEST_F(ServerTest, UpdatesLimitsAndReportsUse) {
  run("sleep 100");
  state_.stats.pids = 3;
  const protocol::Reply stats = ask("stats", container());
  ASSERT_FALSE(stats.error) << stats.error->message;
  EXPECT_EQ(protocol::from_json<protocol::StatsReply>(stats.result)->pids, 3U);
  Json params = container();
  params["resources"] = {{"pids", {{"limit", 9}}}};
  ASSERT_FALSE(ask("update", params).error);
  ASSERT_TRUE(state_.updated);
  EXPECT_EQ(state_.updated->pids->limit, 9);
}

TEST_F(ServerTest, RefusesNonsensicalUpdates) {
  run("sleep 100");
  Json params = container();
  params["resources"] = {{"pids", {{"limit", "x"}}}};
  EXPECT_EQ(kind_of(ask("update", params)), ErrorKind::kInvalidArgument);
  params["container"] = "other";
  EXPECT_EQ(kind_of(ask("update", params)), ErrorKind::kNotFound);
  EXPECT_EQ(kind_of(ask("stats", {{"container", "other"}})), ErrorKind::kNotFound);
  EXPECT_FALSE(state_.updated);
}

TEST_F(ServerTest, TellsOomKills) {
  run("read line");
  state_.oom_kills = 1;
  const UniqueFd input = dial("stdin");
  ASSERT_EQ(::send(input.get(), "\n", 1, 0), 1);
  EXPECT_TRUE(wait_exit().oom_killed);
  std::vector<std::string> events;
  for (const auto& message : messages_)
    if (message.event) events.push_back(message.event->name);
  EXPECT_EQ(events, (std::vector<std::string>{"hello", "oom", "exit"}));
}

TEST_F(ServerTest, ListsProcesses) {
  run("sleep 1000 & exec sleep 2000");
  Json list;
  until(
      [&] {
        list = ask("processes", container()).result.at("processes");
        return list.size() == 2 && list.dump().find("sleep 2000") != std::string::npos;
      },
      "two processes");
  EXPECT_EQ(list.at(0).at("uid"), getuid());
}

TEST_F(ServerTest, ReapsChildrenThatItDoesNotKnow) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  until([&] { return kill(child, 0) != 0; }, "a zombie");
  EXPECT_EQ(errno, ESRCH);
}

TEST_F(ServerTest, ShutsDownInOrder) {
  run("sleep 1000 & sleep 1000");
  const uint64_t id = send("shutdown", Json::object());
  const uint64_t late = send("processes", container());
  EXPECT_EQ(kind_of(wait_reply(late)), ErrorKind::kFailedPrecondition);
  EXPECT_EQ(kind_of(wait_reply(id)), std::nullopt);
  EXPECT_EQ(wait_exit().signal, SIGKILL);
  EXPECT_EQ(state_.destroyed, 1);
  EXPECT_FALSE(state_.share_mounted);
  EXPECT_FALSE(state_.powered_off);  // the host has not read the reply, for all that we know
  host_.reset();
  until([&] { return state_.powered_off; }, "still on");
}

TEST_F(ServerTest, TheResolverTakesNoParameters) {
  EXPECT_EQ(kind_of(ask("resolver", {{"address", "127.0.0.53"}})), ErrorKind::kInvalidArgument);
}

}  // namespace
}  // namespace kiln::agent
