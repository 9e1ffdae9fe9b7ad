// SPDX-License-Identifier: Apache-2.0
// From the plan to a container that waits for `start`.
#include <fcntl.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "oci/parse.h"
#include "runtime/container_view.h"
#include "runtime/guest_resources.h"
#include "runtime/monitor_impl.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kDialTimeoutMs = 30'000;
constexpr size_t kEntropyBytes = 32;
constexpr int kCreateTries = 5;

std::string entropy_hex() {
  std::array<unsigned char, kEntropyBytes> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return {};
  std::string out;
  for (const unsigned char byte : bytes) out += fmt::format("{:02x}", byte);
  return out;
}

int64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// The host's hooks have run here; the guest sees only its own.
Json guest_config(oci::Spec spec, const Shares& shares) {
  for (const size_t mount : shares.read_only_tops) std::erase(spec.mounts[mount].options, "ro");
  if (spec.hooks) {
    std::vector<oci::Hook> start_container = std::move(spec.hooks->start_container);
    spec.hooks = oci::Hooks{};
    spec.hooks->start_container = std::move(start_container);
  }
  // The guest is not confined by the host's security modules (spec_check warns).
  spec.process->apparmor_profile.clear();
  spec.process->selinux_label.clear();
  spec.linux.mount_label.clear();
  for (oci::Namespace& entry : spec.linux.namespaces) entry.path.clear();
  spec.linux.net_devices.clear();
  if (spec.linux.resources)
    spec.linux.resources = guest_resources(std::move(*spec.linux.resources));
  return oci::to_json(spec);
}

vmm::VmConfig with_drives(vmm::VmConfig vm, const Disks& disks) {
  for (const Disk& disk : disks.list) {
    vmm::DriveConfig drive;
    drive.drive_id = disk.id;
    drive.fd = disk.fd.get();
    drive.is_read_only = disk.read_only;
    vm.drives.push_back(std::move(drive));
  }
  return vm;
}

protocol::Drive drive_of(const Disk& disk) { return {disk.id, disk.type, disk.read_only}; }

}  // namespace

Result<void> Monitor::wait_until(const std::function<bool()>& done, int64_t timeout_ms,
                                 const std::string& what) {
  bool expired = false;
  const auto timer = loop_.add_timer(timeout_ms, [&expired] { expired = true; });
  Result<void> outcome;
  while (!done() && outcome) {
    if (failure_) {
      outcome = tl::unexpected(*failure_);
    } else if (expired) {
      outcome = make_error(ErrorKind::kDeadlineExceeded,
                           fmt::format("{} within {} s", what, (timeout_ms + 999) / 1000));
    } else {
      outcome = loop_.run_once(-1);
    }
  }
  loop_.cancel_timer(timer);
  return outcome;
}

Result<Json> Monitor::ask_agent(const std::string& method, Json params, int64_t timeout_ms) {
  const auto answer = std::make_shared<std::optional<Result<Json>>>();
  sandbox_->agent()->request(method, std::move(params), timeout_ms,
                             [answer](Result<Json> result) { *answer = std::move(result); });
  TRY(wait_until([&] { return answer->has_value(); }, timeout_ms + 1000,
                 fmt::format("the guest agent did not answer `{}`", method)));
  return std::move(**answer);
}

std::string Monitor::with_console(std::string message) const {
  const std::string tail = sandbox_ ? sandbox_->console_tail() : std::string();
  if (tail.empty()) return message + "; the guest's console is empty";
  return message + "; the guest's console ends with:\n" + tail;
}

void Monitor::note_stage(const char* stage) {
  log_debug("stage `{}` at {:.6f} s", stage, static_cast<double>(clock_ns(CLOCK_MONOTONIC)) / 1e9);
}

Result<void> Monitor::watch_creator(bool for_life) {
  loop_.remove_fd(sync_.get());
  ends_with_creator_ = for_life;
  // The creator says nothing after the plan: all that can come is its end.
  return loop_.add_fd(sync_.get(), EPOLLIN, [this](uint32_t) {
    loop_.remove_fd(sync_.get());
    if (creating_) {
      creator_is_gone_ = true;
      return interrupt(
          make_error(ErrorKind::kCancelled, "the command that created it has ended").value());
    }
    if (ends_with_creator_ && !ending()) signal_container(SIGKILL, true, "", [](auto&&) {});
  });
}

Result<void> Monitor::create() {
  const std::string text = TRY(receive_frame(sync_.get(), kMaxPlanBytes));
  MonitorPlan plan = TRY(decode_plan(text));
  TRY(take_passed(plan));
  TRY(watch_creator(plan.ends_with_creator));
  TRY(prepare(plan));
  TRY(prepare_names(plan));
  TRY(enter_network(plan));
  note_stage("monitor");
  TRY(plan.pod ? create_pod(plan) : create_container(plan));
  if (plan.spec.hooks) poststart_ = plan.spec.hooks->poststart;
  control_ = TRY(
      ControlServer::create(loop_, dir_.control_socket(),
                            [this](ControlServer::ConnectionId id, const protocol::Request& request,
                                   const Reply& reply) { handle_request(id, request, reply); }));
  watch_connections();
  TRY(save_status("created"));
  creating_ = false;
  return {};
}

Result<void> Monitor::create_container(MonitorPlan& plan) {
  TRY(set_up_notify(plan));
  protocol::StdioRequest stdio = stdio_in_use();
  stdio.passed = plan.passed;
  std::array<UniqueFd, 3> host_fds = TRY(take_stdio());
  if (plan.spec.process->terminal && !plan.direct_terminal) TRY(open_console(*plan.spec.process));
  Disks disks = TRY(open_disks(plan.spec, plan.bundle, plan.overlay, plan.root_layers));
  RootKind root = plan.overlay ? RootKind::kOverlaid : RootKind::kPlain;
  if (disks.has_root) root = RootKind::kDisk;
  const auto notify_mount = notify_ ? std::optional(notify_->route().mount) : std::nullopt;
  TRY(plan.join ? join_sandbox(plan, disks) : launch_sandbox(plan));
  const std::string prefix = joined_ != nullptr ? joined_->entry_prefix() : "";
  Shares shares = TRY(open_shares(plan.spec, plan.bundle, root, prefix, notify_mount));
  TRY(open_forwards(plan, shares));
  if (network_ && machine_ != nullptr) resolv_conf_ = TRY(ResolvConf::of(plan.spec, shares));
  std::optional<ContainerView> view;
  if (!plan.overlay) view = TRY(ContainerView::open(plan.spec, shares));
  volumes_ = TRY(WrittenVolumes::open(loop_, plan.spec, shares));
  TRY(add_shares(shares));
  note_stage("file-system server");
  if (machine_ != nullptr) TRY(boot_machine(plan, disks));
  for (Disk& disk : disks.list) disk.fd.reset();
  TRY(await_guest(plan));
  TRY(send_container(plan, shares, disks, stdio));
  note_stage("container created");
  // By now the guest has made the mountpoints.
  if (view) TRY(main_thread_.perform([&] { return view->enter(dir_.path()); }));
  TRY(open_streams(plan, stdio, std::move(host_fds)));
  if (forwards_) TRY(forwards_->serve(plan.id));
  return {};
}

Result<void> Monitor::add_shares(Shares& shares) {
  for (const Share& share : shares.list) {
    const std::string entry = TRY(sandbox_->add_share(share));
    for (auto& [mount, name] : shares.bind_entries)
      if (name == share.entry) name = entry;
  }
  shares.list.clear();
  return {};
}

Result<void> Monitor::await_guest(const MonitorPlan& plan) {
  note_stage("virtual machine");
  record_.helpers = sandbox_->processes();
  if (const auto pasta = identify_process(pasta_ ? pasta_->pid() : 0))
    record_.helpers.push_back(*pasta);
  record_.poststop_due = plan.spec.hooks.has_value();
  TRY(save_status("creating"));
  // The guest boots while they run.
  if (plan.spec.hooks) TRY(run_create_hooks(*plan.spec.hooks));
  if (auto up = wait_until([this] { return ready_; }, plan.boot_timeout_ms,
                           "the guest agent did not answer");
      !up) {
    // A machine that ended has been reported with its console.
    if (!failure_) up.error().message = with_console(std::move(up.error().message));
    return up;
  }
  note_stage("agent ready");
  return machine_ != nullptr ? send_identity() : Result<void>();
}

// The record has been written: what is the first process's alone is no exec's.
Result<void> Monitor::take_passed(MonitorPlan& plan) {
  for (size_t i = 0; i < plan.passed.size(); ++i) {
    PassedStream stream{plan.passed[i], UniqueFd(kPassedFd + static_cast<int>(i))};
    if (fcntl(stream.fd.get(), F_SETFD, FD_CLOEXEC) != 0)
      return sys_error("take a passed descriptor");
    passed_.push_back(std::move(stream));
  }
  if (plan.listen_fds > 0) {
    plan.spec.process->env.push_back(fmt::format("LISTEN_FDS={}", plan.listen_fds));
    plan.spec.process->env.emplace_back("LISTEN_PID=1");
  }
  return {};
}

Result<void> Monitor::set_up_notify(MonitorPlan& plan) {
  auto route = route_notifications(plan.spec, plan.notify_socket, plan.bundle);
  if (!route) return {};
  notify_ = TRY(NotifyRelay::create(loop_, std::move(*route),
                                    plan.notify_pid != 0 ? plan.notify_pid : getpid()));
  return {};
}

Result<void> Monitor::open_forwards(const MonitorPlan& plan, Shares& shares) {
  ForwardPlaces places = TRY(find_forwards(plan.forwards, plan.spec, shares));
  if (plan.forwards.empty()) return {};
  forwards_ = TRY(Forwards::open(loop_, std::move(places), sandbox_->vsock_path()));
  record_.shared_sockets = forwards_->records();
  return save_status("creating");
}

Result<void> Monitor::prepare(const MonitorPlan& plan) {
  const LogLevel level = static_cast<LogLevel>(plan.log_level);
  log_setup(level, static_cast<LogFormat>(plan.log_format), UniqueFd(kLogFd));
  // The creator set the directory's path to the working directory's view; ours is the same.
  record_ = TRY(dir_.read_record());
  origin_ = plan.origin;
  const ProcessId self = TRY(identify_process(getpid()));
  record_.state.pid = self.pid;
  record_.monitor_start_time = self.start_time;
  return save_status("creating");
}

SandboxCallbacks Monitor::sandbox_callbacks() {
  SandboxCallbacks callbacks;
  callbacks.on_ready = [this] { ready_ = true; };
  callbacks.on_exit = [this](const protocol::ExitEvent& event) { handle_exit(event); };
  callbacks.on_oom = [this](const protocol::OomEvent& event) { handle_oom(event); };
  callbacks.on_notify = [this](const protocol::NotifyEvent& event) { handle_notify(event); };
  callbacks.on_paused = [this](bool stands) {
    if (pod_ports_) pod_ports_->hold(stands);
  };
  callbacks.on_lost = [this](Error reason) { handle_lost(std::move(reason)); };
  return callbacks;
}

Result<void> Monitor::launch_sandbox(const MonitorPlan& plan) {
  if (mkdir(dir_.file("vm").c_str(), 0700) != 0)
    return sys_error(fmt::format("create directory `{}`", dir_.file("vm")));
  auto machine = TRY(
      Sandbox::create(loop_, plan.vmm_binary, dir_.vsock_socket(), kLogFd, sandbox_callbacks()));
  machine_ = machine.get();
  sandbox_ = std::move(machine);
  return {};
}

Result<void> Monitor::join_sandbox(const MonitorPlan& plan, Disks& disks) {
  auto joined = TRY(
      wrap(JoinedSandbox::join(loop_, dir_.sibling(plan.join->owner), plan.id, sandbox_callbacks()),
           fmt::format("join sandbox {}", plan.join->owner)));
  joined_ = joined.get();
  sandbox_ = std::move(joined);
  if (net_devices_) TRY(joined_->await_interfaces(net_devices_->names()));
  for (Disk& disk : disks.list) disk.id = TRY(joined_->add_drive(disk));
  ready_ = true;
  return {};
}

Result<void> Monitor::boot_machine(const MonitorPlan& plan, const Disks& disks) {
  vmm::VmConfig vm = with_drives(plan.vm, disks);
  TRY(plug_in_network(plan, vm));
  TRY(machine_->boot(std::move(vm), plan.spare_drives));
  network_is_started(plan);
  return {};
}

void Monitor::watch_connections() {
  if (machine_ != nullptr) members_ = std::make_unique<Members>(*machine_, *control_);
  control_->watch_connections([this](ControlServer::ConnectionId connection) {
    if (ending()) return;
    forget_execs_of(connection);
    if (members_) members_->connection_closed(connection);
  });
}

// runtime-spec 1.2 runtime.md#lifecycle steps 4 to 6. createContainer hooks run on the host too: of
// the container's namespaces only that of its network is there (docs/limitations.md).
Result<void> Monitor::run_create_hooks(const oci::Hooks& hooks) {
  const std::pair<const char*, const std::vector<oci::Hook>*> lists[] = {
      {"prestart", &hooks.prestart},
      {"createRuntime", &hooks.create_runtime},
      {"createContainer", &hooks.create_container}};
  for (const auto& [kind, list] : lists) {
    if (list->empty()) continue;
    std::optional<std::vector<Error>> failures;
    hooks_ = HookRunner::start(
        loop_,
        {kind, *list, hook_state("creating"), record_.state.bundle, HookFailure::kStop,
         list == &hooks.create_container ? -1 : host_network()},
        [&failures](std::vector<Error> failed) { failures = std::move(failed); });
    while (!failures && !failure_) TRY(loop_.run_once(-1));
    hooks_.reset();
    if (failure_) return tl::unexpected(*failure_);
    if (!failures->empty()) return tl::unexpected(std::move(failures->front()));
  }
  return {};
}

Result<void> Monitor::send_identity() {
  protocol::SandboxRequest sandbox;
  sandbox.hostname = "kiln";
  sandbox.realtime_ns = clock_ns(CLOCK_REALTIME);
  sandbox.entropy_hex = entropy_hex();
  sandbox.share_tag = Sandbox::kShareTag;
  TRY(wrap(ask_agent("sandbox", protocol::to_json(sandbox), kCreateTimeoutMs), "set up the guest"));
  return bring_up_network();
}

Result<void> Monitor::send_container(const MonitorPlan& plan, const Shares& shares,
                                     const Disks& disks, const protocol::StdioRequest& stdio) {
  protocol::CreateRequest request;
  request.container_id = plan.id;
  if (plan.join) request.shared = plan.join->shared;
  request.config = guest_config(plan.spec, shares);
  const std::string prefix = joined_ != nullptr ? joined_->entry_prefix() : "";
  request.rootfs = {prefix + "rootfs", std::nullopt, plan.overlay, plan.overlay_size_bytes};
  if (disks.root_layers > 0) {
    for (size_t i = 0; i < disks.root_layers; ++i)
      request.rootfs.layers.push_back(drive_of(disks.list[i]));
    if (disks.has_upper) request.rootfs.upper = drive_of(disks.list[disks.root_layers]);
  } else if (disks.has_root) {
    request.rootfs.drive = drive_of(disks.list.front());
  }
  for (const auto& [mount, disk] : disks.of_mounts)
    request.mount_drives.emplace(mount, drive_of(disks.list[disk]));
  for (const auto& [device, disk] : disks.of_devices)
    request.device_drives.emplace(device, disks.list[disk].id);
  request.bind_entries = shares.bind_entries;
  if (plan.spec.process->terminal) {
    request.stdio.passed = stdio.passed;
  } else {
    request.stdio = stdio;
  }
  if (notify_) {
    request.notify_mount = notify_->route().mount;
    request.notify_name = notify_->route().name;
  }
  if (forwards_) forwards_->describe(request);
  if (!volumes_) {
    TRY(ask_agent("create", protocol::to_json(request), kCreateTimeoutMs));
    return {};
  }
  Result<Json> created;
  for (int i = 0; i < kCreateTries; ++i) {
    request.volume_versions = volumes_->versions();
    created = ask_agent("create", protocol::to_json(request), kCreateTimeoutMs);
    // The kubelet removes a version when it has written the next, perhaps while it was copied.
    if (created || !volumes_->changed()) break;
  }
  TRY(std::move(created));
  volumes_->follow(*sandbox_->agent(), plan.id);
  return {};
}

Result<void> Monitor::open_console(const oci::Process& process) {
  std::optional<winsize> size;
  if (process.console_size) {
    size.emplace();
    size->ws_row = static_cast<uint16_t>(process.console_size->height);
    size->ws_col = static_cast<uint16_t>(process.console_size->width);
  }
  const UniqueFd console(kConsoleFd);
  Pty pty = TRY(open_pty(size));
  TRY(take_terminal(pty.slave.get()));
  TRY(wrap(send_master(console.get(), pty.master.get()), "send the terminal"));
  pty_slave_ = std::move(pty.slave);
  return {};
}

Result<void> Monitor::open_streams(const MonitorPlan& plan, const protocol::StdioRequest& stdio,
                                   std::array<UniqueFd, 3> host_fds) {
  io_ = std::make_unique<ProcessIo>(loop_, ProcessIo::Options{sandbox_->vsock_path(), plan.id, "",
                                                              kDialTimeoutMs, std::move(passed_)});
  std::optional<Result<void>> opened;
  const auto on_opened = [&opened](Result<void> outcome) { opened = std::move(outcome); };
  if (plan.direct_terminal && plan.spec.process->terminal) {
    if (!stdio.stdin_open) host_fds[0].reset();
    io_->open_terminal(std::move(host_fds[0]), std::move(host_fds[1]), on_opened);
  } else if (plan.spec.process->terminal) {
    UniqueFd input(fcntl(pty_slave_.get(), F_DUPFD_CLOEXEC, 3));
    UniqueFd output(fcntl(pty_slave_.get(), F_DUPFD_CLOEXEC, 3));
    if (!input || !output) return sys_error("duplicate a terminal");
    io_->open_terminal(std::move(input), std::move(output), on_opened);
  } else {
    io_->open_pipes(stdio, std::move(host_fds), on_opened);
  }
  TRY(wait_until([&] { return opened.has_value(); }, kDialTimeoutMs + 1000,
                 "the guest did not open the standard streams"));
  TRY(std::move(*opened));
  if (pty_slave_) resize_from_pty();
  return {};
}

}  // namespace kiln::runtime
