// SPDX-License-Identifier: Apache-2.0
#include "runtime/passed_fds.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "base/file.h"
#include "base/temporary_directory.h"
#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

TEST(ListenFds, AreThoseOfThisProcessAlone) {
  unsetenv("LISTEN_PID");
  setenv("LISTEN_FDS", "2", 1);
  EXPECT_EQ(listen_fds().value_or(9), 0U);
  setenv("LISTEN_PID", "1", 1);
  EXPECT_EQ(listen_fds().value_or(9), 0U);
  setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
  EXPECT_EQ(listen_fds().value_or(9), 2U);
  setenv("LISTEN_FDS", "-1", 1);
  EXPECT_FALSE(listen_fds());
  setenv("LISTEN_PID", "me", 1);
  EXPECT_FALSE(listen_fds());
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDS");
}

TEST(PassedKinds, AreBoundedInNumber) {
  EXPECT_TRUE(passed_kinds(0, 0));
  const auto many = passed_kinds(protocol::kMaxPassedFds + 1, 0);
  ASSERT_FALSE(many);
  EXPECT_EQ(many.error().kind, ErrorKind::kInvalidArgument);
}

// The VM's vsock is a Unix socket whose other end the test plays.
class PassedListenerTest : public testing::Test {
 protected:
  void SetUp() override {
    vsock_ = *listen_unix(directory_.path() + "/vsock");
    passed_ = *PassedListener::create(*loop_, *listen_unix(path_),
                                      {directory_.path() + "/vsock", {"c1", "", "fd:3"}, 60'000});
  }
  void turn() {
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(loop_->run_once(0));
  }
  // The guest's end of the next stream, once the handshake is over.
  UniqueFd answer(const std::optional<Error>& refusal = std::nullopt) {
    turn();
    UniqueFd guest = *accept_unix(vsock_.get());
    std::string hello(13, '\0');
    EXPECT_EQ(*read_fully(guest.get(), hello.data(), hello.size()), hello.size());
    EXPECT_EQ(hello, "CONNECT 1025\n");
    EXPECT_TRUE(send_with_fds(guest.get(), "OK 7\n", {}));
    turn();
    const auto header = protocol::decode_stream_header(*receive_frame(guest.get(), 8192));
    EXPECT_TRUE(header && header->stream == "fd:3");
    EXPECT_TRUE(send_frame(guest.get(), protocol::encode_stream_reply(refusal)));
    turn();
    return guest;
  }
  std::string read_some(const UniqueFd& from) {
    turn();
    std::array<char, 64> text{};
    const ssize_t got = recv(from.get(), text.data(), text.size(), MSG_DONTWAIT);
    return got < 0 ? "nothing" : std::string(text.data(), static_cast<size_t>(got));
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "passed-");
  std::string path_ = directory_.path() + "/listener";
  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  UniqueFd vsock_;
  std::unique_ptr<PassedListener> passed_;
};

TEST_F(PassedListenerTest, CarriesBothDirectionsAndEndsThemOneByOne) {
  const UniqueFd client = *connect_unix(path_);
  const UniqueFd guest = answer();
  ASSERT_TRUE(send_with_fds(client.get(), "question", {}));
  EXPECT_EQ(read_some(guest), "question");
  shutdown(client.get(), SHUT_WR);
  EXPECT_EQ(read_some(guest), "");
  ASSERT_TRUE(send_with_fds(guest.get(), "answer", {}));
  EXPECT_EQ(read_some(client), "answer");
  shutdown(guest.get(), SHUT_WR);
  EXPECT_EQ(read_some(client), "");
}

TEST_F(PassedListenerTest, ClosesAConnectionThatTheGuestRefuses) {
  const UniqueFd client = *connect_unix(path_);
  answer(Error{ErrorKind::kUnavailable, ECONNREFUSED, "nobody listens"});
  EXPECT_EQ(read_some(client), "");
  const UniqueFd next = *connect_unix(path_);
  const UniqueFd guest = answer();
  ASSERT_TRUE(send_with_fds(guest.get(), "yes", {}));
  EXPECT_EQ(read_some(next), "yes");
}

// A listener on this machine's localhost, and what names its connections' streams.
class TcpListenerTest : public PassedListenerTest {
 protected:
  void SetUp() override {
    PassedListenerTest::SetUp();
    UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address_;
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address_), size), 0);
    ASSERT_EQ(listen(listener.get(), 4), 0);
    getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address_), &size);
    passed_ = *PassedListener::create(
        *loop_, std::move(listener),
        {directory_.path() + "/vsock", {"c1", "", "none"}, 60'000, [](int) { return "fd:3"; }});
  }
  UniqueFd connect_tcp() {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_), 0);
    return fd;
  }
  sockaddr_in address_{};
};

TEST_F(TcpListenerTest, NamesTheStreamByTheConnection) {
  const UniqueFd client = connect_tcp();
  const UniqueFd guest = answer();
  ASSERT_TRUE(send_with_fds(guest.get(), "hello", {}));
  EXPECT_EQ(read_some(client), "hello");
}

TEST_F(TcpListenerTest, ResetsAConnectionThatTheGuestRefuses) {
  const UniqueFd client = connect_tcp();
  answer(Error{ErrorKind::kUnavailable, ECONNREFUSED, "nobody listens"});
  char byte = 0;
  EXPECT_EQ(recv(client.get(), &byte, 1, MSG_DONTWAIT), -1);
  EXPECT_EQ(errno, ECONNRESET);
}

TEST_F(TcpListenerTest, AcceptsNobodyWhileItIsHeld) {
  passed_->hold(true);
  const UniqueFd client = connect_tcp();
  turn();
  pollfd waiting{vsock_.get(), POLLIN, 0};
  EXPECT_EQ(poll(&waiting, 1, 0), 0);
  passed_->hold(false);
  const UniqueFd guest = answer();
  ASSERT_TRUE(send_with_fds(client.get(), "late", {}));
  EXPECT_EQ(read_some(guest), "late");
}

TEST_F(PassedListenerTest, LeavesTheRestInTheBacklog) {
  std::vector<UniqueFd> clients;
  std::vector<UniqueFd> guests;
  for (size_t i = 0; i < PassedListener::kMaxConnections; ++i) {
    clients.push_back(*connect_unix(path_));
    guests.push_back(answer());
  }
  clients.push_back(*connect_unix(path_));
  turn();
  pollfd waiting{vsock_.get(), POLLIN, 0};
  EXPECT_EQ(poll(&waiting, 1, 0), 0);
  ASSERT_TRUE(send_with_fds(clients.back().get(), "late", {}));
  // One that ends makes room for it.
  clients.front().reset();
  guests.front().reset();
  const UniqueFd guest = answer();
  EXPECT_EQ(read_some(guest), "late");
}

TEST_F(PassedListenerTest, StopsAcceptingWhenItIsTold) {
  passed_->stop_accepting();
  EXPECT_FALSE(connect_unix(path_));
}

}  // namespace
}  // namespace kiln::runtime
