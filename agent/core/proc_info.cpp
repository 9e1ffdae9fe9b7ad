// SPDX-License-Identifier: Apache-2.0
#include "agent/core/proc_info.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr size_t kMaxProcFile = 16384;
constexpr size_t kMaxCommandLine = 4096;
constexpr size_t kEnvelopeBytes = 1024;  // what a reply has around its result
constexpr size_t kMaxProcesses = 32768;  // each takes more than 32 bytes of the reply

tl::unexpected<Error> malformed(std::string_view what) {
  return make_error(ErrorKind::kInternal, fmt::format("`{}` of /proc is malformed", what));
}

template <typename T>
bool parse_number(std::string_view text, T& out) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), out);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
}

std::string_view next_word(std::string_view& text) {
  const size_t begin = std::min(text.find_first_not_of(" \t\n"), text.size());
  text.remove_prefix(begin);
  const size_t end = std::min(text.find_first_of(" \t\n"), text.size());
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(end);
  return word;
}

// The number after `key` at the beginning of a line.
template <typename T>
Result<T> number_after(std::string_view text, std::string_view key) {
  const std::string line = fmt::format("\n{}", key);
  const size_t found = text.find(line);
  if (found == std::string_view::npos) return malformed(key);
  text.remove_prefix(found + line.size());
  T value = 0;
  if (!parse_number(next_word(text), value)) return malformed(key);
  return value;
}

// Not in the middle of a UTF-8 character.
void cut(std::string& text, size_t max_bytes) {
  if (text.size() <= max_bytes) return;
  while (max_bytes > 0 && (static_cast<unsigned char>(text[max_bytes]) & 0xc0) == 0x80) --max_bytes;
  text.resize(max_bytes);
}

// Printable UTF-8 of at most kMaxCommandLine bytes: the reply's encoder would replace each bad byte
// by three, and the host would refuse what is longer than it may be.
std::string presentable(std::string text) {
  for (char& c : text) {
    if (c == '\0') c = ' ';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  const auto clean = parse_json(dump_json(Json(std::move(text))));
  std::string out = clean && clean->is_string() ? clean->get<std::string>() : std::string("?");
  cut(out, kMaxCommandLine);
  return out;
}

std::string command_line(pid_t pid, const std::string& name) {
  auto fd = open_file(fmt::format("/proc/{}/cmdline", pid), O_RDONLY);
  std::string text(kMaxCommandLine, '\0');
  const auto got = fd ? read_fully(fd->get(), text.data(), text.size()) : Result<size_t>(0);
  text.resize(got ? *got : 0);
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return presentable(text.empty() ? fmt::format("[{}]", name) : std::move(text));
}

uint64_t page_kib() { return static_cast<uint64_t>(std::max(sysconf(_SC_PAGESIZE), 1024L)) / 1024; }

Result<protocol::ProcessInfo> describe(pid_t pid, int64_t boot_time, uint64_t ticks_per_second) {
  const std::string directory = fmt::format("/proc/{}/", pid);
  const std::string stat_text = TRY(read_file(directory + "stat", kMaxProcFile));
  const ProcStat stat = TRY(parse_proc_stat(stat_text));
  const std::string status = TRY(read_file(directory + "status", kMaxProcFile));
  protocol::ProcessInfo info;
  info.pid = pid;
  info.parent_pid = stat.parent_pid;
  info.uid = TRY(number_after<uint32_t>(status, "Uid:"));
  info.cpu_time_ms = stat.cpu_ticks * 1000 / ticks_per_second;
  info.start_time_unix =
      std::max<int64_t>(boot_time + static_cast<int64_t>(stat.start_ticks / ticks_per_second), 0);
  info.tty = tty_name(stat.tty);
  info.command_line = command_line(pid, stat.name);
  info.name = presentable(stat.name);
  info.state = std::string(1, stat.state);
  info.group = stat.group;
  info.session = stat.session;
  info.nice = std::clamp(stat.nice, -20, 19);
  info.threads = stat.threads;
  info.virtual_kib = stat.virtual_bytes / 1024;
  info.resident_kib = stat.resident_pages * page_kib();
  return info;
}

bool fits(const protocol::ProcessesReply& reply) {
  return dump_json(protocol::to_json(reply)).size() + kEnvelopeBytes <= protocol::kMaxReplyBytes;
}

}  // namespace

Result<ProcStat> parse_proc_stat(std::string_view text) {
  // The name may itself contain parentheses, blanks and newlines.
  const size_t open = text.find('(');
  const size_t close = text.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open)
    return malformed("stat");
  ProcStat stat;
  stat.name = text.substr(open + 1, close - open - 1);
  text.remove_prefix(close + 1);
  std::array<std::string_view, 25> fields;  // numbered as in proc(5)
  for (size_t i = 3; i < fields.size(); ++i) fields[i] = next_word(text);
  uint64_t user = 0;
  uint64_t system = 0;
  int32_t tty = 0;
  if (!parse_number(fields[4], stat.parent_pid) || !parse_number(fields[7], tty) ||
      !parse_number(fields[14], user) || !parse_number(fields[15], system) ||
      !parse_number(fields[22], stat.start_ticks) || !parse_number(fields[5], stat.group) ||
      !parse_number(fields[6], stat.session) || !parse_number(fields[19], stat.nice) ||
      !parse_number(fields[20], stat.threads) || !parse_number(fields[23], stat.virtual_bytes) ||
      !parse_number(fields[24], stat.resident_pages) || fields[3].size() != 1)
    return malformed("stat");
  stat.state = fields[3].front();
  stat.tty = static_cast<uint32_t>(tty);
  stat.cpu_ticks = user + system;
  return stat;
}

std::string tty_name(uint32_t device) {
  // linux/kdev_t.h, new_encode_dev(): minor 7–0, major 19–8, minor 19–8 above.
  const uint32_t major_number = (device >> 8) & 0xfff;
  const uint32_t minor_number = (device & 0xff) | ((device >> 12) & 0xfff00);
  if (device == 0) return "?";
  if (major_number >= 136 && major_number <= 143)  // UNIX98 slaves, devices.txt
    return fmt::format("pts/{}", ((major_number - 136) << 20) + minor_number);
  if (major_number == 4 && minor_number < 64) return fmt::format("tty{}", minor_number);
  if (major_number == 4) return fmt::format("ttyS{}", minor_number - 64);
  if (major_number == 5 && minor_number == 1) return "console";
  return fmt::format("{}:{}", major_number, minor_number);
}

Result<protocol::ProcessesReply> describe_processes(const std::vector<pid_t>& pids) {
  if (pids.size() > kMaxProcesses) {
    return make_error(ErrorKind::kResourceExhausted,
                      fmt::format("{} processes are too many to list", pids.size()));
  }
  const std::string kernel = TRY(read_file("/proc/stat", size_t{1} << 20));
  const auto boot_time = TRY(number_after<int64_t>(kernel, "btime"));
  const auto ticks_per_second = static_cast<uint64_t>(std::max(sysconf(_SC_CLK_TCK), 1L));
  protocol::ProcessesReply reply;
  reply.memory_kib = static_cast<uint64_t>(std::max(sysconf(_SC_PHYS_PAGES), 0L)) * page_kib();
  for (const pid_t pid : pids) {
    auto info = describe(pid, boot_time, ticks_per_second);
    if (info) reply.processes.push_back(std::move(*info));  // else it has just ended
  }
  for (size_t limit = kMaxCommandLine; !fits(reply); limit /= 4) {
    if (limit == 0) {
      return make_error(ErrorKind::kResourceExhausted,
                        fmt::format("{} processes are too many to list", pids.size()));
    }
    for (protocol::ProcessInfo& info : reply.processes) cut(info.command_line, limit);
  }
  return reply;
}

}  // namespace kiln::agent
