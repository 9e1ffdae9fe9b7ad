// SPDX-License-Identifier: Apache-2.0
#include "shim/container_job.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <optional>

#include "base/file.h"
#include "base/log.h"
#include "runtime/container_delete.h"
#include "runtime/container_plan.h"
#include "runtime/join.h"
#include "runtime/pod_annotations.h"
#include "shim/sandbox_files.h"
#include "shim/task_options.h"

namespace kiln::shim {
namespace {

// runc's shim leaves it too; nerdctl and monitoring tools look there.
constexpr const char* kPidFile = "init.pid";

Result<std::array<UniqueFd, 3>> duplicates(const std::array<UniqueFd, 3>& fds) {
  std::array<UniqueFd, 3> out;
  for (size_t i = 0; i < fds.size(); ++i) {
    if (!fds[i]) continue;
    out[i].reset(fcntl(fds[i].get(), F_DUPFD_CLOEXEC, 3));
    if (!out[i]) return sys_error("duplicate a standard stream");
  }
  return out;
}

// `stdio`: opened here, unless an attempt before has; a fifo's reader would take its end for the
// process's.
Result<MadeTask> make_prepared(const NewTask& task, oci::Spec spec,
                               const runtime::PlanOptions& options, runtime::RootLayers layers,
                               std::optional<OpenStdio>& stdio) {
  TRY(write_root(task.bundle, options.root));
  spec.process->terminal = task.stdio.terminal;
  auto container = TRY(runtime::prepare_from_spec(options, task.id, task.bundle, std::move(spec),
                                                  runtime::MachineWishes()));
  container.plan.root_layers = std::move(layers);
  if (!stdio) stdio = TRY(open_stdio(task.stdio, task.namespace_name, task.id));
  container.stdio = TRY(duplicates(stdio->fds));
  container.plan.direct_terminal = true;
  // The machine is not to outlive who reports its end.
  container.plan.ends_with_creator = true;
  auto created = TRY(runtime::create_container(std::move(container)));
  if (auto written = runtime::write_pid_file(task.bundle + "/" + kPidFile, created.pid());
      !written) {
    static_cast<void>(runtime::delete_container(options.root, task.id, true));
    kill_and_reap(created.monitor);
    return tl::unexpected(std::move(written.error()));
  }
  return MadeTask{options.root, std::move(created), std::move(stdio->stdin_keeper),
                  std::move(stdio->logger)};
}

Result<MadeTask> make_with_root(const NewTask& task, oci::Spec spec,
                                const runtime::PlanOptions& options,
                                std::optional<OpenStdio>& stdio) {
  const bool joins = runtime::pod_role(spec) == runtime::PodRole::kContainer ||
                     TRY(runtime::find_sandbox(options.root, spec)).has_value();
  // Another's machine has few drives to spare, and layers are many.
  if (auto layers = joins ? std::nullopt : root_layers(task.rootfs))
    return make_prepared(task, std::move(spec), options, std::move(*layers), stdio);
  if (const auto disk = root_disk(task.rootfs); disk && spec.root) {
    oci::Spec with_disk = spec;
    with_disk.root->path = disk->source;
    with_disk.root->readonly = spec.root->readonly || disk->read_only;
    auto made = make_prepared(task, std::move(with_disk), options, {}, stdio);
    // QEMU's machine takes none at all. Then the disk is mounted here and shared.
    if (made || !joins || made.error().kind != ErrorKind::kResourceExhausted) return made;
    log_info("container {}: its root file system is mounted on the host: {}", task.id,
             made.error().message);
  }
  TRY(mount_rootfs(task.rootfs, task.bundle));
  auto made = make_prepared(task, std::move(spec), options, {}, stdio);
  if (made) return made;
  if (const auto undone = unmount_rootfs(task.bundle); !undone)
    log_warning("{}, ignoring", undone.error().message);
  return made;
}

}  // namespace

Result<MadeTask> make_container(const NewTask& task) {
  oci::Spec spec = TRY(runtime::load_spec(task.bundle));
  if (!spec.process) return invalid_argument("config.json: /process: must be there");
  if (!task.sandbox_bundle.empty()) add_sandbox_files(task.sandbox_bundle, spec);
  const auto options =
      TRY(plan_options(task.options, task.namespace_name, spec.linux.cgroups_path));
  std::optional<OpenStdio> stdio;
  auto made = make_with_root(task, std::move(spec), options, stdio);
  // It has nothing to write.
  if (!made && stdio && stdio->logger.pidfd) kill_and_reap(stdio->logger);
  return made;
}

Result<void> remove_container(const std::string& root, const std::string& id,
                              const std::string& bundle) {
  auto removed = runtime::delete_container(root, id, true);
  auto unmounted = unmount_rootfs(bundle);
  auto files_removed = remove_sandbox_files(bundle);
  TRY(std::move(removed));
  TRY(std::move(unmounted));
  return files_removed;
}

}  // namespace kiln::shim
