// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "agent/protocol/messages.h"

namespace kiln::protocol {
namespace {

template <typename T>
std::string error_of(const Json& value) {
  const Result<T> result = from_json<T>(value);
  return result ? "accepted" : result.error().message;
}

TEST(Hello, SurvivesTheWayThroughJson) {
  const Hello hello{
      .protocol_version = 1, .agent_version = "0.1.0", .kernel_release = "6.1.0-56-cloud-amd64"};
  const auto parsed = from_json<Hello>(to_json(hello));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->protocol_version, 1);
  EXPECT_EQ(parsed->agent_version, "0.1.0");
  EXPECT_EQ(parsed->kernel_release, "6.1.0-56-cloud-amd64");
}

TEST(Hello, LosesTerminalControlsOnTheWay) {
  Json value = to_json(Hello{.protocol_version = 1, .agent_version = "a", .kernel_release = "b"});
  value["kernelRelease"] = "6.1\x1b[31m\n\xc2\x9b";
  const auto parsed = from_json<Hello>(value);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->kernel_release, "6.1?[31m???");
}

TEST(ProcessReply, AcceptsPidsOfLinuxOnly) {
  EXPECT_EQ(error_of<ProcessReply>({{"pid", 1}}), "accepted");
  EXPECT_EQ(error_of<ProcessReply>({{"pid", kMaxPid}}), "accepted");
  for (const Json& pid : {Json(0), Json(-1), Json(kMaxPid + 1), Json(UINT64_MAX), Json("1")})
    EXPECT_EQ(error_of<ProcessReply>({{"pid", pid}}), "/pid: must be an integer from 1 to 4194304");
}

TEST(ProcessesReply, SurvivesTheWayThroughJson) {
  ProcessesReply reply;
  reply.processes.push_back({.pid = 7,
                             .parent_pid = 1,
                             .uid = UINT32_MAX,
                             .cpu_time_ms = UINT64_MAX,
                             .start_time_unix = 1'700'000'000,
                             .tty = "pts/0",
                             .command_line = "sh -c true",
                             .name = "sh",
                             .state = "S",
                             .group = 7,
                             .session = 6,
                             .nice = -20,
                             .threads = 3,
                             .virtual_kib = UINT64_MAX,
                             .resident_kib = 5});
  reply.processes.push_back({.pid = 8, .tty = "?"});
  reply.memory_kib = 1U << 18;
  const auto parsed = from_json<ProcessesReply>(to_json(reply));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->processes.size(), 2U);
  EXPECT_EQ(parsed->processes[0].pid, 7);
  EXPECT_EQ(parsed->processes[0].parent_pid, 1);
  EXPECT_EQ(parsed->processes[0].uid, UINT32_MAX);
  EXPECT_EQ(parsed->processes[0].cpu_time_ms, UINT64_MAX);
  EXPECT_EQ(parsed->processes[0].start_time_unix, 1'700'000'000);
  EXPECT_EQ(parsed->processes[0].tty, "pts/0");
  EXPECT_EQ(parsed->processes[0].command_line, "sh -c true");
  EXPECT_EQ(parsed->processes[0].name, "sh");
  EXPECT_EQ(parsed->processes[0].state, "S");
  EXPECT_EQ(parsed->processes[0].group, 7);
  EXPECT_EQ(parsed->processes[0].session, 6);
  EXPECT_EQ(parsed->processes[0].nice, -20);
  EXPECT_EQ(parsed->processes[0].threads, 3);
  EXPECT_EQ(parsed->processes[0].virtual_kib, UINT64_MAX);
  EXPECT_EQ(parsed->processes[0].resident_kib, 5U);
  EXPECT_EQ(parsed->processes[1].pid, 8);
  EXPECT_EQ(parsed->memory_kib, 1U << 18);
}

TEST(ProcessesReply, NamesTheProcessThatIsWrong) {
  Json value = to_json(ProcessesReply{.processes = {{.pid = 1, .tty = "?"}, {.pid = 2}}});
  value["processes"][1]["uid"] = -1;
  EXPECT_EQ(error_of<ProcessesReply>(value),
            "/processes/1/uid: must be an integer from 0 to 4294967295");
}

TEST(ExitEvent, SurvivesTheWayThroughJson) {
  const ExitEvent event{.container_id = "c1",
                        .process_id = "e1",
                        .exit_code = 255,
                        .oom_killed = true,
                        .exited_at_ns = 5};
  const auto parsed = from_json<ExitEvent>(to_json(event));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->container_id, "c1");
  EXPECT_EQ(parsed->process_id, "e1");
  EXPECT_EQ(parsed->exit_code, 255);
  EXPECT_EQ(parsed->signal, 0);
  EXPECT_TRUE(parsed->oom_killed);
  EXPECT_EQ(parsed->exited_at_ns, 5);
}

TEST(ExitEvent, RefusesCodesAndSignalsThatNoProcessHas) {
  const Json good = to_json(ExitEvent{.container_id = "c1"});
  Json value = good;
  value["exitCode"] = 256;
  EXPECT_EQ(error_of<ExitEvent>(value), "/exitCode: must be an integer from 0 to 255");
  value = good;
  value["signal"] = 65;
  EXPECT_EQ(error_of<ExitEvent>(value), "/signal: must be an integer from 0 to 64");
  value = good;
  value["signal"] = 9;
  value["exitCode"] = 1;
  EXPECT_EQ(error_of<ExitEvent>(value), "/exitCode: must be 0 when there is a signal");
}

TEST(OomEvent, SurvivesTheWayThroughJson) {
  const auto parsed = from_json<OomEvent>(to_json(OomEvent{.container_id = "c1"}));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->container_id, "c1");
}

TEST(NotifyEvent, SurvivesTheWayThroughJson) {
  const auto parsed = from_json<NotifyEvent>(
      to_json(NotifyEvent{.container_id = "c1", .lines = {"READY=1", "STATUS=up \x1b[2J"}}));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->container_id, "c1");
  EXPECT_EQ(parsed->lines, (std::vector<std::string>{"READY=1", "STATUS=up ?[2J"}));
}

TEST(NotifyEvent, RefusesWhatIsNoDatagram) {
  EXPECT_EQ(error_of<NotifyEvent>({{"container", "c1"}, {"lines", {1}}}),
            "/lines: must be strings");
  EXPECT_EQ(error_of<NotifyEvent>(
                {{"container", "c1"}, {"lines", std::vector<std::string>(65, "READY=1")}}),
            "/lines: has more than 64 entries");
  EXPECT_EQ(error_of<NotifyEvent>({{"container", "c1"}, {"lines", {std::string(20000, 'x')}}}),
            "/lines: are longer than a datagram may be");
}

}  // namespace
}  // namespace kiln::protocol
