// SPDX-License-Identifier: Apache-2.0
#include "agent/core/stream_relay.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

namespace kiln::agent {
namespace {

struct Pipe {
  UniqueFd reader;
  UniqueFd writer;
};

Pipe make_pipe() {
  std::array<int, 2> fds{};
  EXPECT_EQ(pipe2(fds.data(), O_CLOEXEC | O_NONBLOCK), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// A socket that keeps the peer's packets apart, as reads of a vsock connection find them: one read
// takes one packet, and the end is a read of its own.
std::array<UniqueFd, 2> make_packets() {
  std::array<int, 2> fds{};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

class EndOfInput : public testing::TestWithParam<int> {};

// However many packets are there when the peer ends: its end may be what the last read of a turn
// finds, and the connection is not watched for input afterwards.
TEST_P(EndOfInput, ReachesTheProcessAfterAnyNumberOfPackets) {
  auto loop = EventLoop::create().value();
  auto [ours, peer] = make_packets();
  auto [reader, writer] = make_pipe();
  for (int packet = 0; packet < GetParam(); ++packet)
    ASSERT_EQ(send(peer.get(), "p", 1, MSG_NOSIGNAL), 1);
  peer.reset();

  bool finished = false;
  StreamEnds ends;
  ends.to_process = std::move(writer);
  const auto relay = StreamRelay::create(*loop, std::move(ours), std::move(ends),
                                         [&finished] { finished = true; });
  ASSERT_TRUE(relay);
  for (int turn = 0; turn < 20 && !finished; ++turn) ASSERT_TRUE(loop->run_once(50));

  EXPECT_TRUE(finished);
  std::array<char, 64> bytes{};
  size_t received = 0;
  ssize_t got = 0;
  while ((got = read(reader.get(), bytes.data(), bytes.size())) > 0)
    received += static_cast<size_t>(got);
  EXPECT_EQ(received, static_cast<size_t>(GetParam()));
  EXPECT_EQ(got, 0);
}

INSTANTIATE_TEST_SUITE_P(Packets, EndOfInput, testing::Range(0, 20));

// The sink is full when the end is read: what waits is delivered first, then the end.
TEST(StreamRelay, DeliversWhatIsPendingBeforeTheEnd) {
  auto loop = EventLoop::create().value();
  auto [ours, peer] = make_packets();
  auto [reader, writer] = make_pipe();
  ASSERT_GT(fcntl(writer.get(), F_SETPIPE_SZ, 4096), 0);
  const std::string page(4096, 'x');
  for (int packet = 0; packet < 12; ++packet)
    ASSERT_EQ(send(peer.get(), page.data(), page.size(), MSG_NOSIGNAL), 4096);
  peer.reset();

  bool finished = false;
  StreamEnds ends;
  ends.to_process = std::move(writer);
  const auto relay = StreamRelay::create(*loop, std::move(ours), std::move(ends),
                                         [&finished] { finished = true; });
  ASSERT_TRUE(relay);
  size_t received = 0;
  std::array<char, 4096> bytes{};
  ssize_t got = -1;
  for (int turn = 0; turn < 100 && got != 0; ++turn) {
    ASSERT_TRUE(loop->run_once(50));
    while ((got = read(reader.get(), bytes.data(), bytes.size())) > 0)
      received += static_cast<size_t>(got);
  }

  EXPECT_EQ(received, 12 * page.size());
  EXPECT_EQ(got, 0);
  EXPECT_TRUE(finished);
}

}  // namespace
}  // namespace kiln::agent
