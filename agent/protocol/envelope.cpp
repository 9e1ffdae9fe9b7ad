// SPDX-License-Identifier: Apache-2.0
// The frames around the parameters: requests, replies, events, and the opening of a stream.
#include <algorithm>

#include "agent/protocol/fields.h"
#include "agent/protocol/messages.h"
#include "base/format.h"

namespace kiln::protocol {
namespace {

constexpr size_t kMaxName = 32;
constexpr size_t kMaxErrorMessage = 16384;
// What we send, so that it is still in bounds when JSON has escaped or replaced every byte of it.
constexpr size_t kReplyErrorBytes = 4096;
constexpr size_t kStreamErrorBytes = 2048;
constexpr int kMaxErrno = 4095;  // MAX_ERRNO of the kernel

Result<std::string> name_from(Fields& fields, std::string_view key) {
  std::string name = TRY(fields.text(key, kMaxName));
  const bool lower =
      std::all_of(name.begin(), name.end(), [](char c) { return c >= 'a' && c <= 'z'; });
  if (name.empty() || !lower)
    return invalid_argument(fmt::format("{}: must be a lower-case word", fields.pointer_to(key)));
  return name;
}

Json error_to_json(const Error& error, size_t max_bytes) {
  size_t size = std::min(error.message.size(), max_bytes);
  while (size < error.message.size() && size > 0 &&
         (static_cast<unsigned char>(error.message[size]) & 0xc0) == 0x80)
    --size;  // not in the middle of a character
  return {{"kind", static_cast<int>(error.kind)},
          {"errno", std::clamp(error.sys_errno, 0, kMaxErrno)},
          {"message", size == 0 ? "unknown" : printable(error.message.substr(0, size))}};
}

Result<Error> error_from(Fields& parent) {
  Error error;
  Fields fields = TRY(parent.nested("error"));
  error.kind = static_cast<ErrorKind>(TRY(fields.integer("kind", 1, 15)));
  error.sys_errno = static_cast<int>(TRY(fields.integer_or("errno", 0, kMaxErrno, 0)));
  error.message = TRY(fields.text("message", kMaxErrorMessage));
  if (error.message.empty()) return invalid_argument("/error/message: must not be empty");
  TRY(fields.finish());
  return error;
}

Result<Json> parse_bounded(std::string_view payload, size_t max_bytes) {
  if (payload.size() > max_bytes) {
    return make_error(ErrorKind::kOutOfRange, fmt::format("message of {} bytes is longer than {}",
                                                          payload.size(), max_bytes));
  }
  return parse_json(payload);
}

Result<Reply> reply_from(const Json& value) {
  Reply reply;
  Fields fields = TRY(Fields::of(value, ""));
  reply.id = TRY(fields.any_unsigned("id"));
  if (fields.has("error")) {
    reply.error = TRY(error_from(fields));
  } else {
    reply.result = *TRY(fields.object("result"));
  }
  TRY(fields.finish());
  return reply;
}

Result<Event> event_from(const Json& value) {
  Event event;
  Fields fields = TRY(Fields::of(value, ""));
  event.name = TRY(name_from(fields, "event"));
  event.params = *TRY(fields.object("params"));
  TRY(fields.finish());
  return event;
}

Result<FromAgent> from_agent(std::string_view payload) {
  const Json value = TRY(parse_bounded(payload, kMaxReplyBytes));
  FromAgent message;
  if (value.is_object() && value.contains("event")) {
    message.event = TRY(event_from(value));
  } else {
    message.reply = TRY(reply_from(value));
  }
  return message;
}

Result<Request> request_from(std::string_view payload) {
  const Json value = TRY(parse_bounded(payload, kMaxRequestBytes));
  Request request;
  Fields fields = TRY(Fields::of(value, ""));
  request.id = TRY(fields.any_unsigned("id"));
  request.method = TRY(name_from(fields, "method"));
  request.params = *TRY(fields.object("params"));
  TRY(fields.finish());
  return request;
}

Result<StreamHeader> stream_header_from(std::string_view payload) {
  const Json value = TRY(parse_bounded(payload, kMaxStreamFrameBytes));
  return from_json<StreamHeader>(value);
}

// The outer result is about the frame itself; the inner value is what the agent said.
Result<std::optional<Error>> stream_refusal_from(std::string_view payload) {
  const Json value = TRY(parse_bounded(payload, kMaxStreamFrameBytes));
  std::optional<Error> refusal;
  Fields fields = TRY(Fields::of(value, ""));
  if (fields.has("error")) refusal = TRY(error_from(fields));
  TRY(fields.finish());
  return refusal;
}

}  // namespace

std::string encode(const Request& request) {
  return dump_json({{"id", request.id}, {"method", request.method}, {"params", request.params}});
}

std::string encode(const Reply& reply) {
  if (reply.error)
    return dump_json({{"id", reply.id}, {"error", error_to_json(*reply.error, kReplyErrorBytes)}});
  return dump_json({{"id", reply.id}, {"result", reply.result}});
}

std::string encode(const Event& event) {
  return dump_json({{"event", event.name}, {"params", event.params}});
}

std::string encode(const StreamHeader& header) { return dump_json(to_json(header)); }

std::string encode_stream_reply(const std::optional<Error>& refusal) {
  Json reply = Json::object();
  if (refusal) reply["error"] = error_to_json(*refusal, kStreamErrorBytes);
  return dump_json(reply);
}

Result<Request> decode_request(std::string_view payload) {
  return wrap(request_from(payload), "decode a request to the agent");
}

Result<FromAgent> decode_from_agent(std::string_view payload) {
  return wrap(from_agent(payload), "decode a message of the agent");
}

Result<StreamHeader> decode_stream_header(std::string_view payload) {
  return wrap(stream_header_from(payload), "decode a stream's header");
}

Result<void> decode_stream_reply(std::string_view payload) {
  std::optional<Error> refusal =
      TRY(wrap(stream_refusal_from(payload), "decode the answer to a stream's header"));
  if (refusal) return tl::unexpected(std::move(*refusal));
  return {};
}

}  // namespace kiln::protocol
