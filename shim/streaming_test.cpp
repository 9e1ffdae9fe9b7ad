// SPDX-License-Identifier: Apache-2.0
#include "shim/streaming.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "base/unix_socket.h"
#include "shim.pb.h"
#include "shim/ttrpc/client.h"
#include "tests/support/ttrpc_frames.h"

namespace kiln::shim {
namespace {

using ttrpc::turn;
using ttrpc::turn_until;

template <typename Message>
std::string any(const char* type, const Message& message) {
  api::Any out;
  out.set_type_url(type);
  out.set_value(message.SerializeAsString());
  return out.SerializeAsString();
}

// containerd's end of one stream.
struct Peer {
  std::unique_ptr<ttrpc::Client> client;
  uint32_t stream = 0;
  bool known = false;
  std::string data;
  int64_t window = 0;
  bool ended = false;
};

class StreamingTest : public testing::Test {
 protected:
  void SetUp() override {
    server_ = *ttrpc::Server::create(*loop_, UniqueFd(), {streaming_.method()});
  }

  std::unique_ptr<Peer> connect(const std::string& id) {
    auto pair = *socket_pair(SOCK_STREAM);
    EXPECT_TRUE(server_->adopt(std::move(pair.second)));
    auto peer = std::make_unique<Peer>();
    peer->client = *ttrpc::Client::create(*loop_, std::move(pair.first), [](const Error&) {});
    Peer* raw = peer.get();
    ttrpc::Client::StreamCallbacks callbacks;
    callbacks.on_data = [raw](const std::string& data) { take(*raw, data); };
    callbacks.on_end = [raw](const Result<void>&) { raw->ended = true; };
    peer->stream = peer->client->open_stream(
        {"containerd.services.streaming.v1.Streaming", "Stream", ""}, std::move(callbacks));
    api::StreamInit init;
    init.set_id(id);
    peer->client->send(peer->stream, any("containerd.services.streaming.v1.StreamInit", init));
    EXPECT_TRUE(turn_until(*loop_, [&] { return peer->known; }));
    return peer;
  }
  static void take(Peer& peer, const std::string& data) {
    if (!std::exchange(peer.known, true)) return;
    api::Any message;
    ASSERT_TRUE(message.ParseFromString(data));
    api::Data piece;
    api::WindowUpdate update;
    if (message.type_url() == "containerd.types.transfer.Data") {
      ASSERT_TRUE(piece.ParseFromString(message.value()));
      peer.data += piece.data();
    } else {
      ASSERT_TRUE(update.ParseFromString(message.value()));
      peer.window += update.update();
    }
  }
  static void grant(Peer& peer, int32_t bytes) {
    api::WindowUpdate update;
    update.set_update(bytes);
    peer.client->send(peer.stream, any("containerd.types.transfer.WindowUpdate", update));
  }
  static void put(Peer& peer, const std::string& text) {
    api::Data data;
    data.set_data(text);
    peer.client->send(peer.stream, any("containerd.types.transfer.Data", data));
  }
  // The process's end of what `prepare` has made of these URIs.
  UniqueFd process_end(StdioPaths paths, size_t which) {
    EXPECT_TRUE(streaming_.prepare(paths));
    return std::move(*paths.streams[which]);
  }
  static std::string read_now(int fd) {
    std::array<char, 4096> buffer{};
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    return got < 0 ? "EAGAIN" : std::string(buffer.data(), static_cast<size_t>(got));
  }

  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  Streaming streaming_{*loop_};
  std::unique_ptr<ttrpc::Server> server_;
  StdioPaths in_{"ttrpc+unix:///s?streaming_id=c-stdin", "", "", false};
  StdioPaths out_{"", "ttrpc+unix:///s?streaming_id=c-stdout", "", false};
};

TEST_F(StreamingTest, TheIdIsOfTheQuery) {
  EXPECT_EQ(Streaming::stream_id("ttrpc+unix:///run/s?streaming_id=a-b&x=y"), "a-b");
  EXPECT_EQ(Streaming::stream_id("/run/fifo"), "");
  EXPECT_EQ(Streaming::stream_id("binary:///logger?path=x"), "");
}

TEST_F(StreamingTest, OutputGoesAsFarAsTheWindow) {
  const UniqueFd end = process_end(out_, 1);
  ASSERT_EQ(write(end.get(), "0123456789", 10), 10);
  const auto peer = connect("c-stdout");
  turn(*loop_);
  EXPECT_EQ(peer->data, "");
  grant(*peer, 4);
  ASSERT_TRUE(turn_until(*loop_, [&] { return peer->data == "0123"; }));
  grant(*peer, 100);
  ASSERT_TRUE(turn_until(*loop_, [&] { return peer->data == "0123456789"; }));
  EXPECT_FALSE(peer->ended);
}

TEST_F(StreamingTest, TheProcesssEndIsTheStreamsAfterAllItsOutput) {
  UniqueFd end = process_end(out_, 1);
  const auto peer = connect("c-stdout");
  grant(*peer, 1 << 20);
  ASSERT_EQ(write(end.get(), "last", 4), 4);
  end.reset();
  ASSERT_TRUE(turn_until(*loop_, [&] { return peer->ended; }));
  EXPECT_EQ(peer->data, "last");
}

TEST_F(StreamingTest, AStreamThatComesBeforeItsProcessWaits) {
  const auto peer = connect("c-stdout");
  grant(*peer, 100);
  turn(*loop_);
  const UniqueFd end = process_end(out_, 1);
  ASSERT_EQ(write(end.get(), "hello", 5), 5);
  ASSERT_TRUE(turn_until(*loop_, [&] { return peer->data == "hello"; }));
}

TEST_F(StreamingTest, WhatAConnectionsEndHasCutOffGoesOnOnTheNext) {
  const UniqueFd end = process_end(out_, 1);
  auto peer = connect("c-stdout");
  peer.reset();
  turn(*loop_);
  ASSERT_EQ(write(end.get(), "kept", 4), 4);
  const auto next = connect("c-stdout");
  grant(*next, 100);
  ASSERT_TRUE(turn_until(*loop_, [&] { return next->data == "kept"; }));
}

TEST_F(StreamingTest, InputArrivesAndItsEndToo) {
  const UniqueFd end = process_end(in_, 0);
  const auto peer = connect("c-stdin");
  ASSERT_TRUE(turn_until(*loop_, [&] { return peer->window > 0; }));
  put(*peer, "typed");
  turn(*loop_);
  EXPECT_EQ(read_now(end.get()), "typed");
  EXPECT_EQ(read_now(end.get()), "EAGAIN");
  peer->client->end_sending(peer->stream);
  turn(*loop_);
  EXPECT_EQ(read_now(end.get()), "");
}

TEST_F(StreamingTest, InputDoesNotEndWithAConnection) {
  const UniqueFd end = process_end(in_, 0);
  connect("c-stdin").reset();
  turn(*loop_);
  EXPECT_EQ(read_now(end.get()), "EAGAIN");
  const auto next = connect("c-stdin");
  ASSERT_TRUE(turn_until(*loop_, [&] { return next->window > 0; }));
  put(*next, "again");
  turn(*loop_);
  EXPECT_EQ(read_now(end.get()), "again");
}

TEST_F(StreamingTest, WhoSendsMoreThanTheWindowIsCutOff) {
  const UniqueFd end = process_end(in_, 0);
  const auto peer = connect("c-stdin");
  for (int i = 0; i < 20 && !peer->ended; ++i) {
    put(*peer, std::string(size_t{64} << 10, 'x'));
    turn(*loop_);
  }
  EXPECT_TRUE(peer->ended);
}

TEST_F(StreamingTest, AnIdIsOneProcesss) {
  const UniqueFd end = process_end(out_, 1);
  StdioPaths second = out_;
  EXPECT_FALSE(streaming_.prepare(second));
  streaming_.forget(out_);
  EXPECT_TRUE(streaming_.prepare(second));
}

TEST_F(StreamingTest, AStreamThatDoesNotBeginWithItsIdIsRefused) {
  auto pair = *socket_pair(SOCK_STREAM);
  ASSERT_TRUE(server_->adopt(std::move(pair.second)));
  const auto client = *ttrpc::Client::create(*loop_, std::move(pair.first), [](const Error&) {});
  std::optional<Result<void>> end;
  ttrpc::Client::StreamCallbacks callbacks;
  callbacks.on_data = [](const std::string&) {};
  callbacks.on_end = [&end](Result<void> outcome) { end = std::move(outcome); };
  const uint32_t stream = client->open_stream(
      {"containerd.services.streaming.v1.Streaming", "Stream", ""}, std::move(callbacks));
  client->send(stream, "nonsense");
  ASSERT_TRUE(turn_until(*loop_, [&] { return end.has_value(); }));
  EXPECT_EQ(end->error().kind, ErrorKind::kInvalidArgument);
}

}  // namespace
}  // namespace kiln::shim
