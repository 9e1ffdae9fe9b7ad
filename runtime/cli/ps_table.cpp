// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/ps_table.h"

#include <pwd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>

#include "base/format.h"

namespace kiln::runtime {
namespace {

using Info = protocol::ProcessInfo;
using Context = PsContext;

constexpr time_t kDaySeconds = 24 * 60 * 60;
constexpr size_t kUserWidth = 8;

std::string clock_text(time_t when, const char* layout) {
  tm parts{};
  if (localtime_r(&when, &parts) == nullptr) return "?";
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), layout, &parts);
  return text.data();
}

uint64_t seconds_alive(const Info& info, const Context& context) {
  return context.now > info.start_time_unix
             ? static_cast<uint64_t>(context.now - info.start_time_unix)
             : 0;
}

// Numbers of the guest's, names of this host's users: what ps shows of runc's containers.
std::string user(const Info& info, const Context& /*context*/) {
  // Not getpwuid: its name services are shared libraries, and this program is static.
  const std::unique_ptr<FILE, int (*)(FILE*)> file(fopen("/etc/passwd", "re"), fclose);
  while (const passwd* entry = file ? fgetpwent(file.get()) : nullptr) {
    if (entry->pw_uid == info.uid && std::string_view(entry->pw_name).size() <= kUserWidth)
      return entry->pw_name;
  }
  return std::to_string(info.uid);
}

std::string uid(const Info& info, const Context& /*context*/) { return std::to_string(info.uid); }
std::string pid(const Info& info, const Context& /*context*/) { return std::to_string(info.pid); }
std::string ppid(const Info& info, const Context& /*context*/) {
  return std::to_string(info.parent_pid);
}
std::string group(const Info& info, const Context& /*context*/) {
  return std::to_string(info.group);
}
std::string session(const Info& info, const Context& /*context*/) {
  return std::to_string(info.session);
}
std::string nice(const Info& info, const Context& /*context*/) { return std::to_string(info.nice); }
std::string priority(const Info& info, const Context& /*context*/) {
  return std::to_string(80 + info.nice);
}
std::string threads(const Info& info, const Context& /*context*/) {
  return std::to_string(info.threads);
}
std::string virtual_size(const Info& info, const Context& /*context*/) {
  return std::to_string(info.virtual_kib);
}
std::string virtual_pages(const Info& info, const Context& /*context*/) {
  return std::to_string(info.virtual_kib / 4);
}
std::string resident_size(const Info& info, const Context& /*context*/) {
  return std::to_string(info.resident_kib);
}
std::string terminal(const Info& info, const Context& /*context*/) { return info.tty; }
std::string name(const Info& info, const Context& /*context*/) { return info.name; }
std::string command(const Info& info, const Context& /*context*/) { return info.command_line; }
std::string state(const Info& info, const Context& /*context*/) { return info.state; }
std::string dash(const Info& /*info*/, const Context& /*context*/) { return "-"; }
std::string flags(const Info& info, const Context& /*context*/) {
  return info.uid == 0 ? "4" : "0";  // used super-user privileges
}

// ps(1), PROCESS STATE CODES.
std::string long_state(const Info& info, const Context& /*context*/) {
  std::string text = info.state;
  if (info.nice < 0) text += '<';
  if (info.nice > 0) text += 'N';
  if (info.session == info.pid) text += 's';
  if (info.threads > 1) text += 'l';
  return text;
}

std::string cpu_percent(const Info& info, const Context& context) {
  const double alive = static_cast<double>(std::max<uint64_t>(seconds_alive(info, context), 1));
  return fmt::format("{:.1f}", static_cast<double>(info.cpu_time_ms) / 10 / alive);
}

std::string cpu_whole_percent(const Info& info, const Context& context) {
  const double alive = static_cast<double>(std::max<uint64_t>(seconds_alive(info, context), 1));
  return fmt::format("{:.0f}", std::min(static_cast<double>(info.cpu_time_ms) / 10 / alive, 99.0));
}

std::string memory_percent(const Info& info, const Context& context) {
  const double all = static_cast<double>(std::max<uint64_t>(context.memory_kib, 1));
  return fmt::format("{:.1f}", static_cast<double>(info.resident_kib) * 100 / all);
}

std::string cpu_time(const Info& info, const Context& /*context*/) {
  const uint64_t seconds = info.cpu_time_ms / 1000;
  const uint64_t days = seconds / kDaySeconds;
  const std::string time =
      fmt::format("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
  return days == 0 ? time : fmt::format("{}-{}", days, time);
}

std::string short_cpu_time(const Info& info, const Context& /*context*/) {
  const uint64_t seconds = info.cpu_time_ms / 1000;
  return fmt::format("{}:{:02}", seconds / 60, seconds % 60);
}

// The time of day, or the day when it was not today.
std::string start_time(const Info& info, const Context& context) {
  const auto when = static_cast<time_t>(info.start_time_unix);
  return clock_text(when, context.now - when < kDaySeconds ? "%H:%M" : "%b%d");
}

std::string start_second(const Info& info, const Context& context) {
  const auto when = static_cast<time_t>(info.start_time_unix);
  return clock_text(when, context.now - when < kDaySeconds ? "%H:%M:%S" : "%b %d");
}

std::string long_start(const Info& info, const Context& /*context*/) {
  return clock_text(static_cast<time_t>(info.start_time_unix), "%a %b %e %H:%M:%S %Y");
}

std::string elapsed(const Info& info, const Context& context) {
  const uint64_t seconds = seconds_alive(info, context);
  const std::string minutes = fmt::format("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
  const uint64_t hours = seconds / 3600 % 24;
  const uint64_t days = seconds / kDaySeconds;
  if (days > 0) return fmt::format("{}-{:02}:{}", days, hours, minutes);
  return hours > 0 ? fmt::format("{:02}:{}", hours, minutes) : minutes;
}

std::string elapsed_seconds(const Info& info, const Context& context) {
  return std::to_string(seconds_alive(info, context));
}

struct Format {
  std::vector<std::string_view> keywords;  // of -o
  PsColumn column;
};

const std::vector<Format>& formats() {
  static const std::vector<Format> all{
      {{"pid", "tgid"}, {"PID", 5, true, pid}},
      {{"ppid"}, {"PPID", 5, true, ppid}},
      {{"pgid", "pgrp"}, {"PGID", 5, true, group}},
      {{"sid", "sess", "session"}, {"SID", 5, true, session}},
      {{"uid", "euid", "ruid"}, {"UID", 5, true, uid}},
      {{"user", "euser", "ruser", "uname"}, {"USER", kUserWidth, false, user}},
      {{"comm", "ucmd", "ucomm"}, {"COMMAND", 15, false, name}},
      {{"args", "command"}, {"COMMAND", 7, false, command}},
      {{"cmd"}, {"CMD", 3, false, command}},
      {{"c"}, {"C", 2, true, cpu_whole_percent}},
      {{"pcpu", "%cpu"}, {"%CPU", 4, true, cpu_percent}},
      {{"pmem", "%mem"}, {"%MEM", 4, true, memory_percent}},
      {{"time", "cputime"}, {"TIME", 8, true, cpu_time}},
      {{"etime"}, {"ELAPSED", 11, true, elapsed}},
      {{"etimes"}, {"ELAPSED", 7, true, elapsed_seconds}},
      {{"stime", "start_time"}, {"STIME", 5, false, start_time}},
      {{"start"}, {"STARTED", 8, true, start_second}},
      {{"lstart"}, {"STARTED", 24, true, long_start}},
      {{"tty", "tt", "tname"}, {"TTY", 8, false, terminal}},
      {{"stat"}, {"STAT", 4, false, long_state}},
      {{"s", "state"}, {"S", 1, false, state}},
      {{"ni", "nice"}, {"NI", 3, true, nice}},
      {{"pri"}, {"PRI", 3, true, priority}},
      {{"nlwp", "thcount"}, {"NLWP", 4, true, threads}},
      {{"vsz", "vsize"}, {"VSZ", 6, true, virtual_size}},
      {{"rss", "rssize", "rsz"}, {"RSS", 5, true, resident_size}},
  };
  return all;
}

Result<PsColumn> column_of(std::string_view keyword) {
  for (const Format& format : formats()) {
    const auto& words = format.keywords;
    if (std::find(words.begin(), words.end(), keyword) != words.end()) return format.column;
  }
  return invalid_argument(fmt::format("ps: unknown user-defined format specifier \"{}\"", keyword));
}

// `pid,comm=NAME`: ps(1), STANDARD FORMAT SPECIFIERS. A header goes on to the end of the argument.
Result<void> add_list(std::string_view list, std::vector<PsColumn>& columns) {
  while (!list.empty()) {
    const size_t end = std::min(list.find_first_of(", ="), list.size());
    const std::string_view keyword = list.substr(0, end);
    const bool renamed = end < list.size() && list[end] == '=';
    list.remove_prefix(std::min(end + 1, list.size()));
    if (keyword.empty()) continue;
    PsColumn column = TRY(column_of(keyword));
    if (renamed) {
      column.header = list;
      list = {};
    }
    columns.push_back(std::move(column));
  }
  return {};
}

std::vector<PsColumn> full_table() {
  return {{"UID", kUserWidth, false, user}, {"PID", 7, true, pid},
          {"PPID", 7, true, ppid},          {"C", 2, true, cpu_whole_percent},
          {"STIME", 5, false, start_time},  {"TTY", 8, false, terminal},
          {"TIME", 8, true, cpu_time},      {"CMD", 3, false, command}};
}

std::vector<PsColumn> long_table(bool full) {
  std::vector<PsColumn> out{{"F", 1, false, flags},
                            {"S", 1, false, state},
                            {"UID", 5, !full, full ? user : uid},
                            {"PID", 7, true, pid},
                            {"PPID", 7, true, ppid},
                            {"C", 2, true, cpu_whole_percent},
                            {"PRI", 3, true, priority},
                            {"NI", 3, true, nice},
                            {"ADDR", 4, false, dash},
                            {"SZ", 5, true, virtual_pages},
                            {"WCHAN", 6, false, dash}};
  if (full) out.push_back({"STIME", 5, false, start_time});
  out.push_back({"TTY", 8, false, terminal});
  out.push_back({"TIME", 8, true, cpu_time});
  out.push_back({"CMD", 3, false, full ? command : name});
  return out;
}

std::vector<PsColumn> short_table() {
  return {{"PID", 7, true, pid},
          {"TTY", 8, false, terminal},
          {"TIME", 8, true, cpu_time},
          {"CMD", 3, false, name}};
}

std::vector<PsColumn> user_table() {
  return {{"USER", kUserWidth, false, user}, {"PID", 7, true, pid},
          {"%CPU", 4, true, cpu_percent},    {"%MEM", 4, true, memory_percent},
          {"VSZ", 6, true, virtual_size},    {"RSS", 5, true, resident_size},
          {"TTY", 8, false, terminal},       {"STAT", 4, false, long_state},
          {"START", 5, false, start_time},   {"TIME", 6, true, short_cpu_time},
          {"COMMAND", 7, false, command}};
}

std::vector<PsColumn> bsd_table() {
  return {{"PID", 7, true, pid},
          {"TTY", 8, false, terminal},
          {"STAT", 4, false, long_state},
          {"TIME", 6, true, short_cpu_time},
          {"COMMAND", 7, false, command}};
}

struct Chosen {
  bool full = false;
  bool is_long = false;
  bool bsd = false;
  bool user_oriented = false;
  std::vector<PsColumn> listed;
};

tl::unexpected<Error> unsupported(const std::string& option) {
  return make_error(ErrorKind::kUnimplemented,
                    fmt::format("ps option `{}` is not supported: only tables can be chosen (-f, "
                                "-l, aux, -o LIST), of all of the container's processes",
                                option));
}

// One word of options; true: the next word is the list of its `o`.
Result<bool> read_word(const std::string& word, Chosen& chosen) {
  const bool unix_style = word.starts_with('-');
  if (word.starts_with("--format=")) {
    TRY(add_list(std::string_view(word).substr(9), chosen.listed));
    return false;
  }
  if (word == "--format") return true;
  for (size_t i = unix_style ? 1 : 0; i < word.size(); ++i) {
    const char option = word[i];
    if (option == 'o') {
      if (i + 1 == word.size()) return true;
      TRY(add_list(std::string_view(word).substr(i + 1), chosen.listed));
      return false;
    }
    const bool known =
        std::string_view(unix_style ? "eAadflw" : "axuw").find(option) != std::string_view::npos;
    if (!known) return unsupported(word);
    chosen.full |= option == 'f';
    chosen.is_long |= option == 'l';
    chosen.bsd |= !unix_style;
    chosen.user_oriented |= option == 'u';
  }
  return false;
}

}  // namespace

Result<std::vector<PsColumn>> ps_columns(const std::vector<std::string>& options) {
  Chosen chosen;
  for (size_t i = 0; i < options.size(); ++i) {
    if (!TRY(read_word(options[i], chosen))) continue;
    if (++i == options.size()) return invalid_argument("ps: format specification must follow -o");
    TRY(add_list(options[i], chosen.listed));
  }
  std::vector<PsColumn> columns = std::move(chosen.listed);
  if (options.empty()) columns = full_table();
  if (columns.empty() && chosen.user_oriented) columns = user_table();
  if (columns.empty() && chosen.is_long) columns = long_table(chosen.full);
  if (columns.empty() && chosen.full) columns = full_table();
  if (columns.empty()) columns = chosen.bsd ? bsd_table() : short_table();
  const bool has_pids = std::any_of(columns.begin(), columns.end(),
                                    [](const PsColumn& column) { return column.header == "PID"; });
  if (!has_pids) return invalid_argument("couldn't find PID field in ps output");
  return columns;
}

std::string ps_table(const std::vector<PsColumn>& columns,
                     const std::vector<protocol::ProcessInfo>& processes,
                     const PsContext& context) {
  std::vector<std::vector<std::string>> rows(processes.size() + 1);
  std::vector<size_t> widths;
  for (const PsColumn& column : columns) {
    rows.front().push_back(column.header);
    size_t width = std::max(column.width, column.header.size());
    for (size_t i = 0; i < processes.size(); ++i) {
      rows[i + 1].push_back(column.cell(processes[i], context));
      // What is long goes on to the right, as in ps, unless it is a number.
      if (column.right) width = std::max(width, rows[i + 1].back().size());
    }
    widths.push_back(width);
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      if (i > 0) line += ' ';
      line += columns[i].right ? fmt::format("{:>{}}", row[i], widths[i])
                               : fmt::format("{:<{}}", row[i], widths[i]);
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  }
  return out;
}

}  // namespace kiln::runtime
