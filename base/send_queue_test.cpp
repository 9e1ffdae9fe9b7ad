// SPDX-License-Identifier: Apache-2.0
#include "base/send_queue.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>
#include <utility>

#include "base/unix_socket.h"

namespace kiln {
namespace {

class SendQueueTest : public testing::Test {
 protected:
  std::string receive() {
    std::string got(1 << 20, '\0');
    const ssize_t size = recv(peer_.get(), got.data(), got.size(), MSG_DONTWAIT);
    got.resize(size > 0 ? static_cast<size_t>(size) : 0);
    return got;
  }

  std::pair<UniqueFd, UniqueFd> pair_ = *socket_pair(SOCK_STREAM);
  UniqueFd socket_ = std::move(pair_.first);
  UniqueFd peer_ = std::move(pair_.second);
  SendQueue queue_;
};

TEST_F(SendQueueTest, SendsWhatTheSocketTakes) {
  queue_.append("one ");
  queue_.append("two");
  EXPECT_EQ(queue_.size(), 7U);
  queue_.flush(socket_.get());
  EXPECT_TRUE(queue_.empty());
  EXPECT_EQ(receive(), "one two");
}

TEST_F(SendQueueTest, WhatDoesNotFitWaitsInOrder) {
  std::string all;
  for (int i = 0; all.size() < 4U << 20; ++i) all += std::to_string(i) + ' ';
  queue_.append(all);
  queue_.flush(socket_.get());
  EXPECT_GT(queue_.size(), 0U);
  EXPECT_LT(queue_.size(), all.size());
  std::string got;
  while (!queue_.empty()) {
    got += receive();
    queue_.flush(socket_.get());
  }
  for (std::string more = receive(); !more.empty(); more = receive()) got += more;
  EXPECT_EQ(got, all);
}

TEST_F(SendQueueTest, WhatNobodyCanGetIsDropped) {
  peer_.reset();
  queue_.append("lost");
  queue_.flush(socket_.get());
  EXPECT_TRUE(queue_.empty());
}

}  // namespace
}  // namespace kiln
