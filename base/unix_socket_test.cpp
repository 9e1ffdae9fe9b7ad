// SPDX-License-Identifier: Apache-2.0
#include "base/unix_socket.h"

#include <array>
#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

#include "base/file.h"

namespace kiln {
namespace {

TEST(UnixSocket, DescriptorsArriveWithTheirMessage) {
  auto [here, there] = *socket_pair(SOCK_SEQPACKET);
  const UniqueFd null = *open_file("/dev/null", O_RDONLY);
  const std::array fds{null.get(), here.get()};
  ASSERT_TRUE(send_with_fds(here.get(), "hello", fds));
  const auto message = receive_with_fds(there.get(), 16);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->bytes, "hello");
  ASSERT_EQ(message->fds.size(), 2U);
  EXPECT_EQ(fcntl(message->fds[0].get(), F_GETFD), FD_CLOEXEC);
}

TEST(UnixSocket, TruncatedMessageIsAnErrorAndKeepsNoDescriptor) {
  auto [here, there] = *socket_pair(SOCK_SEQPACKET);
  const std::array fds{here.get()};
  ASSERT_TRUE(send_with_fds(here.get(), "too long", fds));
  EXPECT_FALSE(receive_with_fds(there.get(), 4));
}

TEST(UnixSocket, ClosedPeerReadsAsAnEmptyMessage) {
  auto [here, there] = *socket_pair(SOCK_SEQPACKET);
  here.reset();
  const auto message = receive_with_fds(there.get(), 4);
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->bytes.empty());
}

TEST(UnixSocket, PathLongerThanSunPathWorks) {
  std::string root = (std::filesystem::temp_directory_path() / "kiln-sock-XXXXXX").native();
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  const std::string directory = root + "/" + std::string(120, 'd');
  ASSERT_TRUE(make_directories(directory, 0700));
  const auto listener = listen_unix(directory + "/s");
  ASSERT_TRUE(listener);
  EXPECT_TRUE(connect_unix(directory + "/s"));
  std::filesystem::remove_all(root);
}

TEST(Frame, RoundTrip) {
  auto [here, there] = *socket_pair(SOCK_STREAM);
  ASSERT_TRUE(send_frame(here.get(), "{}"));
  ASSERT_TRUE(send_frame(here.get(), ""));
  EXPECT_EQ(*receive_frame(there.get(), 16), "{}");
  EXPECT_EQ(*receive_frame(there.get(), 16), "");
}

TEST(Frame, LongerThanAllowedIsAnError) {
  auto [here, there] = *socket_pair(SOCK_STREAM);
  ASSERT_TRUE(send_frame(here.get(), "12345"));
  EXPECT_EQ(receive_frame(there.get(), 4).error().kind, ErrorKind::kOutOfRange);
}

TEST(Frame, EndBetweenFramesDiffersFromEndInsideOne) {
  auto [here, there] = *socket_pair(SOCK_STREAM);
  ASSERT_TRUE(write_fully(here.get(), std::string_view("\5\0\0\0ab", 6)));
  here.reset();
  EXPECT_EQ(receive_frame(there.get(), 16).error().kind, ErrorKind::kDataLoss);
  EXPECT_EQ(receive_frame(there.get(), 16).error().kind, ErrorKind::kUnavailable);
}

}  // namespace
}  // namespace kiln
