// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/build.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "base/bytes.h"
#include "base/file.h"
#include "base/format.h"
#include "base/temporary_directory.h"
#include "runtime/guest/bzimage.h"
#include "runtime/guest/compress.h"
#include "runtime/guest/elf.h"
#include "runtime/guest/image.h"
#include "runtime/guest/image_parts.h"
#include "runtime/guest/initramfs.h"
#include "runtime/guest/kernel_options.h"
#include "runtime/guest/sha256.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxAgentBytes = size_t{256} << 20;
constexpr const char* kKernelFamily = "linux-image-";
constexpr const char* kSourceFamily = "linux-source-";

// They take memory from every guest, hence most are packed, and those are left out whose size does
// not pay: xfs alone has 1.7 MiB. Unpacking takes time, hence not what many containers start with.
struct OptionalModuleName {
  const char* name;
  bool packed;
};
constexpr OptionalModuleName kOptionalModules[] = {
    // For what the host gives to a container.
    {"virtio_blk", false},
    {"virtio_net", false},
    {"erofs", true},
    {"squashfs", true},
    {"tun", true},
    {"loop", true},
    // For what a container with CAP_NET_ADMIN makes.
    {"bridge", true},
    {"veth", true},
};

std::string optional_module_names() {
  std::string out;
  for (const auto& [name, packed] : kOptionalModules)
    out += fmt::format("{}{}{}", out.empty() ? "" : " ", name, packed ? ".gz" : "");
  return out;
}

// From the banner that every kernel prints first; empty if it is not found.
std::string kernel_release(std::string_view elf) {
  constexpr std::string_view kBanner = "Linux version ";
  for (size_t at = elf.find(kBanner); at != std::string_view::npos;
       at = elf.find(kBanner, at + 1)) {
    const std::string_view rest = elf.substr(at + kBanner.size(), 128);
    const std::string_view word = rest.substr(0, rest.find(' '));
    if (!word.empty() && word.front() >= '0' && word.front() <= '9' &&
        word.find('\0') == std::string_view::npos)
      return std::string(word);
  }
  return {};
}

Result<std::string> read_agent(const std::string& path) {
  std::string agent = TRY(wrap(read_file(path, kMaxAgentBytes), "guest agent"));
  const auto elf =
      wrap(ElfFile::parse(as_bytes(agent), agent.size()), fmt::format("guest agent `{}`", path));
  if (!elf) return tl::unexpected(elf.error());
  if (elf->has_interpreter())
    return invalid_argument(fmt::format(
        "guest agent `{}`: it is not static, and there are no libraries in the guest", path));
  return agent;
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

// Which modules to load: as the .config says, or those that are there.
Result<std::vector<std::string>> choose_modules(const KernelInput& input, ImageParts& parts,
                                                Progress& progress) {
  std::string config = input.config;
  if (config.empty()) config = TRY(embedded_config(parts.kernel)).value_or("");
  if (config.empty()) {
    progress.note("warning: the kernel's .config is not known: its options are not checked");
    std::vector<std::string> there;
    for (const std::string& name : wanted_modules()) {
      if (input.modules && input.modules->has(name)) there.push_back(name);
    }
    return there;
  }
  OptionFindings findings = check_kernel_options(parse_kernel_options(config));
  if (!findings.missing.empty())
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("kernel {} cannot be a guest's: it lacks {}", parts.release,
                                  joined(findings.missing)));
  for (const std::string& option : findings.recommended)
    progress.note(fmt::format("warning: kernel {} lacks {}", parts.release, option));
  if (!findings.modules.empty() && !input.modules)
    return invalid_argument(
        fmt::format("kernel {} needs its modules {}: name their directory "
                    "with --modules",
                    parts.release, joined(findings.modules)));
  parts.options = std::move(findings.found);
  return std::move(findings.modules);
}

// Adds the module with all that it needs, each in a line of its own: the kernel may ask for any.
Result<void> add_optional_module(const ModuleTree& tree, const OptionalModuleName& wanted,
                                 const std::set<std::string>& at_boot, ImageParts& parts) {
  for (KernelModule& module : TRY(tree.resolve({wanted.name}))) {
    if (at_boot.contains(module.name) || parts.on_demand.contains(module.name)) continue;
    OptionalModule& added = parts.on_demand[module.name];
    added.aliases = std::move(module.aliases);
    // What it needs came before it, but for one of two that would like the other to be first.
    for (const KernelModule& needed : TRY(tree.resolve({module.name}))) {
      const auto before = parts.on_demand.find(needed.name);
      if (needed.name == module.name || before == parts.on_demand.end()) continue;
      added.files.push_back(before->second.files.back());
    }
    added.files.push_back(module.name + (wanted.packed ? ".ko.gz" : ".ko"));
    parts.optional_files[added.files.back()] =
        wanted.packed ? TRY(compress(module.content)) : std::move(module.content);
  }
  return {};
}

Result<void> add_optional_modules(const ModuleTree& tree, ImageParts& parts) {
  std::set<std::string> at_boot;
  for (const KernelModule& module : parts.modules) at_boot.insert(module.name);
  for (const OptionalModuleName& wanted : kOptionalModules) {
    if (tree.has(wanted.name)) TRY(add_optional_module(tree, wanted, at_boot, parts));
  }
  return {};
}

Result<ImageParts> take_apart(const KernelInput& input, Progress& progress) {
  progress.step("Extracting the kernel");
  ImageParts parts;
  UnpackedKernel kernel = TRY(unpack_kernel(as_bytes(input.image)));
  parts.kernel = std::move(kernel.elf);
  parts.compression = std::move(kernel.compression);
  parts.release = kernel_release(parts.kernel);
  parts.source = input.source;
  if (parts.release.empty())
    return make_error(ErrorKind::kDataLoss, "the kernel does not say which version it is");
  const std::vector<std::string> names = TRY(choose_modules(input, parts, progress));
  if (!input.modules) return parts;
  // A module of another kernel does not load, and the guest would only say so on its console.
  if (input.modules->release() != parts.release)
    return invalid_argument(fmt::format("the modules are of kernel {}, the kernel is {}",
                                        input.modules->release(), parts.release));
  parts.modules = TRY(input.modules->resolve(names));
  TRY(add_optional_modules(*input.modules, parts));
  return parts;
}

BuiltGuest report_on(const ImageParts& parts, size_t initramfs_bytes) {
  BuiltGuest out;
  out.kernel_release = parts.release;
  out.kernel_bytes = parts.kernel.size();
  out.initramfs_bytes = initramfs_bytes;
  for (const KernelModule& module : parts.modules) out.modules.push_back(module.name);
  return out;
}

// Everything under a new name first: whoever looks sees the old image or the new one.
Result<void> replace_directory(const std::string& output,
                               const std::vector<std::pair<const char*, std::string_view>>& files) {
  std::error_code failed;
  const fs::path path = fs::absolute(output, failed).lexically_normal();
  if (failed) return sys_error("find the current directory", failed.value());
  const std::string target = path.has_filename() ? path : path.parent_path();
  const std::string parent = fs::path(target).parent_path();
  TRY(make_directories(parent, 0755));
  TemporaryDirectory staged = TRY(TemporaryDirectory::create(parent, ".kiln-guest-"));
  if (chmod(staged.path().c_str(), 0755) != 0) return sys_error("chmod the new guest image");
  for (const auto& [name, content] : files)
    TRY(write_file_atomic(fmt::format("{}/{}", staged.path(), name), content, 0644));
  const auto moved = [&](unsigned flags) {
    return renameat2(AT_FDCWD, staged.path().c_str(), AT_FDCWD, target.c_str(), flags) == 0;
  };
  if (moved(RENAME_NOREPLACE)) {
    staged.release();
    return {};
  }
  // An exchange; the old one goes with the temporary directory.
  if (errno == EEXIST && moved(RENAME_EXCHANGE)) return {};
  return sys_error(fmt::format("put the guest image into `{}`", output));
}

// A directory that holds anything but a guest image is not ours to replace.
Result<void> check_output(const std::string& output) {
  std::error_code failed;
  for (fs::directory_iterator entry(output, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    const std::string name = entry->path().filename();
    if (name != kKernelName && name != kInitramfsName && name != kManifestName)
      return make_error(
          ErrorKind::kFailedPrecondition,
          fmt::format("`{}` is not a guest image's directory: it has `{}` in it", output, name));
  }
  if (failed && failed != std::errc::no_such_file_or_directory)
    return sys_error(fmt::format("read directory `{}`", output), failed.value());
  return {};
}

Result<BuiltGuest> write_image(const std::string& output, const ImageParts& parts,
                               Progress& progress) {
  progress.step("Writing the guest image");
  const std::string initramfs = TRY(make_initramfs(parts));
  const std::string manifest = manifest_of(parts, initramfs);
  TRY(replace_directory(
      output,
      {{kKernelName, parts.kernel}, {kInitramfsName, initramfs}, {kManifestName, manifest}}));
  return report_on(parts, initramfs.size());
}

// The kernel that is wanted is in the image already: only the agent may have to change.
Result<BuiltGuest> refresh(const GuestBuild& build, ImageParts parts, std::string agent,
                           Progress& progress) {
  if (parts.agent != agent) {
    parts.agent = std::move(agent);
    return write_image(build.output, parts, progress);
  }
  BuiltGuest out = report_on(parts, TRY(make_initramfs(parts)).size());
  out.unchanged = true;
  return out;
}

Result<BuiltGuest> assemble(const GuestBuild& build, const KernelInput& input, std::string agent,
                            Progress& progress) {
  ImageParts parts = TRY(take_apart(input, progress));
  parts.agent = std::move(agent);
  return write_image(build.output, parts, progress);
}

}  // namespace

Result<BuiltGuest> build_guest(const GuestBuild& build, Progress& progress) {
  TRY(check_output(build.output));
  std::string agent = TRY(read_agent(build.agent));
  if (!build.kernel.empty()) {
    const KernelInput input = TRY(kernel_from_files(build.kernel, build.modules));
    return wrap(assemble(build, input, std::move(agent), progress),
                fmt::format("kernel `{}`", build.kernel));
  }
  const FetchedPackage package = TRY(
      build.from_source ? fetch_package(build.source.package, kSourceFamily, build.cache, progress)
                        : fetch_package(build.package, kKernelFamily, build.cache, progress));
  KernelIdentity source = {{"package", package.name}, {"version", package.version}};
  // An image that another build of kiln made may lack some of them.
  source["drivers"] = optional_module_names();
  if (build.from_source) source["fragment"] = sha256_hex(build.source.fragment);
  if (!build.force) {
    if (auto parts = read_image_parts(build.output, source))
      return refresh(build, std::move(*parts), std::move(agent), progress);
  }
  KernelInput input = TRY(build.from_source ? kernel_from_source(package, build.source, progress)
                                            : kernel_from_package(package, progress));
  input.source = std::move(source);
  return assemble(build, input, std::move(agent), progress);
}

std::string default_cache_directory() {
  if (const char* cache = getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/')
    return fmt::format("{}/kiln", cache);
  const char* home = getenv("HOME");
  if (geteuid() == 0 || home == nullptr || *home != '/') return "/var/cache/kiln";
  return fmt::format("{}/.cache/kiln", home);
}

}  // namespace kiln::runtime
