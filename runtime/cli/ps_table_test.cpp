// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/ps_table.h"

#include <gtest/gtest.h>

#include <climits>
#include <cstdlib>

namespace kiln::runtime {
namespace {

constexpr time_t kNow = 1'700'000'000;  // 2023-11-14T22:13:20Z

protocol::ProcessInfo sleeper() {
  return {.pid = 85,
          .parent_pid = 1,
          .uid = 0,
          .cpu_time_ms = 63'500,
          .start_time_unix = kNow - 127,
          .tty = "pts/0",
          .command_line = "sleep 1000",
          .name = "sleep",
          .state = "S",
          .group = 85,
          .session = 85,
          .nice = 5,
          .threads = 2,
          .virtual_kib = 2268,
          .resident_kib = 1376};
}

std::string table(const std::vector<std::string>& options,
                  const std::vector<protocol::ProcessInfo>& processes = {sleeper()}) {
  const auto columns = ps_columns(options);
  if (!columns) return columns.error().message;
  return ps_table(*columns, processes, {kNow, 262'144});
}

class PsTable : public testing::Test {
 protected:
  void SetUp() override {
    setenv("TZ", "UTC", 1);
    tzset();
  }
};

TEST_F(PsTable, IsThatOfPsEfWithoutOptions) {
  const std::string expected =
      "UID          PID    PPID  C STIME TTY          TIME CMD\n"
      "root          85       1 50 22:11 pts/0    00:01:03 sleep 1000\n";
  EXPECT_EQ(table({}), expected);
  EXPECT_EQ(table({"-ef"}), expected);
  EXPECT_EQ(table({"-e", "-f"}), expected);
}

TEST_F(PsTable, HasBsdsColumns) {
  EXPECT_EQ(table({"aux"}),
            "USER         PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND\n"
            "root          85 50.0  0.5   2268  1376 pts/0    SNsl 22:11   1:03 sleep 1000\n");
}

TEST_F(PsTable, HasTheColumnsThatAreListed) {
  EXPECT_EQ(table({"-eo", "pid,comm"}), "  PID COMMAND\n   85 sleep\n");
  EXPECT_EQ(table({"-o", "pid", "-ocomm=NAME, SO"}), "  PID NAME, SO\n   85 sleep\n");
  EXPECT_EQ(table({"o", "etime,pid,ppid,s,ni"}),
            "    ELAPSED   PID  PPID S  NI\n"
            "      02:07    85     1 S   5\n");
}

TEST_F(PsTable, HasItsHeaderWithoutProcesses) {
  EXPECT_EQ(table({"-o", "pid,args"}, {}), "  PID COMMAND\n");
}

TEST_F(PsTable, NamesWhatItDoesNotKnow) {
  EXPECT_EQ(table({"-o", "comm"}), "couldn't find PID field in ps output");
  EXPECT_EQ(table({"-o", "pid,nosuch"}), "ps: unknown user-defined format specifier \"nosuch\"");
  EXPECT_EQ(table({"-o"}), "ps: format specification must follow -o");
  for (const char* option : {"--nosuch", "-p", "-efZ", "auxq", "1"})
    EXPECT_NE(table({option}).find(std::string("`") + option + "` is not supported"),
              std::string::npos)
        << option;
}

// guest-controlled: any number that the protocol lets through.
TEST_F(PsTable, TakesTheLargestNumbers) {
  protocol::ProcessInfo info = sleeper();
  info.cpu_time_ms = UINT64_MAX;
  info.start_time_unix = INT64_MAX;
  info.virtual_kib = info.resident_kib = UINT64_MAX;
  info.uid = UINT32_MAX;
  for (const char* options : {"-ef", "aux", "-el", "-elf", "ax"})
    EXPECT_NE(table({options}, {info}).find(" 85 "), std::string::npos) << options;
  EXPECT_NE(table({"-o", "pid,lstart,start,etimes,%cpu,%mem"}, {info}).find(" 0 "),
            std::string::npos);
}

}  // namespace
}  // namespace kiln::runtime
