// SPDX-License-Identifier: Apache-2.0
// Streams to ports of a pod's localhost, which is this machine's own here.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "agent/core/fake_guest.h"
#include "agent/core/localhost_dials.h"
#include "base/format.h"
#include "oci/parse.h"
#include "tests/support/socket_reading.h"

namespace kiln::agent {
namespace {

// Bound to a port of its own; takes nobody before listen(2).
UniqueFd bind_local(const sockaddr_storage& address, socklen_t size, uint16_t& port) {
  UniqueFd fd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) return {};
  sockaddr_storage bound{};
  socklen_t bound_size = sizeof bound;
  getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &bound_size);
  // At the same place in both families.
  port = ntohs(reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
  return fd;
}

UniqueFd bind_v4(uint16_t& port) {
  sockaddr_storage address{};
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
  v4->sin_family = AF_INET;
  v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return bind_local(address, sizeof *v4, port);
}

UniqueFd bind_v6(uint16_t& port) {
  sockaddr_storage address{};
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address);
  v6->sin6_family = AF_INET6;
  v6->sin6_addr = in6addr_loopback;
  return bind_local(address, sizeof *v6, port);
}

class LocalhostDialsTest : public ServerTest {
 protected:
  // By the name that ServerTest::dial() gives.
  void make_pod() {
    adopt();
    const protocol::PodRequest request{"c1", oci::to_json(oci::default_spec(false))};
    ASSERT_FALSE(ask("pod", protocol::to_json(request)).error);
  }
  UniqueFd accept_one(const UniqueFd& listener) {
    UniqueFd taken;
    until(
        [&] {
          if (!taken)
            taken.reset(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
          return taken.valid();
        },
        "nobody has connected");
    return taken;
  }
  void put(const UniqueFd& fd, std::string_view text) {
    ASSERT_EQ(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  std::string take(const UniqueFd& fd, size_t size) { return take_bytes(*loop_, fd, size); }
};

TEST_F(LocalhostDialsTest, BothDirectionsAreCarriedAndEndOneByOne) {
  make_pod();
  uint16_t port = 0;
  const UniqueFd listener = bind_v4(port);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  const UniqueFd host = dial(protocol::port_stream(port));
  const UniqueFd served = accept_one(listener);
  put(host, "question");
  EXPECT_EQ(take(served, 8), "question");
  shutdown(host.get(), SHUT_WR);
  EXPECT_EQ(drain(served), "");
  put(served, "answer");
  shutdown(served.get(), SHUT_WR);
  EXPECT_EQ(drain(host), "answer");
}

TEST_F(LocalhostDialsTest, WhatListensOnIpv6AloneIsReached) {
  make_pod();
  uint16_t port = 0;
  const UniqueFd listener = bind_v6(port);
  if (!listener) GTEST_SKIP() << "bind ::1: " << errno_text(errno);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  const UniqueFd host = dial(protocol::port_stream(port));
  const UniqueFd served = accept_one(listener);
  put(served, "six");
  EXPECT_EQ(take(host, 3), "six");
}

TEST_F(LocalhostDialsTest, APortWithoutAServerIsRefused) {
  make_pod();
  uint16_t port = 0;
  const UniqueFd nobody = bind_v4(port);
  std::optional<Error> refusal;
  dial(protocol::port_stream(port), "", &refusal);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->message,
            fmt::format("port {} of the pod's localhost: connect: Connection refused", port));
}

TEST_F(LocalhostDialsTest, WithoutAPodNothingIsDialled) {
  run("sleep 100");
  uint16_t port = 0;
  const UniqueFd listener = bind_v4(port);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  std::optional<Error> refusal;
  dial(protocol::port_stream(port), "", &refusal);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->kind, ErrorKind::kNotFound);
  EXPECT_FALSE(UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)));
}

// A queue for connections that is full answers nobody.
TEST_F(LocalhostDialsTest, AServerThatTakesNobodyIsGivenUpInTime) {
  uint16_t port = 0;
  const UniqueFd listener = bind_v4(port);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  LocalhostDials dials(*loop_, 200);
  std::vector<UniqueFd> connected;
  std::vector<ErrorKind> refused;
  for (int i = 0; i < 4; ++i)
    dials.dial(port, [&](Result<UniqueFd> socket) {
      if (socket) {
        connected.push_back(std::move(*socket));
      } else {
        refused.push_back(socket.error().kind);
      }
    });
  until([&] { return connected.size() + refused.size() == 4; }, "no end");
  ASSERT_FALSE(refused.empty());
  EXPECT_EQ(refused.back(), ErrorKind::kDeadlineExceeded);
}

TEST_F(LocalhostDialsTest, AreBoundedInNumber) {
  uint16_t port = 0;
  const UniqueFd listener = bind_v4(port);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  LocalhostDials dials(*loop_);
  std::optional<ErrorKind> refused;
  for (size_t i = 0; i <= LocalhostDials::kMaxDials; ++i)
    dials.dial(port, [&](const Result<UniqueFd>& socket) {
      if (!socket) refused = socket.error().kind;
    });
  EXPECT_EQ(refused, ErrorKind::kResourceExhausted);
}

}  // namespace
}  // namespace kiln::agent
