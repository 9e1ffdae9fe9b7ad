// SPDX-License-Identifier: Apache-2.0
#include "shim/ttrpc/status.h"

#include <gtest/gtest.h>

namespace kiln::ttrpc {
namespace {

api::Status there_and_back(const Error& error) {
  api::Response response;
  EXPECT_TRUE(response.ParseFromString(encode_status(error)));
  EXPECT_TRUE(response.payload().empty());
  return response.status();
}

TEST(Status, EveryKindGoesThereAndBack) {
  for (int code = 1; code <= 15; ++code) {
    const api::Status status =
        there_and_back({static_cast<ErrorKind>(code), 0, "open `/x`: no such file"});
    EXPECT_EQ(status.code(), code);
    const Error back = decode_status(status);
    EXPECT_EQ(static_cast<int>(back.kind), code);
    EXPECT_EQ(back.message, "open `/x`: no such file");
  }
}

TEST(Status, ACodeOfNoKindIsUnknown) {
  for (const int code : {-1, 16, 17, 1 << 30}) {
    api::Status status;
    status.set_code(code);
    EXPECT_EQ(decode_status(status).kind, ErrorKind::kUnknown) << code;
  }
}

TEST(Status, KeepsTheBeginningOfALongText) {
  const api::Status status = there_and_back({ErrorKind::kInternal, 0, std::string(100'000, 'a')});
  EXPECT_EQ(status.message(), std::string(16384, 'a'));
}

TEST(Status, ACharacterThatIsCutIsReplaced) {
  const api::Status status =
      there_and_back({ErrorKind::kInternal, 0, std::string(16383, 'a') + "\xc3\xa4"});
  EXPECT_EQ(status.message(), std::string(16383, 'a') + "\xef\xbf\xbd");
}

TEST(Status, TextOfEveryLengthOfCharacterStays) {
  const std::string text = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\xb3z";
  EXPECT_EQ(there_and_back({ErrorKind::kInternal, 0, text}).message(), text);
}

TEST(Status, BytesThatAreNotUtf8AreReplaced) {
  const std::string mark = "\xef\xbf\xbd";
  const std::pair<std::string, std::string> cases[] = {
      {"a\xff", "a" + mark},
      {"\x80z", mark + "z"},
      {"\xc3", mark},
      {"\xc0\x80", mark + mark},                        // overlong
      {"\xe0\x80\x80", mark + mark + mark},             // overlong
      {"\xed\xa0\x80", mark + mark + mark},             // a surrogate
      {"\xf4\x90\x80\x80", mark + mark + mark + mark},  // beyond U+10FFFF
      {"\xe2\x82z", mark + mark + "z"},
  };
  for (const auto& [bytes, text] : cases)
    EXPECT_EQ(there_and_back({ErrorKind::kInternal, 0, bytes}).message(), text);
}

}  // namespace
}  // namespace kiln::ttrpc
