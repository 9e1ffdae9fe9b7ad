// SPDX-License-Identifier: Apache-2.0
// `kiln install ENGINE` and `kiln uninstall ENGINE`.
#include <unistd.h>

#include <cstdio>

#include "base/format.h"
#include "base/process.h"
#include "runtime/cli/command.h"
#include "runtime/config/locate.h"
#include "runtime/engines/engine.h"

namespace kiln::runtime {
namespace {

struct InstallFlags {
  EngineTarget target;
  bool dry_run = false;
};

constexpr char kShim[] = "/containerd-shim-kiln-v2";

Result<void> complete(EngineTarget& target, bool install) {
  while (target.prefix.ends_with('/')) target.prefix.pop_back();
  if (target.program.empty()) {
    target.program = TRY(own_executable());
    const std::string shim = target.program.substr(0, target.program.rfind('/')) + kShim;
    if (install && target.engine == "containerd" && access(shim.c_str(), X_OK) != 0)
      return sys_error(fmt::format("find containerd's shim `{}`", shim));
  }
  // Installed in lib/kiln/engines; a build directory has them where the sources do.
  for (const std::string& directory : TRY(program_directories())) {
    target.templates.push_back(directory + "/engines");
    target.templates.push_back(directory + "/packaging/engines");
  }
  return {};
}

// The files in the order in which each step leaves a containerd that can start.
Result<std::vector<EngineFile>> plan(const InstallFlags& flags, bool install) {
  std::vector<EngineFile> files;
  const bool has_import = flags.target.engine == "containerd" && (flags.target.import || !install);
  if (has_import && !install) files.push_back(TRY(plan_import_removal(flags.target)));
  files.push_back(TRY(install ? plan_install(flags.target) : plan_uninstall(flags.target)));
  if (has_import && install) files.push_back(TRY(plan_import(flags.target)));
  return files;
}

Result<void> change(InstallFlags& flags, bool install) {
  if (flags.target.import && flags.target.engine != "containerd")
    return invalid_argument("--import is for containerd alone");
  TRY(complete(flags.target, install));
  for (const EngineFile& file : TRY(plan(flags, install))) {
    if (file.of_others && !file.changed) continue;
    if (flags.dry_run) {
      std::fputs(fmt::format("{}:\n{}", file.path, file.text).c_str(), stdout);
    } else {
      TRY(carry_out(file, flags.target.prefix));
      const char* done = install || !file.text.empty() ? "written" : "removed";
      std::puts(
          fmt::format("`{}` {}", file.path, file.changed ? done : "is as it should be").c_str());
    }
    if (!file.advice.empty()) std::fputs(fmt::format("{}\n", file.advice).c_str(), stderr);
  }
  return {};
}

void add_change(const Command& app, Globals& globals, bool install) {
  const Command command =
      install ? app.subcommand("install", "make kiln known to podman, docker, containerd or crio")
              : app.subcommand("uninstall", "take back what `kiln install` wrote");
  const auto flags = std::make_shared<InstallFlags>();
  command.option("engine", flags->target.engine, "podman, docker, containerd or crio").required();
  command.option("--prefix", flags->target.prefix, "directory in front of /etc, for packages");
  command.option("--program", flags->target.program, "path of kiln; by default this program's");
  command.flag("--dry-run", flags->dry_run, "show the file, and write nothing");
  if (install)
    command.flag("--import", flags->target.import,
                 "containerd: let its main file read this one, too");
  command.on_run([&globals, flags, install] {
    if (globals.config_given) flags->target.config = globals.config_path;
    globals.exit_code = report(globals, change(*flags, install));
  });
}

}  // namespace

void add_install(const Command& app, Globals& globals) {
  add_change(app, globals, true);
  add_change(app, globals, false);
}

}  // namespace kiln::runtime
