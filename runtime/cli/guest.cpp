// SPDX-License-Identifier: Apache-2.0
// `kiln guest build` and `kiln guest show`.
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "base/file.h"
#include "base/format.h"
#include "runtime/cli/command.h"
#include "runtime/config/config.h"
#include "runtime/config/locate.h"
#include "runtime/guest/build.h"
#include "runtime/guest/image.h"
#include "runtime/guest/tool.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxFragmentBytes = 1U << 20;
constexpr size_t kMaxManifestBytes = 1U << 20;
constexpr const char* kAgentName = "kiln-agent";
constexpr const char* kFragmentName = "guest.fragment";

struct GuestFlags {
  GuestBuild build;
  std::string fragment;
  bool quiet = false;
};

// A file of ours: beside the program in a build tree, else where kiln is installed.
Result<std::string> find_own_file(const char* name, const char* flag) {
  std::string looked_in;
  for (const std::string& directory : TRY(program_directories())) {
    std::string path = fmt::format("{}/{}", directory, name);
    if (access(path.c_str(), R_OK) == 0) return path;
    looked_in += fmt::format("{}`{}`", looked_in.empty() ? "" : " or ", directory);
  }
  return make_error(ErrorKind::kNotFound,
                    fmt::format("find `{}`: not in {}; {} names it", name, looked_in, flag));
}

// Where `kiln run` looks: the configuration's directory, else beside this program, else the
// installed place.
Result<std::string> default_output(const Globals& globals) {
  const Config config = TRY(load_config(globals.config_path, globals.config_given));
  if (!config.guest.directory.empty()) return config.guest.directory;
  const auto directories = TRY(program_directories());
  for (const std::string& directory : directories) {
    if (access(fmt::format("{}/{}", directory, kAgentName).c_str(), R_OK) == 0)
      return directory + "/guest";
  }
  return directories.back() + "/guest";
}

Result<void> complete(const Globals& globals, GuestFlags& flags) {
  GuestBuild& build = flags.build;
  if (!build.modules.empty() && build.kernel.empty())
    return invalid_argument("--modules goes with --kernel");
  if (build.from_source && !build.kernel.empty())
    return invalid_argument("--kernel-source and --kernel exclude each other");
  if (build.output.empty()) build.output = TRY(default_output(globals));
  if (build.agent.empty()) build.agent = TRY(find_own_file(kAgentName, "--agent"));
  if (build.cache.empty()) build.cache = default_cache_directory();
  if (build.from_source) {
    if (flags.fragment.empty()) flags.fragment = TRY(find_own_file(kFragmentName, "--fragment"));
    build.source.fragment = TRY(read_file(flags.fragment, kMaxFragmentBytes));
  }
  return {};
}

Result<void> build(const Globals& globals, GuestFlags& flags) {
  TRY(complete(globals, flags));
  Result<BuiltGuest> built = BuiltGuest();
  int signal = 0;
  {
    const Interruptible interruptible;
    Progress progress(flags.quiet);
    built = build_guest(flags.build, progress);
    signal = Interruptible::signal_seen();
  }
  // Everything is cleaned up; who waits for us is to see what ended us.
  if (signal != 0) raise(signal);
  if (!built) return tl::unexpected(std::move(built.error()).wrap("build the guest image"));
  constexpr double kMib = 1 << 20;
  std::puts(fmt::format("{}: Linux {}, kernel {:.1f} MiB, initramfs {:.1f} MiB, {} modules{}",
                        flags.build.output, built->kernel_release,
                        static_cast<double>(built->kernel_bytes) / kMib,
                        static_cast<double>(built->initramfs_bytes) / kMib, built->modules.size(),
                        built->unchanged ? " (unchanged)" : "")
                .c_str());
  return {};
}

Result<void> show(const Globals& globals) {
  const Config config = TRY(load_config(globals.config_path, globals.config_given));
  const GuestImage image = TRY(find_guest_image(config));
  std::puts(image.directory.c_str());
  auto manifest =
      read_file(fmt::format("{}/{}", image.directory, kManifestName), kMaxManifestBytes);
  if (manifest) std::fputs(manifest->c_str(), stdout);
  return {};
}

void add_build_flags(const Command& command, GuestFlags& flags) {
  GuestBuild& build = flags.build;
  command.option("-o,--output", build.output,
                 "directory to put the image in (default: where `kiln run` looks)");
  command.option("--agent", build.agent, "the guest agent (default: kiln's own)");
  command.option("--kernel", build.kernel, "kernel to use: a bzImage or an ELF file");
  command.option("--modules", build.modules,
                 "the kernel's modules: /lib/modules/RELEASE or the like");
  command
      .option("--kernel-package", build.package,
              "package of this distribution to take the kernel from; nothing is installed")
      .show_default();
  command.flag("--kernel-source", build.from_source,
               "build a small kernel from the distribution's source (several minutes)");
  command.option("--source-package", build.source.package, "for --kernel-source").show_default();
  command.option("--fragment", flags.fragment,
                 "kernel options for --kernel-source (default: kiln's own)");
  command.option("-j,--jobs", build.source.jobs, "compilers at a time, for --kernel-source")
      .between(1, 1024);
  command.option("--cache", build.cache, "directory for downloaded packages");
  command.flag("--force", build.force, "even if the image is up to date");
  command.flag("-q,--quiet", flags.quiet, "no progress");
}

}  // namespace

void add_guest(const Command& app, Globals& globals) {
  const Command guest = app.subcommand("guest", "the kernel and initramfs that microVMs boot");
  guest.require_subcommand();
  const auto flags = std::make_shared<GuestFlags>();
  const auto processors = sysconf(_SC_NPROCESSORS_ONLN);
  flags->build.source.jobs = processors > 0 ? static_cast<unsigned>(processors) : 1;
  const Command build_command = guest.subcommand("build", "assemble the guest image");
  add_build_flags(build_command, *flags);
  build_command.on_run(
      [&globals, flags] { globals.exit_code = report(globals, build(globals, *flags)); });
  guest.subcommand("show", "print where the guest image is, and its manifest").on_run([&globals] {
    globals.exit_code = report(globals, show(globals));
  });
}

}  // namespace kiln::runtime
