// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/build.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/file.h"
#include "base/format.h"
#include "base/json.h"
#include "runtime/guest/bzimage.h"
#include "runtime/guest/elf.h"
#include "runtime/guest/image.h"
#include "runtime/guest/initramfs.h"
#include "runtime/guest/kernel_options.h"
#include "runtime/guest/sha256.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxAgentBytes = size_t{256} << 20;
constexpr size_t kMaxManifestBytes = 1U << 20;
constexpr int kFormatVersion = 1;
constexpr const char* kKernelFamily = "linux-image-";

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

struct Parts {
  std::string kernel;  // ELF
  std::string compression;
  std::string release;
  std::string agent;
  std::vector<KernelModule> modules;
  KernelOptions options;
  std::map<std::string, std::string> source;
};

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

// Which modules to load: as the .config says, or those that are there.
Result<std::vector<std::string>> choose_modules(const KernelInput& input, Parts& parts,
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

Result<Parts> take_apart(const KernelInput& input, Progress& progress) {
  progress.step("Extracting the kernel");
  Parts parts;
  UnpackedKernel kernel = TRY(unpack_kernel(as_bytes(input.image)));
  parts.kernel = std::move(kernel.elf);
  parts.compression = std::move(kernel.compression);
  parts.release = kernel_release(parts.kernel);
  parts.source = input.source;
  if (parts.release.empty())
    return make_error(ErrorKind::kDataLoss, "the kernel does not say which version it is");
  const std::vector<std::string> names = TRY(choose_modules(input, parts, progress));
  if (names.empty()) return parts;
  // A module of another kernel does not load, and the guest would only say so on its console.
  if (input.modules->release() != parts.release)
    return invalid_argument(fmt::format("the modules are of kernel {}, the kernel is {}",
                                        input.modules->release(), parts.release));
  parts.modules = TRY(input.modules->resolve(names));
  return parts;
}

std::string manifest_of(const Parts& parts, const std::string& initramfs,
                        const std::string& identity) {
  Json modules = Json::array();
  for (const KernelModule& module : parts.modules) modules.push_back(module.name);
  const auto file = [](const std::string& content) {
    return Json{{"size", content.size()}, {"sha256", sha256_hex(content)}};
  };
  const Json manifest = {
      {"formatVersion", kFormatVersion},
      {"identity", identity},
      {"kiln", KILN_VERSION},
      {"kernel",
       {{"release", parts.release},
        {"source", parts.source},
        {"compression", parts.compression},
        {"options", parts.options},
        {"modules", std::move(modules)}}},
      {"agent", file(parts.agent)},
      {"files", {{kKernelName, file(parts.kernel)}, {kInitramfsName, file(initramfs)}}},
  };
  return dump_json(manifest, 2) + "\n";
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

// The manifest of an image that is whole and was made of the same parts.
std::optional<Json> same_image(const GuestBuild& build, const std::string& identity) {
  if (build.force || !open_guest_image(build.output)) return std::nullopt;
  const auto text = read_file(fmt::format("{}/{}", build.output, kManifestName), kMaxManifestBytes);
  if (!text) return std::nullopt;
  auto manifest = parse_json(*text);
  if (!manifest || !manifest->is_object() || manifest->value("identity", Json()) != Json(identity))
    return std::nullopt;
  return std::move(*manifest);
}

BuiltGuest unchanged_image(const Json& manifest) {
  BuiltGuest out;
  out.unchanged = true;
  try {
    out.kernel_release = manifest.at("kernel").at("release").get<std::string>();
    out.kernel_bytes = manifest.at("files").at(kKernelName).at("size").get<uint64_t>();
    out.initramfs_bytes = manifest.at("files").at(kInitramfsName).at("size").get<uint64_t>();
    out.modules = manifest.at("kernel").at("modules").get<std::vector<std::string>>();
  } catch (const Json::exception&) {
    // Only a report: the image itself has been checked.
  }
  return out;
}

Result<BuiltGuest> assemble(const GuestBuild& build, const KernelInput& input, std::string agent,
                            const std::string& identity, Progress& progress) {
  Parts parts = TRY(take_apart(input, progress));
  parts.agent = std::move(agent);
  progress.step("Writing the guest image");
  const std::string initramfs = TRY(make_initramfs(parts.agent, parts.modules));
  const std::string manifest = manifest_of(parts, initramfs, identity);
  TRY(replace_directory(
      build.output,
      {{kKernelName, parts.kernel}, {kInitramfsName, initramfs}, {kManifestName, manifest}}));
  BuiltGuest out;
  out.kernel_release = parts.release;
  out.kernel_bytes = parts.kernel.size();
  out.initramfs_bytes = initramfs.size();
  for (const KernelModule& module : parts.modules) out.modules.push_back(module.name);
  return out;
}

std::string identity_of(const std::map<std::string, std::string>& source,
                        const std::string& agent) {
  return sha256_hex(dump_json(Json{{"format", kFormatVersion},
                                   {"kiln", KILN_VERSION},
                                   {"source", source},
                                   {"agent", sha256_hex(agent)}}));
}

}  // namespace

Result<BuiltGuest> build_guest(const GuestBuild& build, Progress& progress) {
  TRY(check_output(build.output));
  std::string agent = TRY(read_agent(build.agent));
  if (!build.kernel.empty()) {
    const KernelInput input = TRY(kernel_from_files(build.kernel, build.modules));
    const std::string identity = identity_of(input.source, agent);
    return wrap(assemble(build, input, std::move(agent), identity, progress),
                fmt::format("kernel `{}`", build.kernel));
  }
  if (build.from_source) {
    const std::map<std::string, std::string> source = {
        {"package", build.source.package}, {"fragment", sha256_hex(build.source.fragment)}};
    const std::string identity = identity_of(source, agent);
    if (const auto manifest = same_image(build, identity)) return unchanged_image(*manifest);
    const KernelInput input = TRY(kernel_from_source(build.source, build.cache, progress));
    return assemble(build, input, std::move(agent), identity, progress);
  }
  const FetchedPackage package =
      TRY(fetch_package(build.package, kKernelFamily, build.cache, progress));
  const std::string identity =
      identity_of({{"package", package.name}, {"version", package.version}}, agent);
  if (const auto manifest = same_image(build, identity)) return unchanged_image(*manifest);
  const KernelInput input = TRY(kernel_from_package(package, progress));
  return assemble(build, input, std::move(agent), identity, progress);
}

std::string default_cache_directory() {
  if (const char* cache = getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/')
    return fmt::format("{}/kiln", cache);
  const char* home = getenv("HOME");
  if (geteuid() == 0 || home == nullptr || *home != '/') return "/var/cache/kiln";
  return fmt::format("{}/.cache/kiln", home);
}

}  // namespace kiln::runtime
