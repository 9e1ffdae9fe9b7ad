// SPDX-License-Identifier: Apache-2.0
#include "shim/stdio.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "base/file.h"
#include "base/temporary_directory.h"

namespace kiln::shim {
namespace {

class StdioTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  std::string fifo(const std::string& name) const {
    EXPECT_EQ(mkfifo(path(name).c_str(), 0600), 0);
    return path(name);
  }
  std::string script(const std::string& text) const {
    const std::string file = path("logger");
    EXPECT_TRUE(write_file_atomic(file, "#!/bin/sh\n" + text, 0755));
    return file;
  }
  static Result<OpenStdio> open(StdioPaths paths) {
    paths.reader_wait_ms = 1;
    return open_stdio(paths, "ns", "c1");
  }
  static std::string read_some(const UniqueFd& fd) {
    char buffer[64];
    const ssize_t got = read(fd.get(), buffer, sizeof buffer);
    return got > 0 ? std::string(buffer, static_cast<size_t>(got)) : "";
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "stdio-");
};

TEST_F(StdioTest, NoPathsAreNoDescriptors) {
  const auto stdio = open({});
  ASSERT_TRUE(stdio);
  for (const UniqueFd& fd : stdio->fds) EXPECT_FALSE(fd);
}

TEST_F(StdioTest, OutputWaitsForTheFifosReader) {
  const std::string out = fifo("out");
  UniqueFd reader;
  std::thread late([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    reader = *open_file(out, O_RDONLY);  // as containerd's clients: until there is a writer
  });
  {
    StdioPaths paths{"", out, ""};
    paths.reader_wait_ms = 60'000;
    const auto stdio = open_stdio(paths, "ns", "c1");
    ASSERT_TRUE(stdio);
    EXPECT_TRUE(write_fully(stdio->fds[1].get(), "kept"));
  }
  late.join();
  EXPECT_EQ(read_some(reader), "kept");
}

TEST_F(StdioTest, AFifoThatNobodyReadsDoesNotBlockForEver) {
  const auto stdio = open({"", fifo("out"), fifo("err")});
  ASSERT_TRUE(stdio);
  EXPECT_TRUE(write_fully(stdio->fds[1].get(), "kept"));
  const UniqueFd reader = *open_file(path("out"), O_RDONLY | O_NONBLOCK);
  EXPECT_EQ(read_some(reader), "kept");
}

TEST_F(StdioTest, AFifoSurvivesItsReadersDeath) {
  const std::string out = fifo("out");
  UniqueFd reader = *open_file(out, O_RDONLY | O_NONBLOCK);
  const auto stdio = open({"", out, ""});
  ASSERT_TRUE(stdio);
  reader.reset();
  EXPECT_TRUE(write_fully(stdio->fds[1].get(), "kept"));  // otherwise SIGPIPE
  reader = *open_file(out, O_RDONLY | O_NONBLOCK);
  EXPECT_EQ(read_some(reader), "kept");
}

TEST_F(StdioTest, InputEndsWithItsLastWriter) {
  const std::string in = fifo("in");
  const auto stdio = open({in, "", ""});
  ASSERT_TRUE(stdio);
  EXPECT_FALSE(stdio->stdin_keeper);
  UniqueFd writer = *open_file(in, O_WRONLY | O_NONBLOCK);
  writer.reset();
  pollfd event{stdio->fds[0].get(), POLLIN, 0};
  EXPECT_EQ(poll(&event, 1, 0), 1);
  EXPECT_NE(event.revents & POLLHUP, 0);
}

TEST_F(StdioTest, ATerminalsInputDoesNotEndAndItHasNoErrors) {
  const std::string in = fifo("in");
  const auto stdio = open({in, fifo("out"), path("missing"), true});
  ASSERT_TRUE(stdio);
  EXPECT_TRUE(stdio->stdin_keeper);
  EXPECT_FALSE(stdio->fds[2]);
  UniqueFd writer = *open_file(in, O_WRONLY | O_NONBLOCK);
  writer.reset();
  pollfd event{stdio->fds[0].get(), POLLIN, 0};
  EXPECT_EQ(poll(&event, 1, 0), 0);
}

TEST_F(StdioTest, FifoUrisArePathsWithEscapes) {
  static_cast<void>(fifo("a b"));
  EXPECT_TRUE(open({"", "fifo://" + directory_.path() + "/a%20b", ""}));
}

TEST_F(StdioTest, FilesAreMadeWithTheirDirectoriesAndAppendedTo) {
  const std::string uri = "file://" + path("deep/er/c%31+.log");
  for (const char* text : {"one ", "two"}) {
    const auto stdio = open({"", uri, ""});
    ASSERT_TRUE(stdio);
    EXPECT_TRUE(write_fully(stdio->fds[1].get(), text));
  }
  EXPECT_EQ(*read_file(path("deep/er/c1+.log")), "one two");
}

TEST_F(StdioTest, APlainFileIsAppendedTo) {
  ASSERT_TRUE(write_file_atomic(path("log"), "one ", 0600));
  const auto stdio = open({"", path("log"), ""});
  ASSERT_TRUE(stdio);
  EXPECT_TRUE(write_fully(stdio->fds[1].get(), "two"));
  EXPECT_EQ(*read_file(path("log")), "one two");
}

TEST_F(StdioTest, WhatCannotBeOpenedIsNamed) {
  EXPECT_NE(open({"", path("missing"), ""}).error().message.find("open standard output"),
            std::string::npos);
  EXPECT_NE(open({"", "", path("missing")}).error().message.find("open standard error"),
            std::string::npos);
  EXPECT_NE(open({path("missing"), "", ""}).error().message.find("open standard input"),
            std::string::npos);
  EXPECT_EQ(open({"", "npipe://x", ""}).error().kind, ErrorKind::kUnimplemented);
  for (const char* uri : {"file://relative", "file://", "fifo://x", "binary://x", "binary://"})
    EXPECT_EQ(open({"", uri, ""}).error().kind, ErrorKind::kInvalidArgument) << uri;
}

TEST_F(StdioTest, ALoggersArgumentsAreItsQuery) {
  const auto command = parse_logger("binary:///a%20b/logger?key=value&flag&x=a%3Db+c&&empty=");
  ASSERT_TRUE(command);
  EXPECT_EQ(command->program, "/a b/logger");
  EXPECT_EQ(command->arguments,
            (std::vector<std::string>{"key", "value", "flag", "", "x", "a=b c", "empty", ""}));
  EXPECT_TRUE(parse_logger("binary:///logger?")->arguments.empty());
}

TEST_F(StdioTest, BadEscapesAreErrors) {
  for (const char* uri : {"binary:///%", "binary:///%4", "binary:///%zz", "binary:///x?a=%4"})
    EXPECT_EQ(parse_logger(uri).error().kind, ErrorKind::kInvalidArgument) << uri;
}

TEST_F(StdioTest, ALoggerGetsBothOutputsAndTheContainersName) {
  const std::string program =
      script("echo \"$1 $CONTAINER_NAMESPACE $CONTAINER_ID\" > " + path("name") +
             "\nexec 5>&-\ncat <&3 > " + path("out") + "\ncat <&4 > " + path("err") + "\n");
  auto stdio = open({"", "binary://" + program + "?word", "ignored"});
  ASSERT_TRUE(stdio) << stdio.error().message;
  EXPECT_EQ(*read_file(path("name")), "word ns c1\n");  // it was ready
  EXPECT_TRUE(write_fully(stdio->fds[1].get(), "to out"));
  EXPECT_TRUE(write_fully(stdio->fds[2].get(), "to err"));
  stdio->fds = {};
  const auto status = wait_child(stdio->logger, 10'000);
  ASSERT_TRUE(status && *status);
  EXPECT_EQ((*status)->shell_code(), 0);
  EXPECT_EQ(*read_file(path("out")), "to out");
  EXPECT_EQ(*read_file(path("err")), "to err");
}

TEST_F(StdioTest, ALoggerThatCannotRunIsAnError) {
  const auto stdio = open({"", "binary://" + path("missing"), ""});
  ASSERT_FALSE(stdio);
  EXPECT_NE(stdio.error().message.find("start the logger"), std::string::npos);
}

TEST_F(StdioTest, ALoggerThatHasEndedIsReaped) {
  const auto loop = *EventLoop::create();
  auto stdio = open({"", "binary://" + script("exec 5>&-; cat <&3 >/dev/null\n"), ""});
  ASSERT_TRUE(stdio);
  const pid_t pid = stdio->logger.pid;
  reap_at_end(*loop, std::move(stdio->logger));
  reap_at_end(*loop, ChildProcess());
  stdio->fds = {};
  for (int i = 0; i < 1000 && kill(pid, 0) == 0; ++i) ASSERT_TRUE(loop->run_once(10));
  EXPECT_NE(kill(pid, 0), 0);
}

TEST_F(StdioTest, ATerminalsLoggerHasOneOutput) {
  auto stdio = open({"", "binary://" + script("exec 5>&-; cat <&3 >/dev/null\n"), "", true});
  ASSERT_TRUE(stdio);
  EXPECT_TRUE(stdio->fds[1]);
  EXPECT_FALSE(stdio->fds[2]);
  stdio->fds = {};
  EXPECT_TRUE(wait_child(stdio->logger, 10'000));
}

}  // namespace
}  // namespace kiln::shim
