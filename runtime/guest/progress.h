// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace kiln::runtime {

// Says on standard error what takes so long: one line that is rewritten on a terminal, a line for
// each step elsewhere.
class Progress {
 public:
  explicit Progress(bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void step(const std::string& what);
  // Call a few times a second while the step goes on.
  void tick(const std::string& detail = {});
  // A line that stays.
  void note(const std::string& text);

 private:
  void clear_line();

  bool quiet_;
  bool terminal_;
  std::string what_;
  int64_t started_ms_ = 0;
  unsigned frame_ = 0;
};

}  // namespace kiln::runtime
