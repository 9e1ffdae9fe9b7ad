// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/progress.h"

#include <unistd.h>

#include <cstdio>
#include <ctime>

#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr char kFrames[] = {'|', '/', '-', '\\'};

int64_t now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

Progress::Progress(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() { clear_line(); }

void Progress::clear_line() {
  if (!quiet_ && terminal_ && !what_.empty()) print("\r\x1b[K");
}

void Progress::step(const std::string& what) {
  if (quiet_) return;
  clear_line();
  what_ = what;
  started_ms_ = now_ms();
  if (terminal_) {
    tick();
  } else {
    print(what + "\n");
  }
}

void Progress::tick(const std::string& detail) {
  if (quiet_ || !terminal_ || what_.empty()) return;
  const char frame = kFrames[frame_++ % sizeof(kFrames)];
  print(fmt::format("\r\x1b[K{} {}{}{} ({} s)", frame, what_, detail.empty() ? "" : ": ", detail,
                    (now_ms() - started_ms_) / 1000));
}

void Progress::note(const std::string& text) {
  if (quiet_) return;
  clear_line();
  print(text + "\n");
}

}  // namespace kiln::runtime
