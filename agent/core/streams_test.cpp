// SPDX-License-Identifier: Apache-2.0
// Standard streams, from the process to the host's connection and back.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/core/fake_guest.h"
#include "base/unix_socket.h"

namespace kiln::agent {
namespace {

std::string pattern(size_t size) {
  std::string out(size, '\0');
  uint32_t state = 12345;
  for (char& c : out) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return out;
}

class StreamsTest : public ServerTest {
 protected:
  std::optional<ErrorKind> refusal_of(const std::string& stream, const std::string& process = "") {
    std::optional<Error> refusal;
    dial(stream, process, &refusal);
    return refusal ? std::optional(refusal->kind) : std::nullopt;
  }
  void put(const UniqueFd& connection, std::string_view bytes) {
    ASSERT_EQ(::send(connection.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
};

TEST_F(StreamsTest, KeepsOutputUntilTheHostDials) {
  run("echo out; echo err >&2; exit 0");
  wait_exit();
  EXPECT_EQ(drain(dial("stdout")), "out\n");
  EXPECT_EQ(drain(dial("stderr")), "err\n");
}

TEST_F(StreamsTest, CarriesMegabytesBothWaysAndHalfCloses) {
  run("cat");
  const std::string sent = pattern(5'000'001);
  const UniqueFd input = dial("stdin");
  const UniqueFd output = dial("stdout");
  std::string received;
  size_t put_so_far = 0;
  std::string buffer(65536, '\0');
  bool ended = false;
  until(
      [&] {
        const ssize_t put = ::send(input.get(), sent.data() + put_so_far, sent.size() - put_so_far,
                                   MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put > 0) put_so_far += static_cast<size_t>(put);
        if (put_so_far == sent.size()) shutdown(input.get(), SHUT_WR);
        ssize_t got = 0;
        while ((got = recv(output.get(), buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0)
          received.append(buffer, 0, static_cast<size_t>(got));
        ended = got == 0;
        return ended;
      },
      "the stream does not end");
  EXPECT_EQ(received, sent);
  EXPECT_EQ(wait_exit().exit_code, 0);
}

TEST_F(StreamsTest, DeliversInputThatWasSentBeforeTheHostClosed) {
  run("sleep 0.1; wc -c");
  const UniqueFd output = dial("stdout");
  UniqueFd input = dial("stdin");
  put(input, "twelve bytes");
  input.reset();
  EXPECT_EQ(drain(output), "12\n");
}

TEST_F(StreamsTest, StallsNobodyElseWhileAReaderIsSlow) {
  run("head -c 20000000 /dev/zero");
  const UniqueFd output = dial("stdout");
  for (int i = 0; i < 20; ++i) turn();
  EXPECT_EQ(ask("processes", {{"container", "c1"}}).result.at("processes").size(), 2U);
  EXPECT_EQ(drain(output).size(), 20'000'000U);
  EXPECT_EQ(wait_exit().exit_code, 0);
}

TEST_F(StreamsTest, ClosesInputThatNobodyReads) {
  run("exec <&-; sleep 100");
  const UniqueFd input = dial("stdin");
  EXPECT_EQ(drain(input), "");
}

TEST_F(StreamsTest, BreaksThePipeWhenTheHostCloses) {
  run("trap 'exit 9' PIPE; while echo line; do :; done");
  UniqueFd output = dial("stdout");
  output.reset();
  EXPECT_EQ(wait_exit().exit_code, 9);
}

TEST_F(StreamsTest, GoesOnWhenTheHostHalfClosesAnOutput) {
  run("sleep 0.1; echo late");
  const UniqueFd output = dial("stdout");
  shutdown(output.get(), SHUT_WR);
  EXPECT_EQ(drain(output), "late\n");
}

TEST_F(StreamsTest, RefusesWhatIsNotThere) {
  run("sleep 100");
  EXPECT_EQ(refusal_of("tty"), ErrorKind::kNotFound);
  EXPECT_EQ(refusal_of("stdout", "e9"), ErrorKind::kNotFound);
  EXPECT_EQ(refusal_of("stdout"), std::nullopt);
  EXPECT_EQ(refusal_of("stdout"), ErrorKind::kAlreadyExists);
  EXPECT_EQ(refusal_of("stdlog"), ErrorKind::kInvalidArgument);
}

TEST_F(StreamsTest, DropsAConnectionWithABadHeader) {
  const auto connection = connect_unix(socket_path_);
  ASSERT_TRUE(connection);
  const uint32_t size = protocol::kMaxStreamFrameBytes + 1;
  ASSERT_EQ(::send(connection->get(), &size, sizeof size, 0), static_cast<ssize_t>(sizeof size));
  EXPECT_EQ(drain(*connection), "");
}

TEST_F(StreamsTest, OpensAStreamWhoseHeaderComesByteByByte) {
  run("echo slow");
  const auto connection = connect_unix(socket_path_);
  ASSERT_TRUE(connection);
  const std::string header = protocol::encode(protocol::StreamHeader{"c1", "", "stdout"});
  const auto size = static_cast<uint32_t>(header.size());
  std::string frame(reinterpret_cast<const char*>(&size), sizeof size);
  frame += header;
  for (const char byte : frame) {
    put(*connection, {&byte, 1});
    turn();
  }
  const std::string all = drain(*connection);
  EXPECT_EQ(all.substr(all.size() - 5), "slow\n");
}

TEST_F(StreamsTest, CarriesATerminal) {
  run("stty -echo; read line; echo got $line; stty size", true);
  const UniqueFd terminal = dial("tty");
  ASSERT_FALSE(
      ask("resize", {{"container", "c1"}, {"process", ""}, {"rows", 33}, {"columns", 101}}).error);
  usleep(200'000);  // until stty has switched the echo off
  put(terminal, "hello\n");
  EXPECT_EQ(drain(terminal), "got hello\r\n33 101\r\n");
  EXPECT_EQ(wait_exit().exit_code, 0);
}

TEST_F(StreamsTest, HangsUpWhenTheHostClosesTheTerminal) {
  run("sleep 1000", true);
  UniqueFd terminal = dial("tty");
  terminal.reset();
  EXPECT_EQ(wait_exit().signal, SIGHUP);
}

TEST_F(StreamsTest, KeepsTheTerminalWhenTheHostHalfCloses) {
  run("sleep 0.2; echo still here", true);
  const UniqueFd terminal = dial("tty");
  shutdown(terminal.get(), SHUT_WR);
  EXPECT_EQ(drain(terminal), "still here\r\n");
}

TEST_F(StreamsTest, ResizesOnlyTerminals) {
  run("sleep 100");
  EXPECT_EQ(kind_of(ask("resize", {{"container", "c1"}, {"rows", 1}, {"columns", 1}})),
            ErrorKind::kFailedPrecondition);
}

}  // namespace
}  // namespace kiln::agent
