// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/container/block_mount.h"
#include "agent/container/mount_calls.h"
#include "agent/container/mounts.h"
#include "agent/container/namespaces.h"
#include "base/format.h"
#include "oci/mount_options.h"

namespace kiln::agent {
namespace {

Result<void> map_ids(int mount_fd, const oci::Spec& spec, const oci::Mount& mount, bool recursive) {
  // config.md#mounts: without mappings of its own, those of the container's user namespace.
  const bool own = !mount.uid_mappings.empty();
  const auto& uids = own ? mount.uid_mappings : spec.linux.uid_mappings;
  const auto& gids = own ? mount.gid_mappings : spec.linux.gid_mappings;
  if (uids.empty() || gids.empty()) {
    return invalid_argument(
        "an idmap mount needs uidMappings and gidMappings, or those of a user namespace");
  }
  const UniqueFd user_namespace = TRY(make_user_namespace(uids, gids));
  auto mapped = set_mount_id_map(mount_fd, user_namespace.get(), recursive);
  if (mapped || mapped.error().sys_errno != EINVAL) return mapped;
  return make_error(ErrorKind::kUnimplemented,
                    "idmap: the file system of its source does not support it");
}

Result<UniqueFd> open_bind(const oci::Spec& spec, const oci::Mount& mount,
                           const oci::MountOptions& options, const std::string& source) {
  UniqueFd fd = TRY(clone_mount(AT_FDCWD, source, options.recursive_bind));
  // A copy starts as its source's peer.
  TRY(set_mount_propagation(fd.get(), MS_PRIVATE | MS_REC));
  const auto attributes = attributes_of_flags(options.set, options.clear);
  TRY(set_mount_attributes(fd.get(), attributes.set, attributes.clear, false));
  TRY(set_mount_attributes(fd.get(), options.recursive_set, options.recursive_clear, true));
  if (options.id_map != oci::IdMapKind::kNone || !mount.uid_mappings.empty())
    TRY(map_ids(fd.get(), spec, mount, options.id_map == oci::IdMapKind::kRecursive));
  return fd;
}

Result<UniqueFd> open_disk(const oci::Spec& spec, const oci::Mount& mount,
                           const oci::MountOptions& options, const BlockSource& source) {
  UniqueFd fd = TRY(mount_block_device(source, options.set, options.data));
  TRY(set_mount_attributes(fd.get(), options.recursive_set, options.recursive_clear, true));
  if (options.id_map != oci::IdMapKind::kNone || !mount.uid_mappings.empty())
    TRY(map_ids(fd.get(), spec, mount, options.id_map == oci::IdMapKind::kRecursive));
  return fd;
}

// sysfs wants the privileges of the network namespace's owner, and that is the guest's.
Result<UniqueFd> open_sysfs(const oci::MountOptions& options) {
  const UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "sysfs", FSOPEN_CLOEXEC)));
  if (!context) return sys_error("open the file system type");
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return sys_error("create the file system");
  UniqueFd fd(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
  if (!fd) return sys_error("mount the file system");
  const auto attributes = attributes_of_flags(options.set, options.clear);
  TRY(set_mount_attributes(fd.get(), attributes.set, attributes.clear, false));
  return fd;
}

Result<UniqueFd> open_cgroup(int cgroup_fd, const oci::MountOptions& options) {
  UniqueFd fd = TRY(clone_mount(cgroup_fd, "", false));
  TRY(set_mount_propagation(fd.get(), MS_PRIVATE));
  const auto attributes = attributes_of_flags(options.set, options.clear);
  TRY(set_mount_attributes(fd.get(), attributes.set, attributes.clear, false));
  return fd;
}

}  // namespace

Result<std::vector<UniqueFd>> open_mount_sources(const ContainerSetup& setup, int cgroup_fd) {
  const oci::Spec& spec = *setup.spec;
  const bool user = oci::find_namespace(spec.linux, "user") != nullptr;
  const bool cgroup = oci::find_namespace(spec.linux, "cgroup") != nullptr;
  std::vector<UniqueFd> out(spec.mounts.size());
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const oci::Mount& mount = spec.mounts[i];
    const auto options = oci::parse_mount_options(mount.options);
    if (!options) return invalid_argument(options.error().rule);  // not after parse_spec
    if (options->remount) continue;
    const std::string what = fmt::format("mount `{}` at `{}`", mount.source, mount.destination);
    if (const auto device = setup.mount_devices.find(i); device != setup.mount_devices.end()) {
      out[i] = TRY(wrap(open_disk(spec, mount, *options, device->second), what));
    } else if (options->bind) {
      const auto source = setup.bind_sources.find(i);
      if (source == setup.bind_sources.end()) {
        return make_error(ErrorKind::kFailedPrecondition,
                          fmt::format("{}: the host has not shared its source", what));
      }
      out[i] = TRY(wrap(open_bind(spec, mount, *options, source->second), what));
    } else if (mount.type == "sysfs" && user) {
      out[i] = TRY(wrap(open_sysfs(*options), what));
    } else if ((mount.type == "cgroup" || mount.type == "cgroup2") && !cgroup) {
      out[i] = TRY(wrap(open_cgroup(cgroup_fd, *options), what));
    }
  }
  return out;
}

}  // namespace kiln::agent
