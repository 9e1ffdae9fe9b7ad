// SPDX-License-Identifier: Apache-2.0
#include "shim/ttrpc/status.h"

#include <algorithm>
#include <string_view>

namespace kiln::ttrpc {
namespace {

constexpr size_t kMaxTextBytes = size_t{16} << 10;
constexpr int kLastCode = static_cast<int>(ErrorKind::kDataLoss);
constexpr const char* kReplacement = "\xef\xbf\xbd";

// The bytes of the character that `text` begins with; 0: none (RFC 3629 §4).
size_t character_bytes(std::string_view text) {
  const auto at = [text](size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto tail = [at](size_t i) { return (at(i) & 0xc0) == 0x80; };
  const unsigned first = at(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const bool overlong = first == 0xe0 && at(1) < 0xa0;
    const bool surrogate = first == 0xed && at(1) > 0x9f;
    return tail(1) && tail(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const bool overlong = first == 0xf0 && at(1) < 0x90;
    const bool too_large = first == 0xf4 && at(1) > 0x8f;
    return tail(1) && tail(2) && tail(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

std::string to_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t size = character_bytes(text);
    if (size == 0) {
      out += kReplacement;
    } else {
      out += text.substr(0, size);
    }
    text.remove_prefix(std::max<size_t>(size, 1));
  }
  return out;
}

}  // namespace

std::string encode_status(const Error& error) {
  api::Response response;
  response.mutable_status()->set_code(static_cast<int>(error.kind));
  response.mutable_status()->set_message(
      to_utf8(std::string_view(error.message).substr(0, kMaxTextBytes)));
  return response.SerializeAsString();
}

Error decode_status(const api::Status& status) {
  const int code = status.code();
  const bool known = code > 0 && code <= kLastCode;
  return {known ? static_cast<ErrorKind>(code) : ErrorKind::kUnknown, 0, status.message()};
}

}  // namespace kiln::ttrpc
