// SPDX-License-Identifier: Apache-2.0
// The process's log. Only main functions, commands, RPC handlers and device loops write to it;
// libraries return errors. Lines follow runc's two formats, because engines parse them.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/format.h"
#include "base/unique_fd.h"

namespace kiln {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat {
  kText,    // time="2024-01-02T03:04:05Z" level=error msg="..."
  kJson,    // {"level":"error","msg":"...","time":"2024-01-02T03:04:05Z"}
  kPlain,   // the message alone, for a person at a terminal and for the guest's console
  kKernel,  // the same with the kernel's level in front, for /dev/kmsg: <2>kiln: error: …
};

// Call before threads start. `fd` is owned; an invalid one means stderr.
void log_setup(LogLevel min_level, LogFormat format, UniqueFd fd = UniqueFd());
LogLevel log_level();
LogFormat log_format();
int log_fd();

void log_message(LogLevel level, std::string_view message);

// One line in `format` with the newline, as log_message writes it. `unix_seconds` is UTC.
std::string format_log_line(LogFormat format, LogLevel level, std::string_view message,
                            int64_t unix_seconds);

template <typename... Args>
void log_debug(fmt::format_string<Args...> text, Args&&... args) {
  if (log_level() <= LogLevel::kDebug)
    log_message(LogLevel::kDebug, fmt::format(text, std::forward<Args>(args)...));
}
template <typename... Args>
void log_info(fmt::format_string<Args...> text, Args&&... args) {
  if (log_level() <= LogLevel::kInfo)
    log_message(LogLevel::kInfo, fmt::format(text, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> text, Args&&... args) {
  log_message(LogLevel::kWarning, fmt::format(text, std::forward<Args>(args)...));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> text, Args&&... args) {
  log_message(LogLevel::kError, fmt::format(text, std::forward<Args>(args)...));
}

// Lets through `burst` events, then one per second: for lines that a guest can trigger. Not
// thread-safe; one per device.
class RateLimit {
 public:
  explicit RateLimit(unsigned burst) : tokens_(burst), burst_(burst) {}
  bool allow();

 private:
  unsigned tokens_;
  unsigned burst_;
  int64_t last_refill_seconds_ = 0;
};

}  // namespace kiln
