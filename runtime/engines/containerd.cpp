// SPDX-License-Identifier: Apache-2.0
// Lines of containerd's config.toml; the little of TOML that tells which table a line belongs to.
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "runtime/engines/engine.h"

namespace kiln::runtime {
namespace {

constexpr char kCri[] = "io.containerd.grpc.v1.cri";
constexpr char kCriOfVersion3[] = "io.containerd.cri.v1.runtime";
constexpr std::string_view kCriTable = "plugins.\"io.containerd.grpc.v1.cri\"";
constexpr std::string_view kRuntimes = "containerd.runtimes.";
constexpr std::string_view kOurTable = "containerd.runtimes.kiln";
constexpr char kDefaultRuntime[] =
    "\n# containerd's own, which it has by itself only as long as no other is named.\n"
    "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n"
    "  runtime_type = \"io.containerd.runc.v2\"\n";

// A pattern, because containerd does not start when a file that is named in full is not there.
constexpr std::string_view kImport = "\"/etc/containerd/conf.d/kiln*.toml\"";
constexpr std::string_view kImportLine =
    "imports = [\"/etc/containerd/conf.d/kiln*.toml\"]  # by `kiln install containerd`\n";
// Where there was no main file.
constexpr std::string_view kMadeFor = "# Made by `kiln install containerd`.\nversion = 2\n";

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

// Where the value of a key that belongs to no table begins; npos without one.
size_t find_value(const std::string& text, std::string_view key) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t begin = text.size() - rest.size();
    const std::string_view line = next_line(rest);
    std::string_view words = trimmed(line);
    if (words.starts_with('[')) break;
    if (!words.starts_with(key)) continue;
    words = trimmed(words.substr(key.size()));
    if (!words.starts_with('=')) continue;
    const size_t value = text.find_first_not_of(" \t", text.find('=', begin) + 1);
    return value == std::string::npos ? text.size() : value;
  }
  return std::string::npos;
}

// A file without one is of version 1, as far as it says anything.
int version_of(const std::string& main_file) {
  const size_t value = find_value(main_file, "version");
  if (value == std::string::npos) return main_file.find("plugins") == std::string::npos ? 2 : 1;
  return std::atoi(main_file.c_str() + value);
}

void replace_all(std::string& text, std::string_view placeholder, const std::string& value) {
  for (size_t at = 0; (at = text.find(placeholder, at)) != std::string::npos; at += value.size())
    text.replace(at, placeholder.size(), value);
}

bool erase_first(std::string& text, std::string_view part) {
  const size_t at = text.find(part);
  if (at == std::string::npos) return false;
  text.erase(at, part.size());
  return true;
}

}  // namespace

Result<std::string> containerd_drop_in(std::string ours, const std::string& main_file,
                                       const std::string& shim, const std::string& config) {
  const int version = version_of(main_file);
  if (version < 2)
    return invalid_argument(
        "it is of version 1, which has no runtime handlers of shims: `containerd config migrate` "
        "makes another of it");
  // Of all versions after 2 the third is the first: a later containerd takes it too.
  const char* cri = version == 2 ? kCri : kCriOfVersion3;
  if (!config.empty())
    ours += "\n  [plugins.\"@CRI@\".containerd.runtimes.kiln.options]\n    ConfigPath = \"" +
            config + "\"\n";
  replace_all(ours, "@VERSION@", version == 2 ? "2" : "3");
  replace_all(ours, "@CRI@", cri);
  replace_all(ours, "@SHIM@", shim);
  return version == 2 ? with_cri_tables(ours, main_file) : ours;
}

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

std::string with_import(const std::string& main_file) {
  if (imports_directory(main_file)) return main_file;
  if (main_file.empty()) return std::string(kMadeFor).append(kImportLine);
  const size_t value = find_value(main_file, "imports");
  // Not an array: no business of ours, containerd says so.
  if (value == std::string::npos || !main_file.substr(value).starts_with('['))
    return std::string(kImportLine) + main_file;
  std::string out = main_file;
  const size_t next = main_file.find_first_not_of(" \t\r\n", value + 1);
  const bool first = next == std::string::npos || main_file[next] == ']';
  return out.insert(value + 1, std::string(kImport) + (first ? "" : ", "));
}

std::string without_import(const std::string& main_file) {
  std::string out = main_file;
  if (erase_first(out, kImportLine)) return out == kMadeFor ? std::string() : out;
  if (!erase_first(out, std::string(kImport) + ", ")) erase_first(out, kImport);
  return out;
}

}  // namespace kiln::runtime
