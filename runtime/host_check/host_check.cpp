// SPDX-License-Identifier: Apache-2.0
#include "runtime/host_check/host_check.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/file.h"
#include "base/format.h"
#include "base/process.h"
#include "runtime/config/locate.h"
#include "runtime/guest/image.h"

namespace kiln::runtime {
namespace {

using Level = Finding::Level;

constexpr const char* kDefaultQemu = "/usr/bin/qemu-system-x86_64";
constexpr int kQemuTimeoutMs = 30'000;
constexpr size_t kMaxFileBytes = 4U << 20;

struct KernelVersion {
  unsigned major = 0;
  unsigned minor = 0;
  bool at_least(unsigned wanted_major, unsigned wanted_minor) const {
    return major != wanted_major ? major > wanted_major : minor >= wanted_minor;
  }
};

std::optional<KernelVersion> parse_release(const std::string& release) {
  KernelVersion out;
  const char* end = release.data() + release.size();
  const auto major = std::from_chars(release.data(), end, out.major);
  if (major.ec != std::errc() || major.ptr == end || *major.ptr != '.') return std::nullopt;
  if (std::from_chars(major.ptr + 1, end, out.minor).ec != std::errc()) return std::nullopt;
  return out;
}

std::string text_of(const std::string& path) {
  std::string text = read_file(path, kMaxFileBytes).value_or("");
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string running_kernel() {
  utsname names{};
  return uname(&names) == 0 ? std::string(static_cast<const char*>(names.release)) : "unknown";
}

struct MountLine {
  std::string_view target;
  std::string_view type;
  std::string_view options;
};

// Lines of /proc/mounts: source, target, type, options, two numbers.
template <typename Visit>
void for_each_mount(std::string_view mounts, Visit visit) {
  while (!mounts.empty()) {
    const size_t end = std::min(mounts.find('\n'), mounts.size());
    std::string_view line = mounts.substr(0, end);
    mounts.remove_prefix(std::min(end + 1, mounts.size()));
    std::string_view fields[4];
    for (std::string_view& field : fields) {
      const size_t space = std::min(line.find(' '), line.size());
      field = line.substr(0, space);
      line.remove_prefix(std::min(space + 1, line.size()));
    }
    visit(MountLine{fields[1], fields[2], fields[3]});
  }
}

Finding check_backend(const Result<vmm::BackendChoice>& choice, const Config& config) {
  if (!choice)
    return {Level::kProblem, "backend", choice.error().message,
            "change `backend` or `qemu.accel` in kiln.yaml"};
  const bool slow = choice->qemu_accel == "tcg" && choice->backend == vmm::Backend::kQemu;
  std::string text = config.backend == vmm::Backend::kAuto
                         ? fmt::format("auto picks {}", choice->reason)
                         : choice->reason;
  return {slow ? Level::kWarning : Level::kOk, "backend", std::move(text),
          slow ? "a host with hardware virtualization runs guests many times faster" : ""};
}

Finding check_qemu(const Result<vmm::BackendChoice>& choice, const Config& config) {
  const bool needed = choice && choice->backend == vmm::Backend::kQemu;
  SpawnOptions version;
  version.program = config.qemu.binary.empty() ? kDefaultQemu : config.qemu.binary;
  version.argv = {version.program, "--version"};
  version.fds = {{STDERR_FILENO, STDERR_FILENO}};
  const auto run = run_captured(version, "", kMaxFileBytes, kQemuTimeoutMs);
  if (run && run->status.shell_code() == 0)
    return {Level::kOk, "qemu",
            fmt::format("{}: {}", version.program, run->output.substr(0, run->output.find('\n'))),
            ""};
  return {needed ? Level::kProblem : Level::kWarning, "qemu",
          run ? fmt::format("`{} --version` ended with code {}", version.program,
                            run->status.shell_code())
              : run.error().message,
          "apt-get install qemu-system-x86, or set qemu.binary in kiln.yaml"};
}

Finding check_vmm(const Config& config) {
  const auto path = find_vmm_binary(config);
  if (path) return {Level::kOk, "vmm", *path, ""};
  return {Level::kProblem, "vmm", path.error().message,
          "install kiln whole, or set vmm in kiln.yaml"};
}

Finding check_guest(const Config& config) {
  const auto image = find_guest_image(config);
  if (image) return {Level::kOk, "guest", fmt::format("image in {}", image->directory), ""};
  return {Level::kProblem, "guest", image.error().message, ""};
}

Finding check_vhost(const HostPaths& paths) {
  std::string found;
  for (const char* name : {"vhost-net", "vhost-vsock"}) {
    if (access(fmt::format("{}/{}", paths.dev, name).c_str(), F_OK) == 0)
      found += fmt::format("{}/dev/{}", found.empty() ? "" : ", ", name);
  }
  return {Level::kOk, "vhost",
          fmt::format("{}; not needed: kiln has vsock and virtio-fs servers of its own",
                      found.empty() ? "no vhost devices" : found),
          ""};
}

Finding check_tun(const HostPaths& paths) {
  const std::string path = paths.dev + "/net/tun";
  if (access(path.c_str(), R_OK | W_OK) == 0)
    return {Level::kOk, "tun", fmt::format("{} can be used", path), ""};
  return {Level::kWarning, "tun",
          fmt::format("{}: {}; containers run without a network", path, errno_text(errno)),
          "modprobe tun, as root"};
}

Finding check_memory(const Config& config, const HostPaths& paths) {
  const std::string meminfo = text_of(paths.proc + "/meminfo");
  constexpr std::string_view kKey = "MemAvailable:";
  const size_t at = meminfo.find(kKey);
  const size_t digits =
      at == std::string::npos ? at : meminfo.find_first_not_of(' ', at + kKey.size());
  uint64_t kib = 0;
  if (digits != std::string::npos)
    std::from_chars(meminfo.data() + digits, meminfo.data() + meminfo.size(), kib);
  if (kib == 0)
    return {Level::kWarning, "memory", fmt::format("{}/meminfo has no {}", paths.proc, kKey), ""};
  const uint64_t mib = kib >> 10;
  const bool enough = mib >= config.machine.memory_mib;
  return {enough ? Level::kOk : Level::kWarning, "memory",
          fmt::format("{} MiB available; a VM gets {} MiB unless its container has a limit", mib,
                      config.machine.memory_mib),
          enough ? "" : "lower machine.memory in kiln.yaml"};
}

}  // namespace

std::string_view level_name(Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kWarning:
      return "warning";
    case Level::kProblem:
      break;
  }
  return "problem";
}

Finding check_kernel_release(const std::string& release) {
  // close_range(2), the youngest system call that kiln cannot do without.
  constexpr KernelVersion kLeast{5, 9};
  const auto version = parse_release(release);
  if (!version)
    return {Level::kWarning, "kernel", fmt::format("`{}` is no Linux release", release), ""};
  const bool enough = version->at_least(kLeast.major, kLeast.minor);
  return {enough ? Level::kOk : Level::kProblem, "kernel",
          fmt::format("Linux {}{}", release, enough ? "" : " is older than 5.9"),
          enough ? "" : "run a newer kernel"};
}

Finding check_kvm(const Result<vmm::BackendChoice>& choice) {
  if (!choice) return {Level::kWarning, "kvm", choice.error().message, ""};
  if (choice->hardware_virtualization)
    return {Level::kOk, "kvm", "/dev/kvm has hardware virtualization behind it", ""};
  if (choice->kvm_device_present) {
    // The backend's reason is "what it takes: what stands in KVM's way".
    const size_t colon = choice->reason.find(": ");
    const std::string obstacle =
        colon == std::string::npos ? choice->reason : choice->reason.substr(colon + 2);
    return {Level::kWarning, "kvm", fmt::format("/dev/kvm counts as absent: {}", obstacle),
            "switch on virtualization in the firmware, or nested virtualization where this host is "
            "itself a VM"};
  }
  return {Level::kWarning, "kvm", "there is no /dev/kvm",
          "modprobe kvm_intel or kvm_amd, on a host with hardware virtualization"};
}

Finding check_cgroups(const std::string& mounts) {
  bool unified = false;
  bool v2_elsewhere = false;
  bool v1 = false;
  for_each_mount(mounts, [&](const MountLine& line) {
    if (line.type == "cgroup2") (line.target == "/sys/fs/cgroup" ? unified : v2_elsewhere) = true;
    if (line.type == "cgroup") v1 = true;
  });
  if (unified) return {Level::kOk, "cgroup", "unified (v2)", ""};
  if (v1) {
    return {Level::kOk, "cgroup",
            fmt::format("{}: for the machines; containers are in their guest's v2",
                        v2_elsewhere ? "hybrid (v1 controllers, v2 beside them)" : "legacy (v1)"),
            ""};
  }
  return {Level::kWarning, "cgroup", "no cgroups are mounted on this host", ""};
}

Finding check_huge_pages(const std::string& release, bool hardware,
                         const std::string& nx_huge_pages, const std::string& mounts) {
  const auto version = parse_release(release);
  if (!hardware) return {Level::kOk, "nx_huge_pages", "does not matter without KVM", ""};
  if (!version || !version->at_least(6, 1))
    return {Level::kOk, "nx_huge_pages", "does not matter on kernels before 6.1", ""};
  bool favors = false;
  for_each_mount(mounts, [&](const MountLine& line) {
    if (line.type.starts_with("cgroup") && line.options.find("favordynmods") != std::string::npos)
      favors = true;
  });
  // `never` is newer than N: it alone keeps the recovery thread from being made.
  if (nx_huge_pages == "never") return {Level::kOk, "nx_huge_pages", "kvm.nx_huge_pages=never", ""};
  if (favors) return {Level::kOk, "nx_huge_pages", "cgroups are mounted with favordynmods", ""};
  return {Level::kWarning, "nx_huge_pages",
          fmt::format("kvm.nx_huge_pages={}: each VM starts a kernel thread whose move into a "
                      "cgroup can take 100 ms",
                      nx_huge_pages.empty() ? "unknown" : nx_huge_pages),
          "mount -o remount,favordynmods /sys/fs/cgroup; or kvm.nx_huge_pages=never on the "
          "kernel's command line where its CPU does not need the mitigation"};
}

std::vector<Finding> check_host(const Config& config, const HostPaths& paths) {
  const std::string release = running_kernel();
  const std::string mounts = text_of(paths.proc + "/mounts");
  // What the hardware offers, whatever the configuration says.
  const auto offered = vmm::choose_backend(vmm::Backend::kAuto, "");
  const auto chosen = vmm::choose_backend(config.backend, config.qemu.accel);
  const std::string nx_huge_pages = text_of(paths.sys + "/module/kvm/parameters/nx_huge_pages");
  return {
      check_kernel_release(release),
      check_kvm(offered),
      check_backend(chosen, config),
      check_qemu(chosen, config),
      check_vmm(config),
      check_guest(config),
      check_memory(config, paths),
      check_vhost(paths),
      check_tun(paths),
      check_cgroups(mounts),
      check_huge_pages(release, offered && offered->hardware_virtualization, nx_huge_pages, mounts),
  };
}

}  // namespace kiln::runtime
