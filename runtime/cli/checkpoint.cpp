// SPDX-License-Identifier: Apache-2.0
// `kiln checkpoint` and `kiln restore`: runc's flags and checks, and one line that says that it is
// not done yet. A checkpoint of a VM's container would be the VM's, not CRIU's images.
#include "base/format.h"
#include "runtime/cli/bundle.h"
#include "runtime/cli/command.h"

namespace kiln::runtime {
namespace {

// What both commands tell CRIU.
struct CriuFlags {
  std::string id;
  std::string image_path;
  std::string work_path;
  std::string cgroups_mode;
  std::vector<std::string> empty_namespaces;
  bool tcp_established = false;
  bool external_sockets = false;
  bool shell_job = false;
  bool lazy_pages = false;
  bool file_locks = false;
  bool auto_dedup = false;
};

struct CheckpointFlags : CriuFlags {
  std::string parent_path;
  std::string page_server;
  int status_fd = -1;
  bool leave_running = false;
  bool pre_dump = false;
};

struct RestoreFlags : CriuFlags {
  std::string bundle;
  std::string console_socket;
  std::string pid_file;
  std::string lsm_profile;
  std::string lsm_mount_context;
  bool detach = false;
  bool no_subreaper = false;
  bool no_pivot = false;
};

void add_criu_flags(const Command& command, CriuFlags& flags) {
  command.option("container-id", flags.id, "the container").required();
  command.option("--image-path", flags.image_path, "directory of the image files");
  command.option("--work-path", flags.work_path, "directory for work files and logs");
  command.flag("--tcp-established", flags.tcp_established, "allow open TCP connections");
  command.flag("--ext-unix-sk", flags.external_sockets, "allow external Unix sockets");
  command.flag("--shell-job", flags.shell_job, "allow shell jobs");
  command.flag("--lazy-pages", flags.lazy_pages, "restore memory pages when they are needed");
  command.flag("--file-locks", flags.file_locks, "handle file locks");
  command.option("--manage-cgroups-mode", flags.cgroups_mode, "soft, full, strict or ignore");
  command.option("--empty-ns", flags.empty_namespaces,
                 "make a namespace, but do not restore its properties");
  command.flag("--auto-dedup", flags.auto_dedup, "deduplicate memory images");
}

Result<void> check_criu_flags(const CriuFlags& flags) {
  for (const char* mode : {"", "soft", "full", "strict", "ignore"})
    if (flags.cgroups_mode == mode) return {};
  return invalid_argument("Invalid manage cgroups mode value");
}

tl::unexpected<Error> not_yet(const char* command) {
  return make_error(ErrorKind::kUnimplemented,
                    fmt::format("{} is not supported yet: a VM's state cannot be saved", command));
}

Result<void> checkpoint(const Globals& globals, const CheckpointFlags& flags) {
  const ContainerDir dir = TRY(open_container(globals, flags.id));
  const ContainerRecord record = TRY(dir.current_record());
  const std::string& status = record.state.status;
  if (status == "created" || status == "stopped")
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("Container cannot be checkpointed in {} state", status));
  TRY(check_criu_flags(flags));
  return not_yet("checkpoint");
}

Result<void> restore(const RestoreFlags& flags) {
  TRY(check_container_id(flags.id));
  TRY(load_spec(flags.bundle.empty() ? "." : flags.bundle));
  TRY(check_criu_flags(flags));
  return not_yet("restore");
}

}  // namespace

void add_checkpoint(const Command& app, Globals& globals) {
  const Command command =
      app.subcommand("checkpoint", "not supported yet: checkpoint a running container");
  const auto flags = std::make_shared<CheckpointFlags>();
  add_criu_flags(command, *flags);
  command.option("--parent-path", flags->parent_path, "image files of an earlier pre-dump");
  command.flag("--leave-running", flags->leave_running, "leave the process running");
  command.option("--status-fd", flags->status_fd, "descriptor for the word that pages are served");
  command.option("--page-server", flags->page_server, "ADDRESS:PORT of the page server");
  command.flag("--pre-dump", flags->pre_dump, "dump memory alone, and leave the container running");
  command.on_run(
      [&globals, flags] { globals.exit_code = report(globals, checkpoint(globals, *flags)); });
}

void add_restore(const Command& app, Globals& globals) {
  const Command command =
      app.subcommand("restore", "not supported yet: restore a container from a checkpoint");
  const auto flags = std::make_shared<RestoreFlags>();
  add_criu_flags(command, *flags);
  command.option("-b,--bundle", flags->bundle,
                 "directory with config.json; the current one by default");
  command.option("--console-socket", flags->console_socket,
                 "AF_UNIX socket that receives the terminal's master");
  command.option("--pid-file", flags->pid_file, "file to write the process id to");
  command.option("--lsm-profile", flags->lsm_profile, "TYPE:NAME of a security profile");
  command.option("--lsm-mount-context", flags->lsm_mount_context, "security context of mounts");
  command.flag("-d,--detach", flags->detach, "detach from the container's process");
  command.flag("--no-subreaper", flags->no_subreaper, "accepted; nothing is reparented here");
  command.flag("--no-pivot", flags->no_pivot, "accepted");
  command.on_run([&globals, flags] { globals.exit_code = report(globals, restore(*flags)); });
}

}  // namespace kiln::runtime
