// SPDX-License-Identifier: Apache-2.0
// The calls of containerd's task service, one after the other, on a shim that has no container: a
// Create finds no bundle, and what comes while it looks waits for it. Each step is a call's number
// and its message; the numbers behind them stand for the sandbox's config and for bytes of a
// stream.
#include <sys/socket.h>

#include <array>
#include <cstdlib>
#include <string>

#include "base/bytes.h"
#include "base/json.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "shim/sandbox_spec.h"
#include "shim/task_options.h"
#include "shim/task_service.h"
#include "tests/support/ttrpc_frame.h"

namespace {

using kiln::ByteReader;
using kiln::EventLoop;
using kiln::UniqueFd;
using namespace kiln::shim;  // NOLINT(google-build-using-namespace): all of it is the shim's

constexpr int kMaxSteps = 32;
constexpr std::array<const char*, 17> kCalls = {
    "State", "Create",    "Start",   "Delete", "Pids", "Pause", "Resume",  "Checkpoint", "Kill",
    "Exec",  "ResizePty", "CloseIO", "Update", "Wait", "Stats", "Connect", "Shutdown"};

struct Input {
  uint8_t call = 0;
  std::string message;
};

Input take(ByteReader& input) {
  Input out;
  out.call = input.read<uint8_t>().value_or(0) % (kCalls.size() + 2);
  const size_t size = input.read<uint16_t>().value_or(0);
  const auto bytes = input.read_bytes(std::min(size, input.rest().size()));
  if (bytes) out.message.assign(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  return out;
}

// Nothing of the host's is to be read or mounted.
std::string without_bundle(const std::string& message) {
  kiln::api::CreateTaskRequest request;
  if (!request.ParseFromString(message)) return message;
  static_cast<void>(plan_options(request.options(), "fuzz", request.bundle()));
  request.set_bundle("/nonexistent/bundle");
  return request.SerializeAsString();
}

void check_sandbox(const std::string& message) {
  kiln::api::CreateSandboxRequest request;
  if (!request.ParseFromString(message)) return;
  if (const auto spec = sandbox_spec(request); spec && !kiln::parse_json(kiln::dump_json(*spec)))
    abort();
}

class Fuzzed {
 public:
  Fuzzed() {
    auto methods = tasks_.methods();
    methods.push_back(streaming_.method());
    server_ = *kiln::ttrpc::Server::create(*loop_, UniqueFd(), std::move(methods));
    auto pair = *kiln::socket_pair(SOCK_STREAM);
    if (!server_->adopt(std::move(pair.second))) abort();
    socket_ = std::move(pair.first);
  }

  void make(const Input& input) {
    if (input.call == kCalls.size()) return check_sandbox(input.message);
    if (input.call > kCalls.size()) return stream(input.message);
    kiln::api::Request request;
    request.set_service("containerd.task.v3.Task");
    request.set_method(kCalls[input.call]);
    request.set_payload(input.call == 1 ? without_bundle(input.message) : input.message);
    say(1, 0, request.SerializeAsString(), stream_ += 2);
  }
  void finish() {
    for (int i = 0; i < 10'000 && !workers_->idle(); ++i) turn(10);
    turn(0);
    if (!workers_->idle() || !tasks_.empty()) abort();
  }

 private:
  // The first opens it, the others are its data.
  void stream(const std::string& message) {
    if (opened_ == 0) {
      kiln::api::Request request;
      request.set_service("containerd.services.streaming.v1.Streaming");
      request.set_method("Stream");
      say(1, kiln::ttrpc::kRemoteOpen, request.SerializeAsString(), opened_ = stream_ += 2);
    }
    say(3, 0, message, opened_);
  }
  void say(uint8_t type, uint8_t flags, const std::string& data, uint32_t stream) {
    const std::string out = kiln::ttrpc::frame(stream, type, flags, data);
    if (send(socket_.get(), out.data(), out.size(), MSG_NOSIGNAL) < 0) abort();
    turn(0);
  }
  void turn(int wait_ms) {
    for (int i = 0; i < 6; ++i) {
      if (!loop_->run_once(i == 0 ? wait_ms : 0)) abort();
    }
    std::array<char, 65536> buffer;
    while (recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT) > 0) {
    }
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  std::unique_ptr<Workers> workers_ = *Workers::create(*loop_);
  Publisher publisher_{*loop_, "", "fuzz"};
  Streaming streaming_{*loop_};
  ShimContext context_{*loop_, *workers_, publisher_, streaming_, "fuzz"};
  TaskService tasks_{context_, [] {}};
  std::unique_ptr<kiln::ttrpc::Server> server_;
  UniqueFd socket_;
  uint32_t stream_ = static_cast<uint32_t>(-1);
  uint32_t opened_ = 0;
};

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const bool quiet = [] {
    kiln::log_setup(kiln::LogLevel::kError, kiln::LogFormat::kText);
    return true;
  }();
  static_cast<void>(quiet);
  ByteReader input(std::as_bytes(std::span(data, size)));
  Fuzzed shim;
  for (int step = 0; step < kMaxSteps && !input.rest().empty(); ++step) shim.make(take(input));
  shim.finish();
  return 0;
}
