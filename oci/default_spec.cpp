// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "oci/parse.h"
#include "oci/version.h"

namespace kiln::oci {
namespace {

Process default_process() {
  Process process;
  process.terminal = true;
  process.cwd = "/";
  process.args = {"sh"};
  process.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"};
  const Strings kept = {"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"};
  process.capabilities = Capabilities{
      .bounding = kept, .effective = kept, .inheritable = {}, .permitted = kept, .ambient = kept};
  process.rlimits = {{"RLIMIT_NOFILE", 1024, 1024}};
  process.no_new_privileges = true;
  return process;
}

std::vector<Mount> default_mounts(bool rootless) {
  std::vector<Mount> mounts = {
      {"/proc", "proc", "proc", {}, {}, {}},
      {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}, {}, {}},
      {"/dev/pts",
       "devpts",
       "devpts",
       {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
       {},
       {}},
      {"/dev/shm",
       "tmpfs",
       "shm",
       {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"},
       {},
       {}},
      {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}, {}, {}},
      {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}, {}, {}},
      {"/sys/fs/cgroup",
       "cgroup",
       "cgroup",
       {"nosuid", "noexec", "nodev", "relatime", "ro"},
       {},
       {}},
  };
  if (!rootless) return mounts;
  // A user namespace that maps one id has no gid 5, and may not mount sysfs without a network
  // namespace of its own.
  mounts[2].options.pop_back();
  mounts[5] = {"/sys", "none", "/sys", {"rbind", "nosuid", "noexec", "nodev", "ro"}, {}, {}};
  return mounts;
}

Linux default_linux(bool rootless) {
  Linux config;
  config.masked_paths = {
      "/proc/acpi",          "/proc/asound",     "/proc/kcore",       "/proc/keys",
      "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
      "/sys/firmware",       "/proc/scsi",
  };
  config.readonly_paths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                           "/proc/sysrq-trigger"};
  config.namespaces.push_back({"pid", ""});
  if (!rootless) config.namespaces.push_back({"network", ""});
  for (const char* type : {"ipc", "uts", "mount"}) config.namespaces.push_back({type, ""});
  if (rootless) {
    config.namespaces.push_back({"user", ""});
    config.uid_mappings = {{0, geteuid(), 1}};
    config.gid_mappings = {{0, getegid(), 1}};
  } else {
    config.resources.emplace();
    config.resources->devices.push_back({.allow = false, .type = "", .access = "rwm"});
  }
  config.namespaces.push_back({"cgroup", ""});
  return config;
}

}  // namespace

Spec default_spec(bool rootless) {
  Spec spec;
  spec.oci_version = kSpecVersion;
  spec.process = default_process();
  spec.root = Root{"rootfs", true};
  spec.hostname = "kiln";
  spec.mounts = default_mounts(rootless);
  spec.linux = default_linux(rootless);
  return spec;
}

}  // namespace kiln::oci
