// SPDX-License-Identifier: Apache-2.0
// A peer that sends what it likes: to a ttrpc server whose methods answer now, later or never, and
// to a client with calls under way. The first byte says to which, and whether the rest is the bytes
// themselves or steps that make whole messages. Whatever is sent back must be what the protocol
// has.
#include <sys/socket.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/unix_socket.h"
#include "shim/ttrpc/client.h"
#include "shim/ttrpc/server.h"
#include "tests/support/ttrpc_frame.h"
#include "ttrpc.pb.h"

namespace {

using kiln::ByteReader;
using kiln::EventLoop;
using kiln::Result;
using kiln::UniqueFd;
using kiln::ttrpc::Client;
using kiln::ttrpc::kHeaderBytes;
using kiln::ttrpc::kMaxDataBytes;
using kiln::ttrpc::MessageType;
using kiln::ttrpc::Server;
using kiln::ttrpc::Stream;

constexpr int kMaxSteps = 64;
constexpr const char* kService = "s";
constexpr std::array<const char*, 6> kMethods = {"Echo", "Later", "Forget",
                                                 "Open", "Keep",  "Nothing"};

void turn(EventLoop& loop) {
  for (int i = 0; i < 2; ++i) {
    if (!loop.run_once(0)) abort();
  }
}

// The fuzzer's end of the connection.
class Peer {
 public:
  Peer(EventLoop& loop, UniqueFd socket, MessageType own)
      : loop_(loop), socket_(std::move(socket)), own_(own) {}

  void say(std::string_view bytes) {
    while (socket_ && !bytes.empty()) {
      const ssize_t sent =
          send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN) return;
      if (sent > 0) bytes.remove_prefix(static_cast<size_t>(sent));
      turn(loop_);
      hear();
    }
  }
  void close() { socket_.reset(); }

  // Everything that came, which must be messages.
  void hear() {
    std::array<char, 65536> buffer;
    while (socket_) {
      const ssize_t got = recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got <= 0) break;
      heard_.append(buffer.data(), static_cast<size_t>(got));
    }
    while (heard_.size() >= kHeaderBytes) {
      size_t size = 0;
      for (size_t i = 0; i < 4; ++i) size = size << 8 | static_cast<uint8_t>(heard_[i]);
      if (size > kMaxDataBytes) abort();
      if (heard_.size() < kHeaderBytes + size) return;
      check(static_cast<MessageType>(heard_[8]), heard_.substr(kHeaderBytes, size));
      heard_.erase(0, kHeaderBytes + size);
    }
  }

 private:
  void check(MessageType type, const std::string& data) const {
    if (type == MessageType::kData) return;
    if (type != own_) abort();
    kiln::api::Response response;
    if (own_ == MessageType::kResponse && !response.ParseFromString(data)) abort();
  }

  EventLoop& loop_;
  UniqueFd socket_;
  MessageType own_;  // the type that the other end sends beside data
  std::string heard_;
};

std::string take_text(ByteReader& input) {
  const auto bytes = input.read_bytes(input.read<uint8_t>().value_or(0));
  if (!bytes) return {};
  return {reinterpret_cast<const char*>(bytes->data()), bytes->size()};
}

// One message, as a rule well-formed.
std::string take_frame(ByteReader& input) {
  const auto stream = input.read<uint8_t>().value_or(1);
  const auto type = input.read<uint8_t>().value_or(0);
  const auto flags = input.read<uint8_t>().value_or(0);
  std::string data;
  if (type % 8 == 1) {
    kiln::api::Request request;
    request.set_service(kService);
    request.set_method(kMethods[input.read<uint8_t>().value_or(0) % kMethods.size()]);
    request.set_timeout_nano(input.read<int8_t>().value_or(0));
    request.set_payload(take_text(input));
    data = request.SerializeAsString();
  } else if (type % 8 == 2) {
    kiln::api::Response response;
    response.mutable_status()->set_code(input.read<int8_t>().value_or(0));
    response.set_payload(take_text(input));
    data = response.SerializeAsString();
  } else {
    data = take_text(input);
  }
  return kiln::ttrpc::frame(stream, type % 8, flags, data);
}

class FuzzedServer {
 public:
  explicit FuzzedServer(EventLoop& loop) {
    server_ = *Server::create(
        loop, UniqueFd(),
        {{kService, "Echo",
          [](const Server::Incoming& in, const Server::Reply& reply) { reply(in.payload); },
          nullptr},
         {kService, "Later",
          [this](const Server::Incoming&, const Server::Reply& reply) {
            replies_.push_back(reply);
          },
          nullptr},
         {kService, "Forget", [](const Server::Incoming&, const Server::Reply&) {}, nullptr},
         {kService, "Open", nullptr,
          [](const Server::Incoming&, const std::shared_ptr<Stream>& stream) {
            stream->receive([stream](const std::string& data) { stream->send(data); },
                            [stream] { stream->finish({}); });
          }},
         {kService, "Keep", nullptr,
          [this](const Server::Incoming&, const std::shared_ptr<Stream>& stream) {
            streams_.push_back(stream);
          }}});
  }

  void adopt(UniqueFd socket) {
    if (!server_->adopt(std::move(socket))) abort();
  }
  void act(uint8_t what) {
    if (what % 8 == 7) server_.reset();
    if (!replies_.empty() && what % 2 == 0) {
      const auto reply = replies_.back();
      replies_.pop_back();
      if (what % 4 == 0) reply(std::string("later"));
      return;
    }
    if (streams_.empty()) return;
    const auto stream = streams_.back();
    if (what % 8 == 1) streams_.pop_back();
    if (what % 8 == 3) stream->finish(kiln::make_error(kiln::ErrorKind::kDataLoss, "\xff lost"));
    if (what % 8 == 5)
      stream->receive([stream](const std::string&) { stream->receive(nullptr, nullptr); },
                      [this] { streams_.clear(); });
  }

 private:
  std::vector<Server::Reply> replies_;
  std::vector<std::shared_ptr<Stream>> streams_;
  std::unique_ptr<Server> server_;
};

class FuzzedClient {
 public:
  FuzzedClient(EventLoop& loop, UniqueFd socket) {
    client_ = *Client::create(loop, std::move(socket), [](const kiln::Error&) {});
    for (int i = 0; i < 4; ++i) act(static_cast<uint8_t>(i));
  }

  void act(uint8_t what) {
    if (!client_) return;
    if (what % 8 == 0)
      client_->call({kService, "Echo", "payload"}, [this](const Result<std::string>&) { ++ends_; });
    if (what % 8 == 1)
      stream_ = client_->open_stream(
          {kService, "Open", ""},
          {[](const std::string&) {}, [this](const Result<void>&) { ++ends_; }});
    if (what % 8 == 2)
      client_->call({kService, "Echo", ""}, [this](const Result<std::string>&) {
        if (client_ && ends_ < 8) act(0);
      });
    if (what % 8 == 3) client_->send(stream_, "data");
    if (what % 8 == 4) client_->end_sending(stream_);
    if (what % 8 == 5)
      client_->open_stream({kService, "Open", ""}, {[this](const std::string&) { client_.reset(); },
                                                    [](const Result<void>&) {}});
    if (what % 8 == 7) client_.reset();
  }

 private:
  uint32_t stream_ = 0;
  int ends_ = 0;
  std::unique_ptr<Client> client_;
};

template <typename Side>
void run(Side& side, Peer& peer, EventLoop& loop, bool whole, ByteReader& input) {
  if (!whole) {
    const auto bytes = input.rest();
    peer.say({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  for (int step = 0; whole && step < kMaxSteps && !input.rest().empty(); ++step) {
    const auto what = *input.read<uint8_t>();
    if (what < 0xc0) {
      peer.say(take_frame(input));
    } else if (what == 0xff) {
      peer.close();
    } else {
      side.act(what);
    }
    turn(loop);
    peer.hear();
  }
  peer.close();
  turn(loop);
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteReader input(std::as_bytes(std::span(data, size)));
  const auto mode = input.read<uint8_t>();
  if (!mode) return 0;
  auto loop = *EventLoop::create();
  auto pair = *kiln::socket_pair(SOCK_STREAM);
  const bool whole = (*mode & 2) != 0;
  if ((*mode & 1) == 0) {
    FuzzedServer server(*loop);
    server.adopt(std::move(pair.second));
    Peer peer(*loop, std::move(pair.first), MessageType::kResponse);
    run(server, peer, *loop, whole, input);
  } else {
    FuzzedClient client(*loop, std::move(pair.second));
    Peer peer(*loop, std::move(pair.first), MessageType::kRequest);
    run(client, peer, *loop, whole, input);
  }
  return 0;
}
