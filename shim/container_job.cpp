// SPDX-License-Identifier: Apache-2.0
#include "shim/container_job.h"

#include <unistd.h>

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

Result<MadeTask> make_mounted(const NewTask& task, oci::Spec spec,
                              const runtime::PlanOptions& options, runtime::RootLayers layers) {
  TRY(write_root(task.bundle, options.root));
  spec.process->terminal = task.stdio.terminal;
  auto container = TRY(runtime::prepare_from_spec(options, task.id, task.bundle, std::move(spec),
                                                  runtime::MachineWishes()));
  container.plan.root_layers = std::move(layers);
  OpenStdio stdio = TRY(open_stdio(task.stdio, task.namespace_name, task.id));
  container.stdio = std::move(stdio.fds);
  container.plan.direct_terminal = true;
  // The machine is not to outlive who reports its end.
  container.plan.ends_with_creator = true;
  auto created = runtime::create_container(std::move(container));
  if (!created) {
    if (stdio.logger.pidfd) kill_and_reap(stdio.logger);  // it has nothing to write
    return tl::unexpected(std::move(created.error()));
  }
  if (auto written = runtime::write_pid_file(task.bundle + "/" + kPidFile, created->pid());
      !written) {
    static_cast<void>(runtime::delete_container(options.root, task.id, true));
    kill_and_reap(created->monitor);
    if (stdio.logger.pidfd) kill_and_reap(stdio.logger);
    return tl::unexpected(std::move(written.error()));
  }
  return MadeTask{options.root, std::move(*created), std::move(stdio.stdin_keeper),
                  std::move(stdio.logger)};
}

}  // namespace

Result<MadeTask> make_container(const NewTask& task) {
  oci::Spec spec = TRY(runtime::load_spec(task.bundle));
  if (!spec.process) return invalid_argument("config.json: /process: must be there");
  if (!task.sandbox_bundle.empty()) add_sandbox_files(task.sandbox_bundle, spec);
  const auto options =
      TRY(plan_options(task.options, task.namespace_name, spec.linux.cgroups_path));
  // Another's machine runs already, and gets no drives any more.
  const bool joins = runtime::pod_role(spec) == runtime::PodRole::kContainer ||
                     TRY(runtime::find_sandbox(options.root, spec)).has_value();
  const auto disk = joins ? std::nullopt : root_disk(task.rootfs);
  const auto layers = joins ? std::nullopt : root_layers(task.rootfs);
  if (layers) {
    // On drives, from the plan.
  } else if (disk && spec.root) {
    spec.root->path = disk->source;
    spec.root->readonly = spec.root->readonly || disk->read_only;
  } else {
    TRY(mount_rootfs(task.rootfs, task.bundle));
  }
  auto made = make_mounted(task, std::move(spec), options, layers.value_or(runtime::RootLayers()));
  if (!made && !disk && !layers) {
    if (const auto undone = unmount_rootfs(task.bundle); !undone)
      log_warning("{}, ignoring", undone.error().message);
  }
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
