// SPDX-License-Identifier: Apache-2.0
#include "base/relay.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <thread>

#include "base/file.h"
#include "base/unix_socket.h"

namespace kiln {
namespace {

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

Pipe make_pipe() {
  std::array<int, 2> fds{};
  EXPECT_EQ(pipe2(fds.data(), O_CLOEXEC), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::string pattern(size_t size) {
  std::string out(size, '\0');
  uint32_t state = 1;
  for (char& c : out) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return out;
}

class RelayTest : public testing::Test {
 protected:
  void SetUp() override { loop_ = std::move(*EventLoop::create()); }

  std::unique_ptr<Relay> start(UniqueFd source, UniqueFd sink) {
    return std::move(
        *Relay::create(*loop_, std::move(source), std::move(sink), [this] { done_ = true; }));
  }
  void run_until_done() {
    for (int i = 0; i < 100000 && !done_; ++i) ASSERT_TRUE(loop_->run_once(1000));
    ASSERT_TRUE(done_);
  }

  std::unique_ptr<EventLoop> loop_;
  bool done_ = false;
};

TEST_F(RelayTest, PipeToSocketCarriesEveryByteAndThenTheEnd) {
  Pipe source = make_pipe();
  auto [here, there] = *socket_pair(SOCK_STREAM);
  const std::string sent = pattern(3 << 20);
  std::thread writer([&] {
    EXPECT_TRUE(write_fully(source.write_end.get(), sent));
    source.write_end.reset();
  });
  std::string received;
  std::thread reader([&, fd = there.get()] { received = *read_fd(fd, 8 << 20); });
  const auto relay = start(std::move(source.read_end), std::move(here));
  run_until_done();
  writer.join();
  reader.join();
  EXPECT_EQ(received, sent);
}

TEST_F(RelayTest, AtTheEndASocketIsOnlyHalfClosed) {
  Pipe source = make_pipe();
  auto [here, there] = *socket_pair(SOCK_STREAM);
  const UniqueFd other_direction(dup(here.get()));
  source.write_end.reset();
  const auto relay = start(std::move(source.read_end), std::move(here));
  run_until_done();
  char byte = 0;
  EXPECT_EQ(read(there.get(), &byte, 1), 0);
  EXPECT_EQ(send(there.get(), "x", 1, MSG_NOSIGNAL), 1);
  EXPECT_EQ(read(other_direction.get(), &byte, 1), 1);
}

TEST_F(RelayTest, ASlowReaderStopsTheReadingAndLosesNothing) {
  Pipe source = make_pipe();
  Pipe sink = make_pipe();
  const std::string sent = pattern(1 << 20);
  std::thread writer([&] {
    EXPECT_TRUE(write_fully(source.write_end.get(), sent));
    source.write_end.reset();
  });
  const auto relay = start(std::move(source.read_end), std::move(sink.write_end));
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(loop_->run_once(2));
  EXPECT_TRUE(relay->blocked());
  EXPECT_LT(relay->bytes_copied(), size_t{256} << 10);
  std::string received;
  std::thread reader([&] { received = *read_fd(sink.read_end.get(), 8 << 20); });
  run_until_done();
  writer.join();
  reader.join();
  EXPECT_EQ(received, sent);
}

TEST_F(RelayTest, TheSharedDescriptorStaysBlocking) {
  Pipe source = make_pipe();
  Pipe sink = make_pipe();
  const UniqueFd shared(dup(sink.write_end.get()));
  const auto relay = start(std::move(source.read_end), std::move(sink.write_end));
  ASSERT_TRUE(loop_->run_once(0));
  EXPECT_EQ(fcntl(shared.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(RelayTest, WhenTheSinkHasNoReaderTheWriterOfTheSourceLearnsOfIt) {
  signal(SIGPIPE, SIG_IGN);
  auto [here, there] = *socket_pair(SOCK_STREAM);
  Pipe sink = make_pipe();
  sink.read_end.reset();
  const auto relay = start(std::move(here), std::move(sink.write_end));
  ASSERT_EQ(send(there.get(), "x", 1, MSG_NOSIGNAL), 1);
  run_until_done();
  EXPECT_EQ(send(there.get(), "x", 1, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, EPIPE);
}

TEST_F(RelayTest, ASourceThatIsSaidToEndGivesWhatItHasFirst) {
  Pipe in = make_pipe();
  Pipe out = make_pipe();
  const auto relay = start(std::move(in.read_end), std::move(out.write_end));
  ASSERT_EQ(write(in.write_end.get(), "last words", 10), 10);
  relay->end_source();
  run_until_done();
  std::array<char, 32> buffer{};
  EXPECT_EQ(read(out.read_end.get(), buffer.data(), buffer.size()), 10);
  EXPECT_EQ(read(out.read_end.get(), buffer.data(), buffer.size()), 0);
}

TEST_F(RelayTest, RegularFilesAndDevicesWorkWithoutEpoll) {
  std::array<char, 32> path{"/tmp/kiln-relay-XXXXXX"};
  UniqueFd file(mkstemp(path.data()));
  unlink(path.data());
  const std::string content = pattern(300'000);
  ASSERT_TRUE(write_fully(file.get(), content));
  ASSERT_EQ(lseek(file.get(), 0, SEEK_SET), 0);
  auto [here, there] = *socket_pair(SOCK_STREAM);
  std::string received;
  std::thread reader([&, fd = there.get()] { received = *read_fd(fd, 8 << 20); });
  const auto relay = start(std::move(file), std::move(here));
  run_until_done();
  reader.join();
  EXPECT_EQ(received, content);
}

TEST_F(RelayTest, ADeviceWithoutPollCanBeTheSink) {
  Pipe source = make_pipe();
  ASSERT_TRUE(write_fully(source.write_end.get(), "ignored"));
  source.write_end.reset();
  const auto relay = start(std::move(source.read_end), *open_file("/dev/null", O_WRONLY));
  run_until_done();
  EXPECT_EQ(relay->bytes_copied(), 7U);
}

TEST_F(RelayTest, ANullSourceEndsAtOnce) {
  auto [here, there] = *socket_pair(SOCK_STREAM);
  const auto relay = start(*open_file("/dev/null", O_RDONLY), std::move(here));
  run_until_done();
  char byte = 0;
  EXPECT_EQ(read(there.get(), &byte, 1), 0);
}

}  // namespace
}  // namespace kiln
