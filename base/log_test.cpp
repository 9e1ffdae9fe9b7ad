// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace kiln {
namespace {

// 1704164645 is 2024-01-02T03:04:05Z.
TEST(Log, TextLineIsLogrusText) {
  EXPECT_EQ(
      format_log_line(LogFormat::kText, LogLevel::kError, "open `x`: say \"no\"\n", 1704164645),
      "time=\"2024-01-02T03:04:05Z\" level=error msg=\"open `x`: say \\\"no\\\"\\n\"\n");
}

TEST(Log, JsonLineIsLogrusJson) {
  EXPECT_EQ(
      format_log_line(LogFormat::kJson, LogLevel::kWarning, "a\x1b[0m\\", 1704164645),
      "{\"level\":\"warning\",\"msg\":\"a\\u001b[0m\\\\\",\"time\":\"2024-01-02T03:04:05Z\"}\n");
}

TEST(Log, TextQuotesWhatLogrusQuotes) {
  EXPECT_EQ(format_log_line(LogFormat::kText, LogLevel::kInfo, "a-word/1.2", 0),
            "time=\"1970-01-01T00:00:00Z\" level=info msg=a-word/1.2\n");
  EXPECT_EQ(format_log_line(LogFormat::kText, LogLevel::kInfo, "\x1b", 0),
            "time=\"1970-01-01T00:00:00Z\" level=info msg=\"\\x1b\"\n");
}

// A path may have any bytes; the line is parsed by engines all the same.
TEST(Log, JsonLineIsJsonWhateverTheMessage) {
  EXPECT_EQ(format_log_line(LogFormat::kJson, LogLevel::kError, "open `\xff`", 0),
            "{\"level\":\"error\",\"msg\":\"open `\xef\xbf\xbd`\","
            "\"time\":\"1970-01-01T00:00:00Z\"}\n");
}

TEST(Log, PlainLinesSayHowBadItIsFromWarningsOn) {
  EXPECT_EQ(format_log_line(LogFormat::kPlain, LogLevel::kInfo, "up", 0), "kiln: up\n");
  EXPECT_EQ(format_log_line(LogFormat::kPlain, LogLevel::kError, "no", 0), "kiln: error: no\n");
}

// A guest without a console boots with loglevel=3, which lets through what is below 3.
TEST(Log, ErrorsReachTheConsoleOfAQuietKernel) {
  EXPECT_EQ(format_log_line(LogFormat::kKernel, LogLevel::kError, "no", 0), "<2>kiln: error: no\n");
  EXPECT_EQ(format_log_line(LogFormat::kKernel, LogLevel::kWarning, "hm", 0),
            "<4>kiln: warning: hm\n");
}

TEST(RateLimit, StopsAfterTheBurst) {
  RateLimit limit(3);
  int allowed = 0;
  for (int i = 0; i < 1000; ++i) allowed += limit.allow() ? 1 : 0;
  EXPECT_GE(allowed, 3);
  EXPECT_LE(allowed, 5);  // a second may pass meanwhile
}

TEST(Error, WrapPutsContextInFront) {
  Error error = sys_error("open `/dev/kvm`", EACCES).value();
  EXPECT_EQ(std::move(error).wrap("create `c1`").message,
            "create `c1`: open `/dev/kvm`: Permission denied");
}

TEST(Error, KindFollowsErrno) {
  EXPECT_EQ(sys_error("x", ENOENT).value().kind, ErrorKind::kNotFound);
  EXPECT_EQ(sys_error("x", ETIMEDOUT).value().kind, ErrorKind::kDeadlineExceeded);
  EXPECT_EQ(sys_error("x", 0x7fff).value().message, "x: errno 32767");
}

}  // namespace
}  // namespace kiln
