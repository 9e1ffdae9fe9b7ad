// SPDX-License-Identifier: Apache-2.0
// Our side against main.go, which is containerd's own ttrpc: `serve SOCKET` is what it calls, `call
// SOCKET` tries its server. A line for each thing that was tried; exit status 1 when one failed.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/format.h"
#include "base/unix_socket.h"
#include "shim/ttrpc/client.h"
#include "shim/ttrpc/server.h"
#include "ttrpc.pb.h"

namespace kiln::ttrpc {
namespace {

constexpr const char* kService = "interop.Test";
constexpr int kMessages = 200;
constexpr size_t kInFlight = 1000;
constexpr size_t kNearLimit = kMaxDataBytes - 512;
constexpr int64_t kTimeoutMs = 30'000;

// google.protobuf.StringValue has the bytes of a message whose field 1 is a string.
std::string encode(const std::string& text) {
  api::KeyValue value;
  value.set_key(text);
  return value.SerializeAsString();
}

std::string decode(const std::string& bytes) {
  api::KeyValue value;
  return value.ParseFromString(bytes) ? value.key() : "not a StringValue";
}

class TestServer {
 public:
  explicit TestServer(EventLoop& loop) : loop_(loop) {}

  Result<void> serve(const std::string& path) {
    server_ = TRY(Server::create(
        loop_, TRY(listen_unix(path, SOCK_STREAM | SOCK_NONBLOCK)),
        {unary("Echo", [](const Incoming& in, const Reply& reply) { reply(in.payload); }),
         unary("Fail", fail), unary("Metadata", metadata),
         unary("Big",
               [](const Incoming&, const Reply& reply) { reply(std::string(5 << 20, 'x')); }),
         unary("Never", [this](const Incoming&, const Reply& reply) { waiting_.push_back(reply); }),
         unary("Waiting", [this](const Incoming&, const Reply& reply) { count_waiting(reply); }),
         unary("Late", [this](const Incoming& in, const Reply& reply) { late(in, reply); }),
         streaming("EchoStream", echo_stream), streaming("Count", count),
         streaming("FailStream", fail_stream)}));
    return loop_.run();
  }

 private:
  using Incoming = Server::Incoming;
  using Reply = Server::Reply;
  using Handle = std::shared_ptr<Stream>;

  static Server::Method unary(const char* name, Server::Unary method) {
    return {kService, name, std::move(method), nullptr};
  }
  static Server::Method streaming(const char* name, Server::Streaming method) {
    return {kService, name, nullptr, std::move(method)};
  }

  static void fail(const Incoming& in, const Reply& reply) {
    reply(make_error(static_cast<ErrorKind>(std::stoi(decode(in.payload))), "because ä"));
  }
  static void metadata(const Incoming& in, const Reply& reply) {
    std::string all;
    const auto values = in.metadata.equal_range(decode(in.payload));
    for (auto at = values.first; at != values.second; ++at)
      all += (all.empty() ? "" : " ") + at->second;
    reply(encode(all));
  }
  void count_waiting(const Reply& reply) const {
    const auto count = std::count_if(waiting_.begin(), waiting_.end(),
                                     [](const Reply& other) { return other.wanted(); });
    reply(encode(std::to_string(count)));
  }
  // The first is answered last.
  void late(const Incoming& in, const Reply& reply) {
    late_.emplace_back(in.payload, reply);
    if (late_.size() > 1) return;
    loop_.add_timer(50, [this] {
      auto all = std::exchange(late_, {});
      std::reverse(all.begin(), all.end());
      for (const auto& [payload, answer] : all) answer(payload);
    });
  }

  static void echo_stream(const Incoming&, const Handle& stream) {
    stream->receive([stream](const std::string& data) { stream->send(data); },
                    [stream] { stream->finish({}); });
  }
  static void count(const Incoming& in, const Handle& stream) {
    const int end = std::stoi(decode(in.payload));
    for (int i = 0; i < end; ++i) stream->send(encode(std::to_string(i)));
    stream->finish({});
  }
  static void fail_stream(const Incoming&, const Handle& stream) {
    stream->receive(
        [stream](const std::string&) { stream->finish(make_error(ErrorKind::kDataLoss, "lost")); },
        [] {});
  }

  EventLoop& loop_;
  std::unique_ptr<Server> server_;
  std::vector<Reply> waiting_;
  std::vector<std::pair<std::string, Reply>> late_;
};

class TestClient {
 public:
  TestClient(EventLoop& loop, std::unique_ptr<Client> client)
      : loop_(loop), client_(std::move(client)) {}

  bool try_all() {
    attempt("echo", [this] { return echo(); });
    attempt("statuses", [this] { return statuses(); });
    attempt("unimplemented", [this] {
      return call("Nothing", "").error().kind == ErrorKind::kUnimplemented &&
             call("Echo", "", 0, {}, "other.Service").error().kind == ErrorKind::kUnimplemented;
    });
    attempt("metadata", [this] {
      return call("Metadata", "key", 0, {{"key", "one"}, {"key", "two"}}) == "one two";
    });
    attempt("deadline", [this] {
      const auto answer = call("Never", "", 50);
      return !answer && answer.error().kind == ErrorKind::kDeadlineExceeded && echo();
    });
    attempt("many calls", [this] { return many_calls(); });
    attempt("stream both ways", [this] { return stream_both_ways(); });
    attempt("stream from the server", [this] { return stream_from_server(); });
    attempt("stream that fails", [this] {
      open("FailStream", "");
      return wait_for_end() && !*end_ && end_->error().kind == ErrorKind::kDataLoss && echo();
    });
    return passed_;
  }

 private:
  void attempt(const char* name, const std::function<bool()>& run) {
    const bool fine = run();
    std::printf("%s %s\n", fine ? "ok" : "FAILED", name);
    passed_ = passed_ && fine;
  }

  Result<std::string> call(const char* method, const std::string& request, int64_t timeout_ms = 0,
                           const Metadata& metadata = {}, const char* service = kService) {
    std::optional<Result<std::string>> answer;
    client_->call({service, method, encode(request), timeout_ms, metadata},
                  [&](Result<std::string> response) { answer = std::move(response); });
    turn_until([&] { return answer.has_value(); });
    if (!answer) return make_error(ErrorKind::kDeadlineExceeded, "no answer");
    if (*answer) return decode(**answer);
    return *answer;
  }

  bool echo() {
    for (const size_t size : {size_t{0}, size_t{5}, kNearLimit}) {
      if (call("Echo", std::string(size, 'x')) != std::string(size, 'x')) return false;
    }
    return true;
  }

  bool statuses() {
    for (int code = 1; code <= static_cast<int>(ErrorKind::kDataLoss); ++code) {
      const auto answer = call("Fail", std::to_string(code));
      if (answer || static_cast<int>(answer.error().kind) != code ||
          answer.error().message != "because ä")
        return false;
    }
    return true;
  }

  bool many_calls() {
    size_t right = 0;
    size_t answered = 0;
    for (size_t i = 0; i < kInFlight; ++i)
      client_->call({kService, "Late", encode(std::to_string(i))},
                    [&, i](const Result<std::string>& answer) {
                      ++answered;
                      right += answer && decode(*answer) == std::to_string(i) ? 1 : 0;
                    });
    turn_until([&] { return answered == kInFlight; });
    return right == kInFlight;
  }

  uint32_t open(const char* method, const std::string& request) {
    received_.clear();
    end_.reset();
    return client_->open_stream(
        {kService, method, request},
        {[this](const std::string& data) { received_.push_back(decode(data)); },
         [this](Result<void> outcome) { end_ = std::move(outcome); }});
  }
  bool wait_for_end() {
    turn_until([this] { return end_.has_value(); });
    return end_.has_value();
  }

  bool stream_both_ways() {
    const uint32_t stream = open("EchoStream", "");
    for (int i = 0; i < kMessages; ++i) {
      client_->send(stream, encode(std::to_string(i)));
      turn_until([&] { return received_.size() > static_cast<size_t>(i); });
      if (received_.size() != static_cast<size_t>(i) + 1 || received_.back() != std::to_string(i))
        return false;
    }
    client_->send(stream, "");
    turn_until([&] { return received_.size() > kMessages; });
    client_->end_sending(stream);
    return wait_for_end() && *end_ && received_.size() == kMessages + 1 && received_.back().empty();
  }

  bool stream_from_server() {
    const uint32_t stream = open("Count", encode(std::to_string(kMessages)));
    client_->end_sending(stream);
    if (!wait_for_end() || !*end_ || received_.size() != kMessages) return false;
    for (int i = 0; i < kMessages; ++i)
      if (received_[static_cast<size_t>(i)] != std::to_string(i)) return false;
    return true;
  }

  void turn_until(const std::function<bool()>& condition) {
    bool late = false;
    const auto timer = loop_.add_timer(kTimeoutMs, [&late] { late = true; });
    while (!late && !condition() && loop_.run_once(-1)) {
    }
    loop_.cancel_timer(timer);
  }

  EventLoop& loop_;
  std::unique_ptr<Client> client_;
  std::vector<std::string> received_;
  std::optional<Result<void>> end_;
  bool passed_ = true;
};

Result<bool> run(const std::string& mode, const std::string& path) {
  const auto loop = TRY(EventLoop::create());
  if (mode == "serve") {
    TestServer server(*loop);
    TRY(server.serve(path));
    return true;
  }
  auto client = TRY(Client::create(*loop, TRY(connect_unix(path)), [](const Error& reason) {
    std::printf("closed: %s\n", reason.message.c_str());
  }));
  return TestClient(*loop, std::move(client)).try_all();
}

}  // namespace
}  // namespace kiln::ttrpc

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto passed = kiln::ttrpc::run(argv[1], argv[2]);
  if (!passed) std::printf("%s\n", passed.error().message.c_str());
  return passed && *passed ? 0 : 1;
}
