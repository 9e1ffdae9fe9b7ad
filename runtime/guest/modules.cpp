// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/modules.h"

#include <algorithm>
#include <filesystem>

#include "base/bytes.h"
#include "base/file.h"
#include "base/format.h"
#include "runtime/guest/decompress.h"
#include "runtime/guest/elf.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxModuleBytes = size_t{64} << 20;
constexpr size_t kMaxListBytes = 4U << 20;
constexpr size_t kMaxDepth = 64;

std::vector<std::string> split(std::string_view text, std::string_view separators) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(separators), text.size());
    if (end > 0) out.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

// "pre: a b post: c" -> a, b: they go in first.
std::vector<std::string> soft_dependencies(std::span<const std::byte> modinfo) {
  std::vector<std::string> out;
  for (const std::string& line : modinfo_values(modinfo, "softdep")) {
    bool before = false;
    for (const std::string& word : split(line, " \t")) {
      if (word.ends_with(':')) {
        before = word == "pre:";
      } else if (before) {
        out.push_back(word);
      }
    }
  }
  return out;
}

std::vector<std::string> plain_aliases(std::span<const std::byte> modinfo) {
  std::vector<std::string> out;
  for (std::string& alias : modinfo_values(modinfo, "alias")) {
    if (alias.find_first_of("*?[: ") == std::string::npos)
      out.push_back(canonical_name(std::move(alias)));
  }
  return out;
}

// A directory's only sub-directory with modules in it; empty if there is none or a choice.
std::string only_release_below(const fs::path& directory) {
  std::string found;
  std::error_code failed;
  for (fs::directory_iterator entry(directory, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    if (!fs::is_directory(entry->path() / "kernel", failed)) continue;
    if (!found.empty()) return {};
    found = entry->path();
  }
  return found;
}

}  // namespace

std::string canonical_name(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::string module_name(std::string_view path) {
  if (const size_t slash = path.rfind('/'); slash != std::string_view::npos)
    path.remove_prefix(slash + 1);
  for (const std::string_view packed : {".gz", ".xz", ".zst"}) {
    if (path.ends_with(packed)) {
      path.remove_suffix(packed.size());
      break;
    }
  }
  constexpr std::string_view kSuffix = ".ko";
  if (!path.ends_with(kSuffix)) return {};
  path.remove_suffix(kSuffix.size());
  return canonical_name(std::string(path));
}

Result<ModuleTree> ModuleTree::open(const std::string& path) {
  std::error_code failed;
  std::string directory = path;
  if (!fs::is_directory(path, failed))
    return sys_error(fmt::format("open module directory `{}`", path), ENOTDIR);
  if (!fs::is_directory(fs::path(path) / "kernel", failed)) {
    for (const char* below : {"lib/modules", "usr/lib/modules", "."}) {
      directory = only_release_below(fs::path(path) / below);
      if (!directory.empty()) break;
    }
    if (directory.empty()) directory = path;
  }
  while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
  ModuleTree tree;
  tree.release_ = fs::path(directory).filename();
  TRY(tree.scan(directory));
  TRY(tree.read_built_in(directory));
  if (tree.files_.empty())
    return make_error(ErrorKind::kNotFound,
                      fmt::format("no kernel modules (*.ko) below `{}`", path));
  return tree;
}

Result<void> ModuleTree::scan(const std::string& directory) {
  std::error_code failed;
  // Links such as `build` and `source` are not followed.
  for (fs::recursive_directory_iterator entry(directory, failed), end; entry != end;
       entry.increment(failed)) {
    if (failed) break;
    const std::string path = entry->path();
    const std::string name = module_name(path);
    if (!name.empty() && entry->is_regular_file(failed)) files_.emplace(name, path);
  }
  if (failed) return sys_error(fmt::format("read directory `{}`", directory), failed.value());
  return {};
}

Result<void> ModuleTree::read_built_in(const std::string& directory) {
  auto list = read_file(directory + "/modules.builtin", kMaxListBytes);
  if (!list && list.error().sys_errno == ENOENT) return {};
  if (!list) return tl::unexpected(std::move(list.error()));
  for (const std::string& line : split(*list, "\n")) {
    if (std::string name = module_name(line); !name.empty()) built_in_.insert(std::move(name));
  }
  return {};
}

Result<void> ModuleTree::visit(const std::string& name, bool soft, Walk& walk) const {
  if (walk.done.contains(name) || built_in_.contains(name)) return {};
  if (soft && walk.open.contains(name)) return {};
  const auto file = files_.find(name);
  if (file == files_.end()) {
    if (soft) return {};
    return make_error(
        ErrorKind::kNotFound,
        fmt::format("kernel module `{}`: neither among the modules of {} nor built in", name,
                    release_));
  }
  if (walk.open.size() >= kMaxDepth || !walk.open.insert(name).second)
    return make_error(ErrorKind::kDataLoss,
                      fmt::format("kernel module `{}`: it depends on itself", name));
  const std::string packed = TRY(read_file(file->second, kMaxModuleBytes));
  const auto unpack = [&]() -> Result<std::string> {
    return decompress(detect_compression(as_bytes(packed)), as_bytes(packed), kMaxModuleBytes);
  };
  std::string content = TRY(wrap(unpack(), fmt::format("kernel module `{}`", file->second)));
  const auto read_info = [&]() -> Result<std::vector<std::byte>> {
    const ElfFile elf = TRY(ElfFile::parse(as_bytes(content), content.size()));
    const auto info = TRY(elf.section(".modinfo"));
    if (!info) return invalid_argument("has no .modinfo section");
    return std::vector<std::byte>(info->begin(), info->end());
  };
  const auto info = TRY(wrap(read_info(), fmt::format("kernel module `{}`", file->second)));
  for (const std::string& wanted : soft_dependencies(info))
    TRY(visit(canonical_name(wanted), true, walk));
  for (const std::string& list : modinfo_values(info, "depends")) {
    for (const std::string& wanted : split(list, ","))
      TRY(visit(canonical_name(wanted), false, walk));
  }
  walk.open.erase(name);
  walk.done.insert(name);
  walk.loaded.push_back({name, std::move(content), plain_aliases(info)});
  return {};
}

Result<std::vector<KernelModule>> ModuleTree::resolve(const std::vector<std::string>& names) const {
  Walk walk;
  for (const std::string& name : names) TRY(visit(canonical_name(name), false, walk));
  return std::move(walk.loaded);
}

}  // namespace kiln::runtime
