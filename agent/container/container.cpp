// SPDX-License-Identifier: Apache-2.0
#include "agent/container/container.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <optional>

#include "agent/container/cgroup.h"
#include "agent/container/cgroup_stats.h"
#include "agent/container/clone_process.h"
#include "agent/container/launch.h"
#include "agent/container/mounts.h"
#include "agent/container/namespaces.h"
#include "agent/container/process_attributes.h"
#include "agent/container/rootfs.h"
#include "agent/container/volume_copy.h"
#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/format.h"
#include "base/log.h"

namespace kiln::agent {
namespace {

constexpr int kSetUpTimeoutMs = 60'000;  // of a new container: its mounts may ask the host
constexpr int kExecTimeoutMs = 10'000;
constexpr int kKillTimeoutMs = 10'000;
constexpr int kKillPollMs = 5;
constexpr const char* kVolumesParent = "/run";

std::vector<const UniqueFd*> all_of(const ProcessFds& stdio) {
  std::vector<const UniqueFd*> fds{&stdio.stdin_fd, &stdio.stdout_fd, &stdio.stderr_fd};
  for (const UniqueFd& fd : stdio.passed) fds.push_back(&fd);
  return fds;
}

// Whoever the process becomes may open /proc/self/fd/1, which checks the pipe's owner.
Result<void> give_stdio(const ProcessFds& stdio, uid_t owner) {
  for (const UniqueFd* fd : all_of(stdio)) {
    struct stat status {};
    if (!*fd || fstat(fd->get(), &status) != 0 || S_ISCHR(status.st_mode)) continue;
    if (fchown(fd->get(), owner, static_cast<gid_t>(-1)) != 0)
      return sys_error("set the owner of a standard stream");
  }
  return {};
}

void keep(std::vector<int>& fds, const ProcessFds& stdio) {
  for (const UniqueFd* fd : all_of(stdio))
    if (*fd) fds.push_back(fd->get());
}

tl::unexpected<Error> not_there() {
  return make_error(ErrorKind::kFailedPrecondition, "the container is not running");
}

}  // namespace

struct Container::Impl {
  explicit Impl(const ContainerSetup& setup) : id(setup.id), spec(*setup.spec) {}

  Result<void> prepare(const ContainerSetup& setup);
  Result<std::vector<UniqueFd>> open_sources(ContainerSetup setup);
  Result<void> launch(const ContainerSetup& setup, const ProcessFds& stdio);
  Result<StartedProcess> exec(const oci::Process& process, const ProcessFds& stdio);
  Result<ClonedProcess> clone_exec(const oci::Process& process, const ProcessFds& stdio);
  Result<void> wait_until_empty();
  Result<void> destroy();

  std::string id;
  oci::Spec spec;
  NamespacePlan namespaces;
  std::optional<SeccompProgram> seccomp;
  std::optional<Cgroup> cgroup;
  std::map<size_t, std::unique_ptr<VolumeCopy>> volumes;  // by index in spec.mounts
  UniqueFd rootfs;  // its mount, which holds the share's file system until destroy()
  StartedProcess init;
  ChildChannel channel;  // to init, until its exec
};

Result<void> Container::Impl::prepare(const ContainerSetup& setup) {
  for (const std::string& warning : TRY(check_process(*spec.process)))
    log_warning("container `{}`: {}, ignoring", id, warning);
  uint64_t shared = 0;
  for (const SharedNamespaces& other : setup.shared) shared |= static_cast<uint64_t>(other.types);
  namespaces = TRY(plan_namespaces(spec.linux, shared));
  if (spec.linux.seccomp) seccomp = TRY(wrap(compile_seccomp(*spec.linux.seccomp), "seccomp"));
  rootfs = TRY(open_rootfs(setup));
  cgroup = TRY(wrap(Cgroup::create(id, spec), "cgroup"));
  for (const std::string& warning : cgroup->warnings())
    log_warning("container `{}`: {}, ignoring", id, warning);
  return {};
}

Result<std::vector<UniqueFd>> Container::Impl::open_sources(ContainerSetup setup) {
  for (const auto& [mount, version] : setup.volume_versions) {
    std::string& source = setup.bind_sources[mount];
    volumes[mount] = TRY(wrap(VolumeCopy::create(source, kVolumesParent, version),
                              fmt::format("copy volume `{}`", spec.mounts[mount].destination)));
    source = volumes[mount]->path();
  }
  return open_mount_sources(setup, cgroup->fd());
}

Result<void> Container::Impl::launch(const ContainerSetup& setup, const ProcessFds& stdio) {
  const auto sources = TRY(open_sources(setup));
  TRY(give_stdio(stdio, map_id(spec.linux.uid_mappings, spec.process->user.uid)));
  ClonePlan plan;
  plan.flags = namespaces.clone_flags;
  plan.cgroup_fd = cgroup->fd();
  plan.fds.push_back(rootfs.get());
  for (const UniqueFd& source : sources)
    if (source) plan.fds.push_back(source.get());
  keep(plan.fds, stdio);
  plan.prepare = [this, &setup]() -> Result<void> {
    TRY(join_shared(setup.shared));
    if (namespaces.time) TRY(unshare_time(spec.linux));
    // In its user namespace the process could not raise its limits any more; it inherits these.
    return namespaces.user ? apply_limits(*spec.process) : Result<void>();
  };
  plan.run = [&](const ChildChannel& to_agent) {
    return launch_init({spec, id, namespaces, rootfs.get(), sources, stdio, seccomp}, to_agent);
  };
  TRY(cgroup->lift_cpu_quota());
  ClonedProcess process = TRY(clone_process(plan));
  const auto failed = [&](Error error) -> Result<void> {
    discard(process);
    const auto oom_kills = cgroup->oom_kills();
    if (error.kind == ErrorKind::kAborted && oom_kills && *oom_kills > 0)
      error.message += ": it was killed for lack of memory, is its memory limit too low?";
    return tl::unexpected(std::move(error));
  };
  if (namespaces.user) {
    auto mapped = write_id_maps(process.pid, spec.linux.uid_mappings, spec.linux.gid_mappings);
    if (!mapped) return failed(std::move(mapped.error()));
  }
  if (auto told = process.channel.go_on(); !told) return failed(std::move(told.error()));
  auto ready = process.channel.expect(ChildSays::kReady, kSetUpTimeoutMs);
  if (!ready) return failed(std::move(ready.error()));
  if (auto limited = cgroup->restore_cpu_quota(); !limited)
    return failed(std::move(limited.error()));
  init = {process.pid, std::move(process.pidfd), std::move(ready->fd)};
  channel = std::move(process.channel);
  return {};
}

Result<ClonedProcess> Container::Impl::clone_exec(const oci::Process& process,
                                                  const ProcessFds& stdio) {
  const UniqueFd cgroup_fd = TRY(cgroup->fd_for_new_process(init.pid));
  ClonePlan plan;
  plan.cgroup_fd = cgroup_fd.get();
  plan.fds = {rootfs.get(), init.pidfd.get()};
  keep(plan.fds, stdio);
  plan.prepare = [this] { return join_for_children(init.pidfd.get(), namespaces); };
  plan.run = [&](const ChildChannel& to_agent) {
    return launch_exec(
        {process, spec.linux, id, namespaces, init.pidfd.get(), rootfs.get(), stdio, seccomp},
        to_agent);
  };
  return clone_process(plan);
}

Result<StartedProcess> Container::Impl::exec(const oci::Process& process, const ProcessFds& stdio) {
  for (const std::string& warning : TRY(check_process(process)))
    log_warning("container `{}`: {}, ignoring", id, warning);
  TRY(give_stdio(stdio, map_id(spec.linux.uid_mappings, process.user.uid)));
  ClonedProcess made = TRY(clone_exec(process, stdio));
  const auto follow = [&made]() -> Result<UniqueFd> {
    TRY(made.channel.go_on());
    ChildMessage ready = TRY(made.channel.expect(ChildSays::kReady, kExecTimeoutMs));
    TRY(made.channel.expect(ChildSays::kExecuting, kExecTimeoutMs));
    TRY(made.channel.expect(ChildSays::kClosed, kExecTimeoutMs));
    return std::move(ready.fd);
  };
  auto master = follow();
  if (!master) {
    discard(made);
    return tl::unexpected(std::move(master.error()));
  }
  return StartedProcess{made.pid, std::move(made.pidfd), std::move(*master)};
}

Result<void> Container::Impl::wait_until_empty() {
  for (int waited = 0; waited < kKillTimeoutMs; waited += kKillPollMs) {
    if (!TRY(cgroup->populated())) return {};
    poll(nullptr, 0, kKillPollMs);
  }
  return make_error(ErrorKind::kDeadlineExceeded, "its processes do not end");
}

Result<void> Container::Impl::destroy() {
  channel.close();  // an init that was never started ends
  if (cgroup) {
    TRY(cgroup->kill());
    TRY(wait_until_empty());
    TRY(cgroup->remove());
    cgroup.reset();
  }
  // The mounts have gone with the last process of their namespace; this is the one left.
  rootfs.reset();
  volumes.clear();
  return {};
}

Container::Container(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Container::~Container() { static_cast<void>(impl_->destroy()); }

Result<std::unique_ptr<Container>> Container::create(const ContainerSetup& setup,
                                                     ProcessFds stdio) {
  if (!setup.spec->process) return invalid_argument("config.json: /process: must be there");
  std::unique_ptr<Container> container(new Container(std::make_unique<Impl>(setup)));
  TRY(container->impl_->prepare(setup));
  TRY(container->impl_->launch(setup, stdio));
  return container;
}

StartedProcess& Container::init() { return impl_->init; }

Result<void> Container::begin_start() {
  auto told = impl_->channel.go_on();
  if (!told) return make_error(ErrorKind::kFailedPrecondition, "container not running");
  return {};
}

int Container::start_fd() const { return impl_->channel.fd(); }

Result<void> Container::finish_start() {
  const ChildChannel channel = std::move(impl_->channel);
  TRY(channel.expect(ChildSays::kExecuting, kExecTimeoutMs));
  TRY(channel.expect(ChildSays::kClosed, kExecTimeoutMs));
  return {};
}

Result<StartedProcess> Container::exec(const oci::Process& process, ProcessFds stdio) {
  return impl_->exec(process, stdio);
}

Result<std::vector<pid_t>> Container::processes() const {
  if (!impl_->cgroup) return std::vector<pid_t>();
  return impl_->cgroup->processes();
}

Result<void> Container::signal_all(int signal) {
  return impl_->cgroup ? impl_->cgroup->signal_all(signal) : Result<void>();
}

Result<void> Container::freeze(bool frozen) {
  return impl_->cgroup ? impl_->cgroup->freeze(frozen) : Result<void>();
}

Result<void> Container::update(const oci::Resources& resources) {
  if (!impl_->cgroup) return not_there();
  TRY(impl_->cgroup->update(resources));
  for (const std::string& warning : impl_->cgroup->warnings())
    log_warning("container `{}`: {}, ignoring", impl_->id, warning);
  return {};
}

Result<void> Container::refresh(size_t mount, const std::string& version) {
  const auto found = impl_->volumes.find(mount);
  if (found == impl_->volumes.end()) return not_there();
  return found->second->update(version);
}

Result<protocol::StatsReply> Container::stats() const {
  if (!impl_->cgroup) return not_there();
  return read_cgroup_stats(impl_->cgroup->fd());
}

int Container::memory_events_fd() const {
  return impl_->cgroup ? impl_->cgroup->memory_events_fd() : -1;
}

Result<uint64_t> Container::oom_kills() const {
  return impl_->cgroup ? impl_->cgroup->oom_kills() : Result<uint64_t>(0);
}

int Container::root_fd() const { return impl_->rootfs.get(); }

void Container::release_root() { impl_->rootfs.reset(); }

Result<void> Container::destroy() { return impl_->destroy(); }

}  // namespace kiln::agent
