// SPDX-License-Identifier: Apache-2.0
#include "agent/core/resolver.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <deque>

#include "agent/protocol/messages.h"
#include "base/unix_socket.h"
#include "tests/support/network_namespace.h"
#include "tests/support/socket_reading.h"

namespace kiln::agent {
namespace {

sockaddr_in resolver_address() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(protocol::kResolverAddress);
  address.sin_port = htons(protocol::kResolverNamePort);
  return address;
}

// The host is the other end of each socket pair that the resolver is given.
class ResolverTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(enter_network_namespace());
    ASSERT_TRUE(set_link_up("lo", true));
    loop_ = std::move(*EventLoop::create());
    auto made = Resolver::listen(*loop_, resolver_address(), [this] { return dial(); });
    ASSERT_TRUE(made) << made.error().message;
    resolver_ = std::move(*made);
  }

  Result<UniqueFd> dial() {
    if (host_is_gone_) return make_error(ErrorKind::kUnavailable, "nobody listens");
    auto [here, there] = TRY(socket_pair(SOCK_STREAM));
    hosts_.push_back(std::move(there));
    return std::move(here);
  }
  // A socket of a container's process.
  static UniqueFd client(int type) {
    UniqueFd fd(socket(AF_INET, type | SOCK_CLOEXEC, 0));
    const sockaddr_in address = resolver_address();
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  static void put(const UniqueFd& fd, std::string_view text) {
    ASSERT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  void turn(int times = 20) {
    for (int i = 0; i < times; ++i) ASSERT_TRUE(loop_->run_once(1));
  }
  std::string take(const UniqueFd& fd, size_t size) { return take_bytes(*loop_, fd, size); }
  UniqueFd& host(size_t index) {
    for (int i = 0; i < 1000 && hosts_.size() <= index; ++i) static_cast<void>(loop_->run_once(10));
    EXPECT_GT(hosts_.size(), index);
    return hosts_.at(index);
  }

  std::unique_ptr<EventLoop> loop_;
  std::deque<UniqueFd> hosts_;
  bool host_is_gone_ = false;
  std::unique_ptr<Resolver> resolver_;
};

TEST_F(ResolverTest, CarriesADatagramAndItsAnswer) {
  const UniqueFd asker = client(SOCK_DGRAM);
  put(asker, "who is web?");
  EXPECT_EQ(take(host(0), 16), "u" + framed("who is web?"));
  put(host(0), framed("10.0.0.2"));
  EXPECT_EQ(take(asker, 8), "10.0.0.2");
}

TEST_F(ResolverTest, EachAskerHasAConnectionOfItsOwn) {
  const UniqueFd one = client(SOCK_DGRAM);
  const UniqueFd other = client(SOCK_DGRAM);
  put(one, "one");
  EXPECT_EQ(take(host(0), 8), "u" + framed("one"));
  put(other, "other");
  EXPECT_EQ(take(host(1), 10), "u" + framed("other"));
  put(one, "again");
  EXPECT_EQ(take(host(0), 9), framed("again"));
  put(host(1), framed("to other"));
  put(host(0), framed("to one"));
  EXPECT_EQ(take(one, 6), "to one");
  EXPECT_EQ(take(other, 8), "to other");
}

TEST_F(ResolverTest, CarriesTheLargestDatagram) {
  const std::string large(65507, 'x');
  const UniqueFd asker = client(SOCK_DGRAM);
  put(asker, large);
  EXPECT_EQ(take(host(0), 1 + 4 + large.size()), "u" + framed(large));
  put(host(0), framed(large));
  EXPECT_EQ(take(asker, large.size()), large);
}

TEST_F(ResolverTest, WhoAsksTooMuchLosesWhatAskedLongestAgo) {
  const UniqueFd first = client(SOCK_DGRAM);
  put(first, "first");
  EXPECT_EQ(take(host(0), 10), "u" + framed("first"));
  std::vector<UniqueFd> others;
  for (size_t i = 0; i < Resolver::kMaxClients; ++i) {
    others.push_back(client(SOCK_DGRAM));
    put(others.back(), "x");
    turn(2);
  }
  turn();
  EXPECT_EQ(resolver_->clients(), Resolver::kMaxClients);
  EXPECT_EQ(hosts_.size(), Resolver::kMaxClients + 1);
  char byte = 0;
  EXPECT_EQ(recv(host(0).get(), &byte, 1, MSG_DONTWAIT), 0) << "its connection is closed";
}

TEST_F(ResolverTest, AHostThatBreaksTheFramesLosesTheConnection) {
  const UniqueFd asker = client(SOCK_DGRAM);
  put(asker, "q");
  EXPECT_EQ(take(host(0), 6), "u" + framed("q"));
  put(host(0), "\xff\xff\xff\xff");
  turn();
  EXPECT_EQ(resolver_->clients(), 0U);
}

TEST_F(ResolverTest, ForgetsWhoHasGotAnAnswer) {
  const UniqueFd asker = client(SOCK_DGRAM);
  put(asker, "q");
  EXPECT_EQ(take(host(0), 6), "u" + framed("q"));
  put(host(0), framed("a"));
  EXPECT_EQ(take(asker, 1), "a");
  EXPECT_EQ(resolver_->clients(), 1U);
  EXPECT_EQ(take(host(0), 1), "") << "until the end";
  EXPECT_EQ(resolver_->clients(), 0U);
}

TEST_F(ResolverTest, WithoutTheHostAQueryIsLostAndTheNextOneIsTried) {
  host_is_gone_ = true;
  const UniqueFd asker = client(SOCK_DGRAM);
  put(asker, "lost");
  turn();
  EXPECT_EQ(resolver_->clients(), 0U);
  host_is_gone_ = false;
  put(asker, "asked");
  EXPECT_EQ(take(host(0), 10), "u" + framed("asked"));
}

TEST_F(ResolverTest, CarriesAStreamAndAnAnswerAfterItsHalfClose) {
  const UniqueFd asker = client(SOCK_STREAM);
  put(asker, "question");
  EXPECT_EQ(take(host(0), 9), "tquestion");
  shutdown(asker.get(), SHUT_WR);
  EXPECT_EQ(take(host(0), 1), "");
  const std::string answer(300'000, 'a');
  std::string received;
  for (size_t sent = 0; sent < answer.size(); sent += 60'000) {
    put(host(0), std::string_view(answer).substr(sent, 60'000));
    received += take(asker, 60'000);
  }
  EXPECT_EQ(received, answer);
  hosts_.clear();
  EXPECT_EQ(take(asker, 1), "");
  turn();
  EXPECT_EQ(resolver_->streams(), 0U);
}

TEST_F(ResolverTest, HasABoundedNumberOfStreams) {
  std::vector<UniqueFd> askers;
  for (size_t i = 0; i < Resolver::kMaxStreams + 3; ++i) askers.push_back(client(SOCK_STREAM));
  turn();
  EXPECT_EQ(resolver_->streams(), Resolver::kMaxStreams);
  EXPECT_EQ(hosts_.size(), Resolver::kMaxStreams);
  EXPECT_EQ(take(askers.back(), 1), "") << "closed at once";
}

TEST_F(ResolverTest, WithoutTheHostAStreamIsClosed) {
  host_is_gone_ = true;
  const UniqueFd asker = client(SOCK_STREAM);
  EXPECT_EQ(take(asker, 1), "");
  EXPECT_EQ(resolver_->streams(), 0U);
}

TEST_F(ResolverTest, SaysWhenTheAddressIsTaken) {
  const auto second = Resolver::listen(*loop_, resolver_address(), [this] { return dial(); });
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find("port 53"), std::string::npos) << second.error().message;
}

}  // namespace
}  // namespace kiln::agent
