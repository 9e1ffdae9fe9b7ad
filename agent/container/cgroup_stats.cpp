// SPDX-License-Identifier: Apache-2.0
#include "agent/container/cgroup_stats.h"

#include <dirent.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "agent/container/cgroup_directory.h"
#include "agent/protocol/messages.h"

namespace kiln::agent {
namespace {

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

std::optional<uint64_t> number(std::string_view text) {
  if (text.substr(0, 3) == "max") return protocol::kUnlimited;
  uint64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc()) return {};
  return value;
}

template <typename Take>
void each_line(std::string_view text, const Take& take) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (end > 0) take(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

// `key value` on each line.
std::map<std::string, uint64_t> read_keyed(int directory, const std::string& file) {
  std::map<std::string, uint64_t> out;
  const auto text = read_cgroup_file(directory, file);
  if (!text) return out;
  each_line(*text, [&](std::string_view line) {
    const size_t blank = line.find(' ');
    if (blank == std::string_view::npos) return;
    if (const auto value = number(line.substr(blank + 1)))
      out.emplace(line.substr(0, blank), *value);
  });
  return out;
}

uint64_t value_of(const std::map<std::string, uint64_t>& map, const char* key) {
  const auto found = map.find(key);
  return found == map.end() ? 0 : found->second;
}

void read_number(int directory, const char* file, uint64_t& out) {
  const auto text = read_cgroup_file(directory, file);
  if (text) out = number(*text).value_or(out);
}

// io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
void read_block(int directory, protocol::StatsReply& out) {
  const auto text = read_cgroup_file(directory, "io.stat");
  if (!text) return;
  each_line(*text, [&](std::string_view line) {
    protocol::BlockStats block;
    const char* end = line.data() + line.size();
    const auto major = std::from_chars(line.data(), end, block.major);
    if (major.ec != std::errc() || major.ptr == end || *major.ptr != ':') return;
    const auto minor = std::from_chars(major.ptr + 1, end, block.minor);
    if (minor.ec != std::errc()) return;
    const struct {
      std::string_view key;
      uint64_t& value;
    } values[] = {{" rbytes=", block.read_bytes},
                  {" wbytes=", block.written_bytes},
                  {" rios=", block.reads},
                  {" wios=", block.writes}};
    for (const auto& [key, value] : values) {
      const size_t at = line.find(key);
      if (at != std::string_view::npos) std::from_chars(line.data() + at + key.size(), end, value);
    }
    out.block.push_back(block);
  });
}

// hugetlb.2MB.current and hugetlb.2MB.events.
Result<void> read_hugepages(int directory, protocol::StatsReply& out) {
  constexpr std::string_view prefix = "hugetlb.";
  constexpr std::string_view suffix = ".current";
  UniqueFd copy = TRY(open_cgroup(directory, "."));
  const std::unique_ptr<DIR, DirectoryCloser> stream(::fdopendir(copy.get()));
  if (!stream) return sys_error("list a cgroup");
  copy.release();
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) ||
        !name.ends_with(suffix) || name.find(".rsvd.") != std::string_view::npos)
      continue;
    const std::string size(name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()));
    protocol::HugepageStats& pages = out.hugepages[size];
    read_number(directory, entry->d_name, pages.usage_bytes);
    pages.limit_hits = value_of(read_keyed(directory, "hugetlb." + size + ".events"), "max");
  }
  return {};
}

}  // namespace

Result<protocol::StatsReply> read_cgroup_stats(int directory) {
  protocol::StatsReply out;
  const auto cpu = read_keyed(directory, "cpu.stat");
  out.cpu_us = value_of(cpu, "usage_usec");
  out.cpu_user_us = value_of(cpu, "user_usec");
  out.cpu_system_us = value_of(cpu, "system_usec");
  out.periods = value_of(cpu, "nr_periods");
  out.throttled_periods = value_of(cpu, "nr_throttled");
  out.throttled_us = value_of(cpu, "throttled_usec");
  read_number(directory, "memory.current", out.memory_bytes);
  read_number(directory, "memory.peak", out.memory_peak_bytes);
  read_number(directory, "memory.max", out.memory_limit_bytes);
  read_number(directory, "memory.swap.current", out.swap_bytes);
  read_number(directory, "memory.swap.max", out.swap_limit_bytes);
  out.memory_limit_hits = value_of(read_keyed(directory, "memory.events"), "max");
  out.memory_stat = read_keyed(directory, "memory.stat");
  read_number(directory, "pids.current", out.pids);
  read_number(directory, "pids.max", out.pids_limit);
  read_block(directory, out);
  TRY(read_hugepages(directory, out));
  return out;
}

}  // namespace kiln::agent
