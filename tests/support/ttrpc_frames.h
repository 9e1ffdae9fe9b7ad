// SPDX-License-Identifier: Apache-2.0
// ttrpc's bytes as a test's own peer sends and reads them.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/unique_fd.h"
#include "shim/ttrpc/message_connection.h"
#include "tests/support/socket_reading.h"
#include "tests/support/ttrpc_frame.h"
#include "ttrpc.pb.h"

namespace kiln::ttrpc {

inline std::string data_frame(uint32_t stream, uint8_t flags, std::string_view data) {
  return frame(stream, static_cast<uint8_t>(MessageType::kData), flags, data);
}

inline std::string request_frame(uint32_t stream, const api::Request& request, uint8_t flags = 0) {
  return frame(stream, static_cast<uint8_t>(MessageType::kRequest), flags,
               request.SerializeAsString());
}

inline api::Request request_of(const std::string& method, const std::string& payload = "",
                               int64_t timeout_ns = 0) {
  api::Request request;
  request.set_service("test.Service");
  request.set_method(method);
  request.set_payload(payload);
  request.set_timeout_nano(timeout_ns);
  return request;
}

inline std::string response_frame(uint32_t stream, const std::string& payload, int code = 0,
                                  const std::string& text = "") {
  api::Response response;
  response.mutable_status()->set_code(code);
  response.mutable_status()->set_message(text);
  response.set_payload(payload);
  return frame(stream, static_cast<uint8_t>(MessageType::kResponse), 0,
               response.SerializeAsString());
}

// The next frame on `fd`, whose other end `loop` drives; stream 0 at the end, or when none comes.
inline Message take_frame(EventLoop& loop, const UniqueFd& fd) {
  Message out;
  const std::string header = take_bytes(loop, fd, kHeaderBytes);
  if (header.size() < kHeaderBytes) return out;
  const auto number = [&header](size_t at) {
    uint32_t value = 0;
    for (size_t i = at; i < at + 4; ++i) value = value << 8 | static_cast<uint8_t>(header[i]);
    return value;
  };
  out.stream = number(4);
  out.type = static_cast<uint8_t>(header[8]);
  out.flags = static_cast<uint8_t>(header[9]);
  out.data = take_bytes(loop, fd, number(0));
  return out;
}

// The same of a response.
struct Answer {
  uint32_t stream = 0;
  int code = -1;
  std::string text;
  std::string payload;
};
inline Answer take_answer(EventLoop& loop, const UniqueFd& fd) {
  const Message message = take_frame(loop, fd);
  api::Response response;
  EXPECT_EQ(message.type, static_cast<uint8_t>(MessageType::kResponse));
  EXPECT_TRUE(response.ParseFromString(message.data));
  return {message.stream, response.status().code(), response.status().message(),
          response.payload()};
}

// What a blocking socket has room for.
inline void put(const UniqueFd& fd, std::string_view bytes) {
  EXPECT_TRUE(write_fully(fd.get(), bytes));
}

// The same when it has less: `loop` reads at the other end meanwhile.
inline void put_all(EventLoop& loop, const UniqueFd& fd, std::string_view bytes) {
  for (int i = 0; i < 100'000 && !bytes.empty(); ++i) {
    const ssize_t sent = ::send(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) bytes.remove_prefix(static_cast<size_t>(sent));
    ASSERT_TRUE(loop.run_once(0));
  }
  EXPECT_TRUE(bytes.empty());
}

inline void turn(EventLoop& loop, int times = 3) {
  for (int i = 0; i < times; ++i) ASSERT_TRUE(loop.run_once(0));
}

// Until `condition`, ten seconds at most.
template <typename Condition>
bool turn_until(EventLoop& loop, Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition() && std::chrono::steady_clock::now() < end) {
    if (!loop.run_once(10)) return false;
  }
  return condition();
}

}  // namespace kiln::ttrpc
