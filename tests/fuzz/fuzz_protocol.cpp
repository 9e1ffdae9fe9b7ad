// SPDX-License-Identifier: Apache-2.0
// Messages between host and agent: whatever is accepted must be written as something that is
// accepted and equal, and what the guest sends must be fit for a terminal.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "agent/protocol/messages.h"
#include "agent/protocol/network.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

namespace protocol = kiln::protocol;
using kiln::Json;

[[noreturn]] void report(const char* what, const std::string& detail) {
  std::fprintf(stderr, "%s: %s\n", what, detail.c_str());
  std::abort();
}

template <typename T>
void check_params(const Json& params) {
  const auto message = protocol::from_json<T>(params);
  if (!message) return;
  const Json written = protocol::to_json(*message);
  const auto again = protocol::from_json<T>(written);
  if (!again) report("refused what was written", again.error().message);
  if (protocol::to_json(*again) != written) report("not equal", written.dump());
}

void check_printable(const std::string& text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) report("control character in", text);
}

void check_request(std::string_view payload) {
  const auto request = protocol::decode_request(payload);
  if (!request) return;
  check_params<protocol::SandboxRequest>(request->params);
  check_params<protocol::ClockRequest>(request->params);
  check_params<protocol::PodRequest>(request->params);
  check_params<protocol::CreateRequest>(request->params);
  check_params<protocol::ContainerRequest>(request->params);
  check_params<protocol::ExecRequest>(request->params);
  check_params<protocol::SignalRequest>(request->params);
  check_params<protocol::ResizeRequest>(request->params);
  check_params<protocol::UpdateRequest>(request->params);
  check_params<protocol::RefreshRequest>(request->params);
  check_params<protocol::NetworkRequest>(request->params);
  const auto again = protocol::decode_request(protocol::encode(*request));
  if (!again) report("refused its own request", again.error().message);
  if (again->id != request->id || again->method != request->method ||
      again->params != request->params)
    report("another request", protocol::encode(*again));
}

void check_reply(const protocol::Reply& reply) {
  const std::string text = protocol::encode(reply);
  const auto again = protocol::decode_from_agent(text);
  if (!again) {
    // Escaping may make it longer than it may be; nothing else.
    if (text.size() <= protocol::kMaxReplyBytes)
      report("refused its own reply", again.error().message);
    return;
  }
  if (!again->reply || again->reply->id != reply.id) report("another reply", text);
  if (reply.error) {
    check_printable(reply.error->message);
    if (!again->reply->error || again->reply->error->kind != reply.error->kind)
      report("another error", text);
    return;
  }
  check_params<protocol::ProcessReply>(reply.result);
  check_params<protocol::ProcessesReply>(reply.result);
  check_params<protocol::StatsReply>(reply.result);
  if (const auto processes = protocol::from_json<protocol::ProcessesReply>(reply.result)) {
    for (const protocol::ProcessInfo& info : processes->processes) {
      check_printable(info.tty);
      check_printable(info.command_line);
      check_printable(info.name);
      check_printable(info.state);
    }
  }
}

void check_event(const protocol::Event& event) {
  check_params<protocol::Hello>(event.params);
  check_params<protocol::ExitEvent>(event.params);
  check_params<protocol::OomEvent>(event.params);
  check_params<protocol::NotifyEvent>(event.params);
  if (const auto notify = protocol::from_json<protocol::NotifyEvent>(event.params)) {
    for (const std::string& line : notify->lines) check_printable(line);
  }
  if (const auto hello = protocol::from_json<protocol::Hello>(event.params)) {
    check_printable(hello->agent_version);
    check_printable(hello->kernel_release);
  }
}

void check_stream(std::string_view payload) {
  if (const auto header = protocol::decode_stream_header(payload)) {
    const auto again = protocol::decode_stream_header(protocol::encode(*header));
    if (!again) report("refused its own header", again.error().message);
  }
  const auto accepted = protocol::decode_stream_reply(payload);
  if (accepted) return;
  check_printable(accepted.error().message);
  const auto again = protocol::decode_stream_reply(protocol::encode_stream_reply(accepted.error()));
  if (again) report("a refusal became", "an acceptance");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view payload(reinterpret_cast<const char*>(data), size);
  check_request(payload);
  check_stream(payload);
  const auto message = protocol::decode_from_agent(payload);
  if (!message) {
    check_printable(message.error().message);
    return 0;
  }
  if (message->reply.has_value() == message->event.has_value()) report("neither or both", "");
  if (message->reply) check_reply(*message->reply);
  if (message->event) check_event(*message->event);
  return 0;
}
