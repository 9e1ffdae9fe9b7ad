// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/fs/descriptor_closer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>

namespace kiln::vmm {
namespace {

// A pipe's reader and its only writer.
std::array<UniqueFd, 2> make_pipe() {
  std::array<int, 2> fds{};
  EXPECT_EQ(pipe2(fds.data(), O_CLOEXEC), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// The reader hangs up when the writer is closed.
bool hangs_up(const UniqueFd& reader, int timeout_ms) {
  pollfd poller{reader.get(), POLLIN, 0};
  return poll(&poller, 1, timeout_ms) == 1 && (poller.revents & POLLHUP) != 0;
}

TEST(DescriptorCloser, ClosesSoon) {
  auto [reader, writer] = make_pipe();
  DescriptorCloser closer;
  closer.close(std::move(writer));
  EXPECT_TRUE(hangs_up(reader, 10'000));
}

TEST(DescriptorCloser, HasClosedEverythingWhenItIsGone) {
  std::vector<UniqueFd> readers;
  {
    DescriptorCloser closer;
    for (int i = 0; i < 400; ++i) {
      auto [reader, writer] = make_pipe();
      readers.push_back(std::move(reader));
      closer.close(std::move(writer));
    }
  }
  for (const UniqueFd& reader : readers) EXPECT_TRUE(hangs_up(reader, 0));
}

TEST(DescriptorCloser, TakesWhatIsNoDescriptor) {
  DescriptorCloser closer;
  closer.close(UniqueFd());
}

}  // namespace
}  // namespace kiln::vmm
