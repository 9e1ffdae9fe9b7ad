// SPDX-License-Identifier: Apache-2.0
#include "agent/core/proc_info.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>

#include <nlohmann/json.hpp>

namespace kiln::agent {
namespace {

TEST(ProcStat, ReadsTheFieldsAfterAHostileName) {
  const auto stat = parse_proc_stat(
      "12 (a) S 1 (b)) R 7 12 12 34819 12 4194304 1 2 3 4 250 50 0 0 20 0 1 0 9876 4096 2 3\n");
  ASSERT_TRUE(stat) << stat.error().message;
  EXPECT_EQ(stat->name, "a) S 1 (b)");
  EXPECT_EQ(stat->parent_pid, 7);
  EXPECT_EQ(stat->tty, 34819U);
  EXPECT_EQ(stat->cpu_ticks, 300U);
  EXPECT_EQ(stat->start_ticks, 9876U);
  EXPECT_EQ(stat->state, 'R');
  EXPECT_EQ(stat->group, 12);
  EXPECT_EQ(stat->session, 12);
  EXPECT_EQ(stat->nice, 0);
  EXPECT_EQ(stat->threads, 1);
  EXPECT_EQ(stat->virtual_bytes, 4096U);
  EXPECT_EQ(stat->resident_pages, 2U);
}

TEST(ProcStat, RefusesWhatIsNotOne) {
  for (const char* text : {"", "12", "12 (a", "12 a) R 1", ")(", "12 (a) R x", "12 (a) R 1 2 3"})
    EXPECT_FALSE(parse_proc_stat(text)) << text;
}

TEST(TtyName, NamesTerminalsAsPsDoes) {
  const auto encoded = [](unsigned major_number, unsigned minor_number) {
    return (minor_number & 0xff) | (major_number << 8) | ((minor_number & ~0xffU) << 12);
  };
  EXPECT_EQ(tty_name(0), "?");
  EXPECT_EQ(tty_name(encoded(136, 3)), "pts/3");
  EXPECT_EQ(tty_name(encoded(136, 300)), "pts/300");
  EXPECT_EQ(tty_name(encoded(4, 1)), "tty1");
  EXPECT_EQ(tty_name(encoded(4, 64)), "ttyS0");
  EXPECT_EQ(tty_name(encoded(5, 1)), "console");
  EXPECT_EQ(tty_name(encoded(204, 5)), "204:5");
}

TEST(DescribeProcesses, DescribesThisOne) {
  const auto reply = describe_processes({getpid()});
  ASSERT_TRUE(reply) << reply.error().message;
  ASSERT_EQ(reply->processes.size(), 1U);
  const protocol::ProcessInfo& info = reply->processes.front();
  EXPECT_EQ(info.pid, getpid());
  EXPECT_EQ(info.parent_pid, getppid());
  EXPECT_EQ(info.uid, geteuid());
  EXPECT_EQ(info.session, getsid(0));
  EXPECT_EQ(info.state, "R");
  EXPECT_GT(info.resident_kib, 0U);
  EXPECT_LT(info.resident_kib, reply->memory_kib);
  EXPECT_LE(info.start_time_unix, time(nullptr) + 1);
  EXPECT_GT(info.start_time_unix, time(nullptr) - 600);
  EXPECT_NE(info.command_line.find("unit_agent"), std::string::npos);
}

TEST(DescribeProcesses, LeavesOutWhatHasEnded) {
  const auto reply = describe_processes({0x3ffffff});
  ASSERT_TRUE(reply);
  EXPECT_TRUE(reply->processes.empty());
}

// The host refuses a reply that is longer than it may be, or whose strings are.
TEST(DescribeProcesses, MakesReadableWhateverAProcessCallsItself) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_NAME, "\xff\n) \x1b[2J");
    std::string argument(8000, '\xff');
    argument[1] = '\x1b';
    const char* const argv[] = {"/bin/sh", "-c", "echo >&3; kill -STOP $$", argument.c_str(),
                                nullptr};
    dup2(ready[1], 3);
    execv("/bin/sh", const_cast<char* const*>(argv));
    _exit(127);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  close(ready[1]);
  // Two thousand times the same process: more than a reply holds.
  for (const size_t count : {size_t{1}, size_t{2000}}) {
    const auto reply = describe_processes(std::vector<pid_t>(count, child));
    ASSERT_TRUE(reply) << reply.error().message;
    EXPECT_EQ(reply->processes.size(), count);
    EXPECT_EQ(reply->processes.front().command_line.find('\x1b'), std::string::npos);
    const std::string text = protocol::encode(protocol::Reply{1, protocol::to_json(*reply), {}});
    const auto decoded = protocol::decode_from_agent(text);
    ASSERT_TRUE(decoded) << decoded.error().message;
    EXPECT_TRUE(protocol::from_json<protocol::ProcessesReply>(decoded->reply->result));
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

TEST(DescribeProcesses, SaysWhenThereAreTooMany) {
  const auto reply = describe_processes(std::vector<pid_t>(40000, getpid()));
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().kind, ErrorKind::kResourceExhausted);
}

}  // namespace
}  // namespace kiln::agent
