// SPDX-License-Identifier: Apache-2.0
#include "runtime/resolver_relay.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "agent/protocol/messages.h"
#include "base/format.h"
#include "base/temporary_directory.h"
#include "base/unix_socket.h"
#include "runtime/network/namespace.h"
#include "tests/support/network_namespace.h"
#include "tests/support/socket_reading.h"

namespace kiln::runtime {
namespace {

sockaddr_in local_address(const char* text, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  inet_pton(AF_INET, text, &address.sin_addr);
  return address;
}

// The test is the guest, which dials, and the name server.
class ResolverRelayTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(kiln::enter_network_namespace());
    ASSERT_TRUE(set_link_up("lo", true));
    loop_ = std::move(*EventLoop::create());
    vsock_path_ = directory_.path() + "/vsock";
    auto made = ResolverRelay::listen(*loop_, vsock_path_);
    ASSERT_TRUE(made) << made.error().message;
    relay_ = std::move(*made);
  }

  UniqueFd dial(std::string_view first) {
    UniqueFd fd = std::move(*connect_unix(fmt::format("{}_{}", vsock_path_, 1026)));
    put(fd, first);
    return fd;
  }
  static UniqueFd serve(int type, const char* address = "127.0.0.11") {
    UniqueFd fd(socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const sockaddr_in bound = local_address(address, 53);
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&bound), sizeof bound), 0);
    if (type == SOCK_STREAM) {
      EXPECT_EQ(listen(fd.get(), 8), 0);
    }
    return fd;
  }
  static void put(const UniqueFd& fd, std::string_view text) {
    if (text.empty()) return;
    ASSERT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  void turn(int times = 20) {
    for (int i = 0; i < times; ++i) ASSERT_TRUE(loop_->run_once(1));
  }
  // One datagram, and who asked.
  std::string question(const UniqueFd& server, sockaddr_in& from) {
    std::array<char, 70000> buffer{};
    for (int i = 0; i < 1000; ++i) {
      static_cast<void>(loop_->run_once(10));
      socklen_t size = sizeof from;
      const ssize_t got = recvfrom(server.get(), buffer.data(), buffer.size(), MSG_DONTWAIT,
                                   reinterpret_cast<sockaddr*>(&from), &size);
      if (got >= 0) return {buffer.data(), static_cast<size_t>(got)};
    }
    ADD_FAILURE() << "nobody asked";
    return {};
  }
  static void answer(const UniqueFd& server, const sockaddr_in& to, std::string_view text) {
    ASSERT_EQ(sendto(server.get(), text.data(), text.size(), 0,
                     reinterpret_cast<const sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(text.size()));
  }
  UniqueFd accept(const UniqueFd& server) {
    for (int i = 0; i < 1000; ++i) {
      static_cast<void>(loop_->run_once(10));
      UniqueFd fd(accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (fd) return fd;
    }
    ADD_FAILURE() << "nobody connected";
    return {};
  }
  std::string take(const UniqueFd& fd, size_t size) { return take_bytes(*loop_, fd, size); }

  TemporaryDirectory directory_ = std::move(*TemporaryDirectory::create("/tmp", "kiln-resolver-"));
  std::string vsock_path_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ResolverRelay> relay_;
};

TEST_F(ResolverRelayTest, CarriesDatagramsAndTheirAnswers) {
  const UniqueFd server = serve(SOCK_DGRAM);
  const UniqueFd guest = dial("u" + framed("who is web?") + framed("and db?"));
  sockaddr_in from{};
  EXPECT_EQ(question(server, from), "who is web?");
  EXPECT_EQ(question(server, from), "and db?");
  answer(server, from, "10.0.0.2");
  EXPECT_EQ(take(guest, 12), framed("10.0.0.2"));
}

TEST_F(ResolverRelayTest, FramesMayComeInPieces) {
  const UniqueFd server = serve(SOCK_DGRAM);
  const UniqueFd guest = dial("");
  turn(2);
  const std::string sent = "u" + framed(std::string(300, 'q'));
  for (const char c : sent) {
    put(guest, {&c, 1});
    turn(1);
  }
  sockaddr_in from{};
  EXPECT_EQ(question(server, from), std::string(300, 'q'));
}

TEST_F(ResolverRelayTest, OnlyTheNameServerItselfAnswers) {
  const UniqueFd server = serve(SOCK_DGRAM);
  const UniqueFd impostor = serve(SOCK_DGRAM, "127.0.0.12");
  const UniqueFd guest = dial("u" + framed("q"));
  sockaddr_in from{};
  EXPECT_EQ(question(server, from), "q");
  answer(impostor, from, "false");
  turn();
  answer(server, from, "true");
  EXPECT_EQ(take(guest, 8), framed("true"));
}

TEST_F(ResolverRelayTest, ANameServerOfAnotherNamespaceIsAskedThere) {
  const UniqueFd here = std::move(*current_network_namespace());
  ASSERT_TRUE(make_network_namespace());
  const UniqueFd there = std::move(*current_network_namespace());
  const UniqueFd server = serve(SOCK_DGRAM, "127.0.0.53");
  const UniqueFd streams = serve(SOCK_STREAM, "127.0.0.53");
  ASSERT_TRUE(runtime::enter_network_namespace(here.get()));
  relay_.reset();
  ASSERT_EQ(unlink(fmt::format("{}_{}", vsock_path_, 1026).c_str()), 0);
  relay_ = std::move(*ResolverRelay::listen(*loop_, vsock_path_, {0x7f000035, there.get()}));
  const UniqueFd guest = dial("u" + framed("q"));
  sockaddr_in from{};
  EXPECT_EQ(question(server, from), "q");
  answer(server, from, "a");
  EXPECT_EQ(take(guest, 5), framed("a"));
  const UniqueFd other = dial("tquestion");
  EXPECT_EQ(take(accept(streams), 8), "question");
  EXPECT_TRUE(*is_same_namespace(current_network_namespace()->get(), here.get()));
}

TEST_F(ResolverRelayTest, AskingBeforeTheNameServerListensDoesNoHarm) {
  const UniqueFd guest = dial("u" + framed("early"));
  turn();
  const UniqueFd server = serve(SOCK_DGRAM);
  put(guest, framed("late"));
  sockaddr_in from{};
  EXPECT_EQ(question(server, from), "late");
}

TEST_F(ResolverRelayTest, CarriesAStreamBothWays) {
  const UniqueFd server = serve(SOCK_STREAM);
  const UniqueFd guest = dial("tquestion");
  const UniqueFd peer = accept(server);
  EXPECT_EQ(take(peer, 8), "question");
  const std::string large(100'000, 'a');
  put(peer, large);
  EXPECT_EQ(take(guest, large.size()), large);
  shutdown(guest.get(), SHUT_WR);
  EXPECT_EQ(take(peer, 1), "");
  EXPECT_EQ(relay_->connections(), 1U);
  shutdown(peer.get(), SHUT_WR);
  EXPECT_EQ(take(guest, 1), "");
  EXPECT_EQ(relay_->connections(), 0U);
}

TEST_F(ResolverRelayTest, AStreamThatNobodyTakesEnds) {
  const UniqueFd guest = dial("tquestion");
  EXPECT_EQ(take(guest, 1), "");
  turn();
  EXPECT_EQ(relay_->connections(), 0U);
}

TEST_F(ResolverRelayTest, AGuestThatGoesTakesItsConnectionWithIt) {
  const UniqueFd server = serve(SOCK_DGRAM);
  UniqueFd guest = dial("u" + framed("q"));
  sockaddr_in from{};
  EXPECT_EQ(question(server, from), "q");
  guest.reset();
  turn();
  EXPECT_EQ(relay_->connections(), 0U);
}

TEST_F(ResolverRelayTest, RefusesWhatIsNeitherDatagramsNorAStream) {
  const UniqueFd guest = dial("x");
  EXPECT_EQ(take(guest, 1), "");
  EXPECT_EQ(relay_->connections(), 0U);
}

TEST_F(ResolverRelayTest, RefusesAFrameThatIsNoDatagram) {
  const UniqueFd guest = dial("u" + std::string("\x00\x00\x01\x00", 4));
  EXPECT_EQ(take(guest, 1), "");
  EXPECT_EQ(relay_->connections(), 0U);
}

TEST_F(ResolverRelayTest, HasABoundedNumberOfConnections) {
  std::vector<UniqueFd> guests;
  for (size_t i = 0; i < ResolverRelay::kMaxConnections + 5; ++i) {
    guests.push_back(dial(""));
    turn(1);
  }
  turn();
  EXPECT_EQ(relay_->connections(), ResolverRelay::kMaxConnections);
  EXPECT_EQ(take(guests.back(), 1), "") << "closed at once";
  guests.front().reset();
  turn();
  const UniqueFd server = serve(SOCK_DGRAM);
  const UniqueFd again = dial("u" + framed("q"));
  sockaddr_in from{};
  EXPECT_EQ(question(server, from), "q");
}

TEST_F(ResolverRelayTest, AGuestThatDoesNotReadLosesAnswersAndNothingElse) {
  const UniqueFd server = serve(SOCK_DGRAM);
  const UniqueFd guest = dial("u" + framed("q"));
  sockaddr_in from{};
  EXPECT_EQ(question(server, from), "q");
  const std::string large(60'000, 'x');
  for (int i = 0; i < 100; ++i) {
    answer(server, from, large);
    turn(1);
  }
  const UniqueFd other = dial("u" + framed("other"));
  EXPECT_EQ(question(server, from), "other");
  answer(server, from, "yes");
  EXPECT_EQ(take(other, 7), framed("yes"));
  // What it reads late are whole frames: a few.
  std::string late = take(guest, large.size() + 4);
  EXPECT_EQ(late, framed(large));
}

}  // namespace
}  // namespace kiln::runtime
