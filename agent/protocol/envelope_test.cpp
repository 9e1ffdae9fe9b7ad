// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "agent/protocol/messages.h"

namespace kiln::protocol {
namespace {

template <typename T>
std::string message_of(const Result<T>& result) {
  return result ? "accepted" : result.error().message;
}

TEST(DecodeRequest, ReadsWhatEncodeWrote) {
  const Request request{.id = UINT64_MAX, .method = "create", .params = {{"a", 1}}};
  const auto parsed = decode_request(encode(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->id, UINT64_MAX);
  EXPECT_EQ(parsed->method, "create");
  EXPECT_EQ(parsed->params, request.params);
}

TEST(DecodeRequest, RefusesEveryBrokenEnvelope) {
  for (const char* payload : {
           "",
           "{",
           "null",
           "[]",
           R"({"id":1,"method":"create"})",
           R"({"id":-1,"method":"create","params":{}})",
           R"({"id":1.5,"method":"create","params":{}})",
           R"({"id":18446744073709551616,"method":"create","params":{}})",
           R"({"id":1,"method":"","params":{}})",
           R"({"id":1,"method":"Create","params":{}})",
           R"({"id":1,"method":"create","params":[]})",
           R"({"id":1,"method":"create","params":{},"more":1})",
           R"({"id":1,"id":2,"method":"create","params":{}})",
           "{\"id\":1,\"method\":\"create\",\"params\":{\"\xff\":1}}",
       })
    EXPECT_FALSE(decode_request(payload)) << payload;
}

TEST(DecodeRequest, RefusesMoreThanTheLimit) {
  const std::string payload(kMaxRequestBytes + 1, ' ');
  const auto parsed = decode_request(payload);
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().kind, ErrorKind::kOutOfRange);
}

TEST(DecodeFromAgent, ReadsAResult) {
  const auto parsed = decode_from_agent(encode(Reply{.id = 7, .result = {{"pid", 3}}}));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_TRUE(parsed->reply);
  EXPECT_FALSE(parsed->event);
  EXPECT_EQ(parsed->reply->id, 7U);
  EXPECT_FALSE(parsed->reply->error);
  EXPECT_EQ(parsed->reply->result.at("pid"), 3);
}

TEST(DecodeFromAgent, ReadsAnError) {
  Reply reply{.id = 7};
  reply.error = Error{ErrorKind::kNotFound, ENOENT, "create `c1`: open `/x`: No such file"};
  const auto parsed = decode_from_agent(encode(reply));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_TRUE(parsed->reply && parsed->reply->error);
  EXPECT_EQ(parsed->reply->error->kind, ErrorKind::kNotFound);
  EXPECT_EQ(parsed->reply->error->sys_errno, ENOENT);
  EXPECT_EQ(parsed->reply->error->message, "create `c1`: open `/x`: No such file");
}

TEST(DecodeFromAgent, ReadsAnEvent) {
  const auto parsed = decode_from_agent(encode(Event{"oom", {{"container", "c1"}}}));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_TRUE(parsed->event);
  EXPECT_FALSE(parsed->reply);
  EXPECT_EQ(parsed->event->name, "oom");
}

TEST(DecodeFromAgent, RefusesEveryBrokenEnvelope) {
  for (const char* payload : {
           "7",
           "{}",
           R"({"id":1})",
           R"({"id":1,"result":[]})",
           R"({"id":1,"result":{},"error":{"kind":2,"errno":0,"message":"x"}})",
           R"({"id":1,"error":{"kind":0,"errno":0,"message":"x"}})",
           R"({"id":1,"error":{"kind":16,"errno":0,"message":"x"}})",
           R"({"id":1,"error":{"kind":2,"errno":-1,"message":"x"}})",
           R"({"id":1,"error":{"kind":2,"errno":4096,"message":"x"}})",
           R"({"id":1,"error":{"kind":2,"errno":0,"message":""}})",
           R"({"id":1,"error":"x"})",
           R"({"event":"exit"})",
           R"({"event":"exit","params":[]})",
           R"({"event":3,"params":{}})",
           R"({"event":"exit","params":{},"id":1})",
           R"({"event":"a b","params":{}})",
       })
    EXPECT_FALSE(decode_from_agent(payload)) << payload;
}

TEST(DecodeFromAgent, RefusesDeepNesting) {
  const std::string deep = R"({"event":"x","params":{"a":)" + std::string(100000, '[');
  EXPECT_NE(message_of(decode_from_agent(deep)).find("nested deeper"), std::string::npos);
}

TEST(DecodeFromAgent, KeepsOneLineOfAnErrorWithManyLines) {
  const auto parsed =
      decode_from_agent(R"({"id":1,"error":{"kind":2,"message":"a\nlevel=error msg=\"forged\""}})");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->reply->error->message, "a?level=error msg=\"forged\"");
}

TEST(Encode, CutsALongErrorSoThatTheHostAcceptsIt) {
  Reply reply{.id = 1};
  for (const std::string& character :
       {std::string("\xff"), std::string("\""), std::string("\xe2\x82\xac"), std::string("\n")}) {
    std::string text;
    while (text.size() < 100000) text += character;
    reply.error = Error{ErrorKind::kUnknown, 0, text};
    EXPECT_EQ(message_of(decode_from_agent(encode(reply))), "accepted");
    EXPECT_LE(encode_stream_reply(reply.error).size(), kMaxStreamFrameBytes);
  }
}

TEST(StreamHeader, SurvivesTheWayThroughJson) {
  for (const char* stream : {"stdin", "stdout", "stderr", "tty"}) {
    const auto parsed = decode_stream_header(encode(StreamHeader{"c1", "e1", stream}));
    ASSERT_TRUE(parsed) << parsed.error().message;
    EXPECT_EQ(parsed->container_id, "c1");
    EXPECT_EQ(parsed->process_id, "e1");
    EXPECT_EQ(parsed->stream, stream);
  }
}

TEST(StreamHeader, RefusesOtherStreams) {
  EXPECT_EQ(message_of(decode_stream_header(encode(StreamHeader{"c1", "", "stdlog"}))),
            "decode a stream's header: /stream: must be stdin, stdout, stderr, tty, fd:N, serve:N "
            "or port:N");
}

TEST(StreamReply, CarriesTheRefusal) {
  EXPECT_TRUE(decode_stream_reply(encode_stream_reply(std::nullopt)));
  const auto refused =
      decode_stream_reply(encode_stream_reply(Error{ErrorKind::kNotFound, 0, "no such process"}));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(refused.error().message, "no such process");
  EXPECT_FALSE(decode_stream_reply(R"({"ok":true})"));
}

}  // namespace
}  // namespace kiln::protocol
