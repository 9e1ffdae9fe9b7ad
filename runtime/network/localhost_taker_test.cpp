// SPDX-License-Identifier: Apache-2.0
// In a network namespace of this process. Last in its program's list: there is no way back from it.
#include "runtime/network/localhost_taker.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <optional>

#include "base/format.h"
#include "runtime/network/namespace.h"

namespace kiln::runtime {
namespace {

struct Address {
  sockaddr_storage bytes{};
  socklen_t size = sizeof(sockaddr_storage);
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&bytes); }
  uint16_t port() const {  // at the same place in both families
    return ntohs(reinterpret_cast<const sockaddr_in*>(&bytes)->sin_port);
  }
};

Address address_of(const char* text, uint16_t port) {
  Address out;
  if (std::strchr(text, ':') != nullptr) {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.bytes);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    inet_pton(AF_INET6, text, &v6->sin6_addr);
    out.size = sizeof *v6;
  } else {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&out.bytes);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    inet_pton(AF_INET, text, &v4->sin_addr);
    out.size = sizeof *v4;
  }
  return out;
}

class LocalhostTakerTest : public testing::Test {
 protected:
  void SetUp() override {
    // Not in a user namespace of its own: the kernel wants the first one's capabilities.
    if (const auto made = make_network_namespace(); !made) GTEST_SKIP() << made.error().message;
    auto started = LocalhostTaker::start();
    if (!started && (started.error().sys_errno == EPERM || started.error().sys_errno == EINVAL))
      GTEST_SKIP() << started.error().message;
    ASSERT_TRUE(started) << started.error().message;
    taker_.emplace(std::move(*started));
    listeners_ = taker_->take_listeners();
  }
  // The socket, if it has connected.
  static UniqueFd connect_to(const char* text, uint16_t port, int type = SOCK_STREAM) {
    const Address address = address_of(text, port);
    UniqueFd fd(socket(address.bytes.ss_family, type | SOCK_CLOEXEC, 0));
    if (fd && ::connect(fd.get(), address.get(), address.size) != 0) fd.reset();
    return fd;
  }
  static UniqueFd bound_to(const char* text, uint16_t port, int type = SOCK_STREAM) {
    const Address address = address_of(text, port);
    UniqueFd fd(socket(address.bytes.ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    EXPECT_EQ(bind(fd.get(), address.get(), address.size), 0) << errno_text(errno);
    if (type == SOCK_STREAM) {
      EXPECT_EQ(listen(fd.get(), 4), 0);
    }
    return fd;
  }
  // The port that the next connection was to; nothing if none waits.
  static std::optional<uint16_t> taken_by(const UniqueFd& listener) {
    const UniqueFd taken(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!taken) return std::nullopt;
    Address own;
    getsockname(taken.get(), reinterpret_cast<sockaddr*>(&own.bytes), &own.size);
    return own.port();
  }

  std::optional<LocalhostTaker> taker_;
  std::vector<UniqueFd> listeners_;
};

TEST_F(LocalhostTakerTest, ConnectionsToAnyPortOfBothAddressesAreTaken) {
  for (const uint16_t port : {uint16_t{1}, uint16_t{80}, uint16_t{65535}}) {
    EXPECT_TRUE(connect_to("127.0.0.1", port));
    EXPECT_EQ(taken_by(listeners_.at(0)), port);
    EXPECT_TRUE(connect_to("::ffff:127.0.0.1", port));
    EXPECT_EQ(taken_by(listeners_.at(0)), port);
    if (listeners_.size() > 1) {
      EXPECT_TRUE(connect_to("::1", port));
      EXPECT_EQ(taken_by(listeners_.at(1)), port);
    }
  }
}

TEST_F(LocalhostTakerTest, OtherAddressesAreLeftAlone) {
  EXPECT_FALSE(connect_to("127.0.0.2", 80));
  const UniqueFd names = bound_to("127.0.0.11", 53);
  EXPECT_TRUE(connect_to("127.0.0.11", 53));
  EXPECT_EQ(taken_by(names), 53);
  const UniqueFd everywhere = bound_to("0.0.0.0", 8080);
  EXPECT_TRUE(connect_to("127.0.0.3", 8080));
  EXPECT_EQ(taken_by(everywhere), 8080);
  for (const UniqueFd& listener : listeners_) EXPECT_FALSE(taken_by(listener));
}

TEST_F(LocalhostTakerTest, DatagramsAreLeftAlone) {
  const UniqueFd server = bound_to("127.0.0.1", 53, SOCK_DGRAM);
  const UniqueFd client = connect_to("127.0.0.1", 53, SOCK_DGRAM);
  ASSERT_EQ(send(client.get(), "q", 1, 0), 1);
  std::array<char, 8> buffer{};
  EXPECT_EQ(recv(server.get(), buffer.data(), buffer.size(), 0), 1);
}

TEST_F(LocalhostTakerTest, BytesAreCarriedAsOnAnyConnection) {
  const UniqueFd client = connect_to("127.0.0.1", 7);
  const UniqueFd taken(accept4(listeners_.at(0).get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(taken);
  ASSERT_EQ(send(client.get(), "there", 5, 0), 5);
  std::array<char, 8> buffer{};
  EXPECT_EQ(recv(taken.get(), buffer.data(), buffer.size(), 0), 5);
  ASSERT_EQ(send(taken.get(), "back", 4, 0), 4);
  EXPECT_EQ(recv(client.get(), buffer.data(), buffer.size(), 0), 4);
}

TEST_F(LocalhostTakerTest, NothingIsLeftOfIt) {
  EXPECT_NE(fcntl(listeners_.at(0).get(), F_GETFD) & FD_CLOEXEC, 0);
  taker_.reset();
  EXPECT_FALSE(connect_to("127.0.0.1", 80));
  listeners_.clear();
  const UniqueFd server = bound_to("127.0.0.1", 80);
  EXPECT_TRUE(connect_to("127.0.0.1", 80));
  EXPECT_EQ(taken_by(server), 80);
}

TEST_F(LocalhostTakerTest, AnotherNamespaceIsLeftAlone) {
  ASSERT_TRUE(make_network_namespace());
  EXPECT_FALSE(connect_to("127.0.0.1", 80));
  for (const UniqueFd& listener : listeners_) EXPECT_FALSE(taken_by(listener));
}

}  // namespace
}  // namespace kiln::runtime
