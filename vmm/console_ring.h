// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace kiln::vmm {

// The end of what a guest has written to its console, for error reports.
class ConsoleRing {
 public:
  static constexpr size_t kSize = 64U << 10;

  void append(std::string_view bytes) {
    total_ += bytes.size();
    if (bytes.size() > kSize) bytes.remove_prefix(bytes.size() - kSize);
    if (text_.size() + bytes.size() > kSize) text_.erase(0, text_.size() + bytes.size() - kSize);
    text_.append(bytes);
  }
  const std::string& text() const { return text_; }
  uint64_t total_bytes() const { return total_; }

 private:
  std::string text_;
  uint64_t total_ = 0;
};

}  // namespace kiln::vmm
