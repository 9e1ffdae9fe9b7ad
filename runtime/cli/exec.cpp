// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "oci/parse.h"
#include "runtime/cli/command.h"
#include "runtime/container_exec.h"
#include "runtime/passed_fds.h"
#include "runtime/spec_check.h"

namespace kiln::runtime {
namespace {

// As runc's, whose every failure here is told from the process's own by it.
constexpr int kExecFailed = 255;

struct ExecFlags {
  std::vector<std::string> arguments;  // id, then the command
  std::string process_file;
  std::string cwd;
  std::string user;
  std::string apparmor;
  std::string process_label;
  std::vector<std::string> cgroups;
  int preserve_fds = 0;
  ExecChanges changes;
  ExecOptions options;
};

void warn_of_ignored(const ExecFlags& flags) {
  if (!flags.apparmor.empty()) log_warning("--apparmor: the guest has no AppArmor, ignoring");
  if (!flags.process_label.empty())
    log_warning("--process-label: the guest has no SELinux, ignoring");
}

Result<oci::Process> process_from_file(const std::string& path) {
  const std::string text = TRY(read_file(path));
  const Json json = TRY(wrap(parse_json(text), path));
  oci::Process process = TRY(oci::parse_process(json, path));
  std::vector<std::string> warnings;
  TRY(check_process(process, path, warnings));
  for (const std::string& warning : warnings) log_warning("{}", warning);
  process.apparmor_profile.clear();
  process.selinux_label.clear();
  return process;
}

Result<int> exec(const Globals& globals, ExecFlags& flags) {
  if (flags.preserve_fds < 0) return invalid_argument("--preserve-fds: must not be negative");
  const auto preserved = static_cast<size_t>(flags.preserve_fds);
  flags.options.passed = TRY(passed_kinds(preserved, preserved));
  if (!flags.cgroups.empty())
    return make_error(ErrorKind::kUnimplemented, "--cgroup: sub-cgroups are not supported");
  const ContainerDir dir = TRY(open_container(globals, flags.arguments.front()));
  if (flags.process_file.empty()) {
    flags.changes.args.assign(flags.arguments.begin() + 1, flags.arguments.end());
    if (!flags.changes.args.empty() && flags.changes.args.front() == "--")
      flags.changes.args.erase(flags.changes.args.begin());
    if (flags.changes.args.empty()) return invalid_argument("process args cannot be empty");
    if (!flags.cwd.empty()) flags.changes.cwd = flags.cwd;
    if (!flags.user.empty()) flags.changes.user = flags.user;
    ContainerRecord record = TRY(dir.current_record());
    flags.options.process = TRY(exec_process(std::move(record.process), flags.changes));
  } else {
    flags.options.process = TRY(process_from_file(flags.process_file));
    if (flags.changes.terminal) flags.options.process.terminal = true;
  }
  warn_of_ignored(flags);
  return exec_in_container(dir, flags.options);
}

}  // namespace

void add_exec(const Command& app, Globals& globals) {
  const Command command = app.subcommand(
      "exec", "execute a new process: kiln exec [OPTIONS] CONTAINER COMMAND [ARGUMENTS]");
  const auto flags = std::make_shared<ExecFlags>();
  command.option("-p,--process", flags->process_file, "path to the process.json");
  command.flag("-t,--tty", flags->changes.terminal, "allocate a pseudo-TTY");
  command.option("--cwd", flags->cwd, "current working directory in the container");
  command.option("-e,--env", flags->changes.env, "set an environment variable");
  command.option("-u,--user", flags->user, "uid[:gid]");
  command.option("-g,--additional-gids", flags->changes.additional_gids, "additional gids");
  command.option("-c,--cap", flags->changes.capabilities, "add a capability to every set");
  command.flag("--no-new-privs", flags->changes.no_new_privileges,
               "set the no new privileges value for the process");
  command.flag("-d,--detach", flags->options.detach, "detach from the container's process");
  command.option("--pid-file", flags->options.pid_file, "file to write the process id to");
  command.option("--console-socket", flags->options.console_socket,
                 "AF_UNIX socket that receives the terminal's master");
  command.option("--pidfd-socket", flags->options.pidfd_socket,
                 "AF_UNIX socket that receives a pidfd of what stands for the process here");
  command.option("--apparmor", flags->apparmor, "accepted; has no effect");
  command.option("--process-label", flags->process_label, "accepted; has no effect");
  command.option("--preserve-fds", flags->preserve_fds,
                 "so many descriptors from 3 on go to the process: sockets and pipes");
  command.option("--cgroup", flags->cgroups, "not supported");
  command.flag("--ignore-paused", flags->options.ignore_paused, "allow exec in a paused container");
  command.take_rest();
  command.on_run([&globals, flags, command] {
    flags->arguments = command_words(command);
    const auto usable = check_words("exec", flags->arguments);
    if (!usable) {
      globals.exit_code = report(globals, usable);
      return;
    }
    const auto outcome = exec(globals, *flags);
    if (!outcome) log_failure(globals, Error(outcome.error()).wrap("exec failed"));
    globals.exit_code = outcome.value_or(kExecFailed);
  });
}

}  // namespace kiln::runtime
