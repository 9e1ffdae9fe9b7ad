// SPDX-License-Identifier: Apache-2.0
// The tuned kernel: the distribution's source, allnoconfig and our fragment.
#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "base/format.h"
#include "base/temporary_directory.h"
#include "runtime/guest/kernel_input.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

constexpr int kBuildTimeoutMs = 4 * 60 * 60 * 1000;
constexpr uintmax_t kNeededBytes = uintmax_t{4} << 30;
constexpr size_t kMaxConfigBytes = 8U << 20;

struct Needed {
  const char* tool;
  const char* package;
};
constexpr Needed kTools[] = {
    {"make", "make"}, {"gcc", "gcc"},     {"ld", "binutils"}, {"strip", "binutils"},
    {"flex", "flex"}, {"bison", "bison"}, {"bc", "bc"},       {"perl", "perl"},
    {"tar", "tar"},   {"xz", "xz-utils"},
};
constexpr Needed kHeaders[] = {{"/usr/include/libelf.h", "libelf-dev"}};

// All at once: a build that fails after minutes for the next missing tool helps nobody.
Result<void> check_tools() {
  std::vector<std::string> packages;
  for (const Needed& needed : kTools) {
    if (find_tool(needed.tool).empty()) packages.emplace_back(needed.package);
  }
  std::error_code failed;
  for (const Needed& needed : kHeaders) {
    if (!fs::exists(needed.tool, failed)) packages.emplace_back(needed.package);
  }
  if (packages.empty()) return {};
  packages.erase(std::unique(packages.begin(), packages.end()), packages.end());
  std::string list;
  for (const std::string& package : packages) list += fmt::format(" {}", package);
  return make_error(ErrorKind::kFailedPrecondition,
                    fmt::format("building a kernel needs more tools: apt-get install{}", list));
}

Result<void> check_space(const std::string& directory) {
  std::error_code failed;
  const fs::space_info space = fs::space(directory, failed);
  if (failed || space.available >= kNeededBytes) return {};
  return make_error(ErrorKind::kResourceExhausted,
                    fmt::format("building a kernel needs {} GiB in `{}`; {} MiB are free (TMPDIR "
                                "names another directory)",
                                kNeededBytes >> 30, directory, space.available >> 20));
}

Result<std::string> only_file(const std::string& directory, std::string_view prefix,
                              std::string_view suffix) {
  std::error_code failed;
  for (fs::directory_iterator entry(directory, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    const std::string name = entry->path().filename();
    if (name.starts_with(prefix) && name.ends_with(suffix)) return entry->path().string();
  }
  return make_error(ErrorKind::kNotFound,
                    fmt::format("no `{}*{}` in `{}`", prefix, suffix, directory));
}

// What the fragment asks for and the kernel's own rules did not let through.
std::vector<std::string> refused_options(std::string_view fragment, const std::string& config) {
  std::vector<std::string> out;
  while (!fragment.empty()) {
    const size_t end = std::min(fragment.find('\n'), fragment.size());
    const std::string_view line = fragment.substr(0, end);
    fragment.remove_prefix(std::min(end + 1, fragment.size()));
    if (!line.starts_with("CONFIG_") || line.ends_with("=n")) continue;
    if (config.find(fmt::format("\n{}\n", line)) == std::string::npos) out.emplace_back(line);
  }
  return out;
}

class SourceTree {
 public:
  SourceTree(std::string path, Progress& progress) : path_(std::move(path)), progress_(progress) {}

  Result<void> configure(const std::string& fragment) {
    progress_.step("Configuring the kernel");
    TRY(write_file_atomic(path_ + "/kiln.config", fragment, 0644));
    TRY(run({"scripts/kconfig/merge_config.sh", "-n", "kiln.config"}));
    const std::string config = TRY(read_file(path_ + "/.config", kMaxConfigBytes));
    for (const std::string& option : refused_options(fragment, config))
      progress_.note(fmt::format("warning: this kernel does not take {}", option));
    return {};
  }

  Result<void> build(unsigned jobs) {
    progress_.step("Building the kernel (minutes)");
    // Who, where and when are not to be in the kernel: the same source gives the same file.
    TRY(run({"make", fmt::format("-j{}", jobs), "KBUILD_BUILD_USER=kiln", "KBUILD_BUILD_HOST=kiln",
             "KBUILD_BUILD_TIMESTAMP=1970-01-01", "vmlinux"}));
    return run({"strip", "--strip-all", "-o", "vmlinux.stripped", "vmlinux"});
  }

  const std::string& path() const { return path_; }

 private:
  Result<void> run(std::vector<std::string> argv) {
    ToolRun tool;
    if (argv.front().find('/') != std::string::npos) argv.insert(argv.begin(), "sh");
    tool.argv = std::move(argv);
    tool.directory = path_;
    tool.timeout_ms = kBuildTimeoutMs;
    tool.tick = [this] { progress_.tick(); };
    TRY(run_tool(tool));
    return {};
  }

  std::string path_;
  Progress& progress_;
};

Result<SourceTree> unpack_source(const FetchedPackage& package, const std::string& directory,
                                 Progress& progress) {
  TRY(unpack_package(package.path, directory, progress));
  const std::string archive = TRY(only_file(directory + "/usr/src", "linux-source-", ".tar.xz"));
  progress.step("Unpacking the kernel's source");
  ToolRun unpack;
  unpack.argv = {"tar",         "--extract", "--file",         archive,
                 "--directory", directory,   "--no-same-owner"};
  unpack.tick = [&] { progress.tick(); };
  TRY(run_tool(unpack));
  return SourceTree(TRY(only_file(directory, "linux-source-", "")), progress);
}

}  // namespace

Result<KernelInput> kernel_from_source(const FetchedPackage& package, const KernelSource& source,
                                       Progress& progress) {
  TRY(check_tools());
  std::error_code failed;
  const std::string parent = fs::temp_directory_path(failed);
  if (failed) return sys_error("find a directory for temporary files (TMPDIR)", failed.value());
  TRY(check_space(parent));
  const TemporaryDirectory directory = TRY(TemporaryDirectory::create(parent, "kiln-kernel-"));
  SourceTree tree = TRY(unpack_source(package, directory.path(), progress));
  TRY(wrap(tree.configure(source.fragment), "configure the kernel"));
  TRY(wrap(tree.build(source.jobs), "build the kernel"));
  KernelInput out;
  out.image = TRY(read_file(tree.path() + "/vmlinux.stripped", kMaxKernelFileBytes));
  out.config = TRY(read_file(tree.path() + "/.config", kMaxConfigBytes));
  return out;
}

}  // namespace kiln::runtime
