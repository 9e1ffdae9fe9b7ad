// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <algorithm>
#include <ctime>

#include <nlohmann/json.hpp>

#include "base/json.h"

namespace kiln {
namespace {

struct LogState {
  LogLevel min_level = LogLevel::kInfo;
  LogFormat format = LogFormat::kPlain;
  UniqueFd fd;
};

LogState& state() {
  static LogState log_state;
  return log_state;
}

std::string_view level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

// printk's. Quiet kernels print what is critical alone, and an agent's error is.
int kernel_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return 7;
    case LogLevel::kInfo:
      return 6;
    case LogLevel::kWarning:
      return 4;
    case LogLevel::kError:
      break;
  }
  return 2;
}

// As logrus does: a word of these characters is not quoted in its text format.
bool needs_quotes(std::string_view text) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-._/@^+").find(c) != std::string_view::npos;
  };
  return !std::all_of(text.begin(), text.end(), plain);
}

std::string quoted(std::string_view text) {
  if (!needs_quotes(text)) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);  // as Go's %q
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string rfc3339(int64_t unix_seconds) {
  const time_t seconds = unix_seconds;
  tm parts{};
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

}  // namespace

void log_setup(LogLevel min_level, LogFormat format, UniqueFd fd) {
  state() = LogState{min_level, format, std::move(fd)};
}

LogLevel log_level() { return state().min_level; }
LogFormat log_format() { return state().format; }
int log_fd() { return state().fd.valid() ? state().fd.get() : STDERR_FILENO; }

std::string format_log_line(LogFormat format, LogLevel level, std::string_view message,
                            int64_t unix_seconds) {
  switch (format) {
    case LogFormat::kText:
      return fmt::format("time=\"{}\" level={} msg={}\n", rfc3339(unix_seconds), level_name(level),
                         quoted(message));
    case LogFormat::kJson:
      return fmt::format("{{\"level\":\"{}\",\"msg\":{},\"time\":\"{}\"}}\n", level_name(level),
                         dump_json(Json(std::string(message))), rfc3339(unix_seconds));
    case LogFormat::kPlain:
    case LogFormat::kKernel:
      break;
  }
  const std::string place =
      format == LogFormat::kKernel ? fmt::format("<{}>", kernel_level(level)) : "";
  const bool prefixed = level >= LogLevel::kWarning;
  return fmt::format("{}kiln: {}{}{}\n", place, prefixed ? level_name(level) : "",
                     prefixed ? ": " : "", message);
}

void log_message(LogLevel level, std::string_view message) {
  if (level < state().min_level) return;
  const std::string line = format_log_line(state().format, level, message, ::time(nullptr));
  // One write keeps lines of several processes apart. A log that cannot be written has nowhere to
  // say so.
  [[maybe_unused]] const ssize_t written = ::write(log_fd(), line.data(), line.size());
}

bool RateLimit::allow() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  if (now.tv_sec != last_refill_seconds_) {
    if (last_refill_seconds_ != 0 && tokens_ < burst_) ++tokens_;
    last_refill_seconds_ = now.tv_sec;
  }
  if (tokens_ == 0) return false;
  --tokens_;
  return true;
}

}  // namespace kiln
