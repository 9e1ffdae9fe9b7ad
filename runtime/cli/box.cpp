// SPDX-License-Identifier: Apache-2.0
// `kiln box -- COMMAND`: a command in a throw-away microVM, without a bundle.
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "base/format.h"
#include "base/unix_socket.h"
#include "runtime/cli/box_spec.h"
#include "runtime/cli/bundle.h"
#include "runtime/console.h"
#include "runtime/container_delete.h"

namespace kiln::runtime {
namespace {

struct BoxFlags {
  BoxOptions options;
  double cpus = 0;
  std::string memory;
  std::string vmm;
  bool nested = false;
  bool net = false;
};

std::vector<std::string> own_environment() {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) out.emplace_back(*entry);
  return out;
}

Result<MachineWishes> wishes_of(const BoxFlags& flags) {
  MachineWishes wishes;
  if (flags.cpus < 0 || flags.cpus > 64)
    return invalid_argument(fmt::format("--cpus: must be from 1 to 64"));
  if (flags.cpus > 0) wishes.vcpus = static_cast<unsigned>(std::ceil(flags.cpus));
  if (!flags.memory.empty()) wishes.memory_mib = TRY(parse_memory_mib(flags.memory));
  if (!flags.vmm.empty()) wishes.backend = flags.vmm;
  wishes.nested = flags.nested;
  wishes.network = flags.net ? NetworkMode::kPasst : NetworkMode::kNone;
  return wishes;
}

// A word with a dash before the command is a flag that nobody knows.
Result<void> take_command(BoxFlags& flags) {
  auto& words = flags.options.command;
  if (words.empty()) return {};
  if (words.front() == "--") {
    words.erase(words.begin());
  } else if (words.front().starts_with('-')) {
    return invalid_argument(fmt::format("unknown flag `{}`", words.front()));
  }
  return {};
}

// As shells have it: 127 for a command that is not there, 126 for one that cannot be run.
int code_of(const Error& error) {
  if (!error.message.starts_with("exec: ")) return kBoxFailed;
  if (error.kind == ErrorKind::kNotFound) return 127;
  return error.kind == ErrorKind::kPermissionDenied ? 126 : kBoxFailed;
}

Result<int> box(const Globals& globals, BoxFlags& flags) {
  std::error_code failed;
  const std::string directory = std::filesystem::current_path(failed);
  if (failed) return sys_error("find the current directory", failed.value());
  flags.options.rootfs = std::filesystem::canonical(flags.options.rootfs, failed);
  if (failed) return sys_error("--rootfs", failed.value());
  const MachineWishes wishes = TRY(wishes_of(flags));
  oci::Spec spec = TRY(box_spec(flags.options, directory, own_environment()));
  const std::string id = fmt::format("box-{}", getpid());
  NewContainer container = TRY(prepare_from_spec(globals, id, "/", std::move(spec), wishes));
  container.plan.overlay = true;
  container.plan.host_resolv_conf = flags.net;
  container.plan.ends_with_creator = true;
  UniqueFd console;
  if (flags.options.terminal) {
    auto [here, there] = TRY(socket_pair(SOCK_STREAM));
    console = std::move(here);
    container.console = std::move(there);
  }
  const CreatedContainer created = TRY(create_container(std::move(container)));
  UniqueFd master;
  if (console) master = TRY(receive_master(console.get()));
  auto code = attend_container(created, std::move(master));
  auto removed = delete_container(globals.root, id, true);
  if (code && !removed) return tl::unexpected(std::move(removed.error()));
  return code;
}

}  // namespace

void add_box(const Command& app, Globals& globals) {
  const Command command =
      app.subcommand("box",
                     "run a command in a throw-away microVM that sees this host's files read-only: "
                     "kiln box [OPTIONS] -- COMMAND [ARGUMENTS]");
  const auto flags = std::make_shared<BoxFlags>();
  BoxOptions& options = flags->options;
  command.option("--rootfs", options.rootfs,
                 "directory, image or block device to see as `/` instead of the host's");
  command.option("--rw", options.rw, "PATH[:DST] that the command may change");
  command.option("--ro", options.ro, "PATH[:DST] to see");
  command.option("-e,--env", options.env, "KEY=value, or KEY of the caller's environment");
  command.option("-w,--workdir", options.workdir, "directory to run in");
  command.flag("-t,--tty", options.terminal, "give the command a terminal");
  command.option("--cpus", flags->cpus, "vCPUs");
  command.option("-m,--memory", flags->memory, "memory of the VM: 512M, 2G");
  command.option("--vmm", flags->vmm, "auto, kvm or qemu");
  command.flag("--net", flags->net, "reach what this host reaches (needs the package passt)");
  command.flag("--nested", flags->nested, "show the guest virtualization extensions");
  command.take_rest();
  command.on_run([&globals, flags, command] {
    flags->options.command = command_words(command);
    const auto outcome = take_command(*flags).and_then([&] { return box(globals, *flags); });
    if (!outcome) log_failure(globals, outcome.error());
    globals.exit_code = outcome ? *outcome : code_of(outcome.error());
  });
}

}  // namespace kiln::runtime
