// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace kiln {
namespace {

TEST(Json, SyntaxErrorNamesLineAndColumn) {
  const auto result = parse_json("{\n  \"a\": ]\n}");
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("line 2, column 8"), std::string::npos)
      << result.error().message;
}

TEST(Json, DuplicateKeyIsAnError) { EXPECT_FALSE(parse_json(R"({"a":{"b":1,"b":2}})")); }

TEST(Json, SameKeyInSiblingObjectsIsFine) { EXPECT_TRUE(parse_json(R"([{"b":1},{"b":2}])")); }

TEST(Json, NestingBeyondTheLimitIsAnError) {
  EXPECT_FALSE(parse_json(std::string(100000, '[')));
  EXPECT_TRUE(parse_json("[[[]]]", 3));
  EXPECT_FALSE(parse_json("[[[]]]", 2));
}

TEST(Json, DumpReplacesBytesThatAreNotUtf8) {
  EXPECT_EQ(dump_json(Json("a\xff")), "\"a\xef\xbf\xbd\"");
}

TEST(Json, ErrorsHoldNoControlCharacters) {
  for (const char* text : {"\x7f", "{\"\\u001b\":1,\"\\u001b\":2}", "\x1b[2J"}) {
    const auto parsed = parse_json(text);
    ASSERT_FALSE(parsed);
    for (const char c : parsed.error().message)
      EXPECT_FALSE(static_cast<unsigned char>(c) < 0x20 || c == 0x7f) << parsed.error().message;
  }
}

}  // namespace
}  // namespace kiln
