// SPDX-License-Identifier: Apache-2.0
// Lines of containerd's config.toml; the little of TOML that tells which table a line belongs to.
#include <algorithm>
#include <string_view>

#include "runtime/engines/engine.h"

namespace kiln::runtime {
namespace {

constexpr std::string_view kCriTable = "plugins.\"io.containerd.grpc.v1.cri\"";
constexpr std::string_view kRuntimes = "containerd.runtimes.";
constexpr std::string_view kOurTable = "containerd.runtimes.kiln";
constexpr char kDefaultRuntime[] =
    "\n# containerd's own, which it has by itself only as long as no other is named.\n"
    "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n"
    "  runtime_type = \"io.containerd.runc.v2\"\n";

std::string_view next_line(std::string_view& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

std::string_view trimmed(std::string_view line) {
  const size_t begin = line.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  line.remove_prefix(begin);
  return line.substr(0, line.find_last_not_of(" \t\r") + 1);
}

// The name of `[table]`, without blanks and with double quotes; empty for other lines.
std::string table_of(std::string_view line) {
  line = trimmed(line);
  if (!line.starts_with('[')) return {};
  std::string name;
  for (const char c : line.substr(1, line.rfind(']') - 1)) {
    if (c == '\'') name += '"';
    if (c != ' ' && c != '\t' && c != '\'') name += c;
  }
  return name;
}

}  // namespace

std::string with_cri_tables(const std::string& ours, const std::string& main_file) {
  std::string copied;
  bool inside = false;
  bool names_runtimes = false;
  std::string_view rest = main_file;
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    if (const std::string table = table_of(line); !table.empty()) {
      inside = table.starts_with(kCriTable) &&
               (table.size() == kCriTable.size() || table[kCriTable.size()] == '.') &&
               table.find(kOurTable) == std::string::npos;
    }
    names_runtimes |= inside && table_of(line).find(kRuntimes) != std::string::npos;
    if (inside) copied += std::string(line) + "\n";
  }
  const std::string out = names_runtimes ? ours : ours + kDefaultRuntime;
  if (copied.empty()) return out;
  return out +
         "\n# Of the main file when this one was made, since containerd before 2.0 takes the whole "
         "section from here.\n# After a change there: `kiln install containerd` again.\n" +
         copied;
}

bool imports_directory(const std::string& main_file) {
  std::string_view rest = main_file;
  std::string value;
  while (!rest.empty()) {
    const std::string_view line = trimmed(next_line(rest));
    if (line.starts_with('[')) break;  // `imports` belongs to no table
    if (!line.starts_with('#')) value += line;
  }
  const size_t imports = value.find("imports");
  return imports != std::string::npos && value.find("/conf.d/", imports) != std::string::npos;
}

}  // namespace kiln::runtime
