// SPDX-License-Identifier: Apache-2.0
#include "runtime/sandbox.h"

#include <sys/epoll.h>

#include <algorithm>
#include <filesystem>

#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "vmm/api/confined_process.h"

namespace kiln::runtime {
namespace {

constexpr size_t kTailBytes = 2048;
constexpr int kTailLines = 12;
// How long a guest whose agent has gone may take to power off before that itself is the finding.
constexpr int64_t kPoweroffGraceMs = 3000;

tl::unexpected<Error> no_machine() {
  return make_error(ErrorKind::kFailedPrecondition, "there is no virtual machine");
}

}  // namespace

Result<std::unique_ptr<Sandbox>> Sandbox::create(EventLoop& loop, const std::string& vmm_binary,
                                                 std::string vsock_path, int log_fd,
                                                 Callbacks callbacks) {
  std::unique_ptr<Sandbox> sandbox(new Sandbox(loop, std::move(vsock_path), std::move(callbacks)));
  Sandbox* self = sandbox.get();
  self->vmm_binary_ = vmm_binary;
  self->log_fd_ = log_fd;
  self->fs_ = TRY(wrap(vmm::FsServer::launch(vmm_binary, log_fd), "start the file-system server"));
  TRY(loop.add_fd(self->fs_->pidfd(), EPOLLIN, [self](uint32_t) { self->fs_ended(); }));
  self->watching_fs_ = true;
  const std::string socket = fmt::format("{}_{}", self->vsock_path_, protocol::kControlPort);
  self->listener_ = TRY(listen_unix(socket));
  // The VMM connects the agent to it once it is confined.
  TRY(vmm::admit_confined(socket));
  TRY(vmm::admit_confined(std::filesystem::path(socket).parent_path().native()));
  TRY(loop.add_fd(self->listener_.get(), EPOLLIN, [self](uint32_t) { self->accept_agent(); }));
  return sandbox;
}

Sandbox::~Sandbox() {
  *alive_ = false;
  stop();
}

Result<std::string> Sandbox::add_share(const Share& share) {
  if (auto found = TRY(entries_.join(share))) return std::move(*found);
  vmm::FsEntryOptions options;
  options.read_only = share.read_only;
  TRY(wrap(fs_->add_entry(share.entry, share.fd.get(), options),
           fmt::format("share `{}`", share.source)));
  TRY(entries_.add(share));
  return share.entry;
}

Result<void> Sandbox::remove_share(const std::string& entry) {
  if (!entries_.leave(entry)) return {};
  return wrap(fs_->remove_entry(entry), fmt::format("take back share `{}`", entry));
}

Result<void> Sandbox::boot(vmm::VmConfig config, unsigned spare_drives) {
  free_drives_ = spare_drives;
  free_interfaces_ = config.machine.spare_slots - spare_drives;
  config.vsock.uds_path = vsock_path_;
  config.fs.push_back({kShareTag, fs_->vhost_user_fd()});
  vm_ = TRY(wrap(vmm::Vm::launch(vmm_binary_, config, log_fd_), "start the virtual machine"));
  fs_->close_vhost_user();
  TRY(loop_.add_fd(vm_->pidfd(), EPOLLIN, [this](uint32_t) { vm_ended(); }));
  watching_vm_ = true;
  return {};
}

Result<void> Sandbox::attach_network(const vmm::NetworkInterfaceConfig& interface) {
  if (!vm_) return no_machine();
  if (free_interfaces_ == 0)
    return make_error(ErrorKind::kResourceExhausted, "the machine takes no further interface");
  TRY(vm_->attach_network_interface(interface));
  --free_interfaces_;
  return {};
}

void Sandbox::detach_network(const std::string& id) {
  detach(id);
  ++free_interfaces_;
}

Result<void> Sandbox::attach_drive(const vmm::DriveConfig& drive) {
  if (!vm_) return no_machine();
  if (free_drives_ == 0)
    return make_error(
        ErrorKind::kResourceExhausted,
        "the machine takes no further disk (backend kvm: machine.spare_drives of kiln.yaml)");
  TRY(vm_->attach_drive(drive));
  --free_drives_;
  return {};
}

void Sandbox::detach_drive(const std::string& id) {
  detach(id);
  ++free_drives_;
}

void Sandbox::detach(const std::string& id) {
  if (!vm_) return;
  if (const auto done = vm_->detach(id); !done)
    log_warning("detach device {}: {}, ignoring", id, done.error().message);
}

void Sandbox::accept_agent() {
  auto socket = accept_unix(listener_.get());
  // One connection only, made before any container exists: what dials later is not the agent.
  loop_.remove_fd(listener_.get());
  listener_.reset();
  if (!socket) return lose(std::move(socket.error()));
  const auto usable = [this, alive = alive_] { return *alive && !stopped_; };
  AgentClient::Callbacks callbacks;
  callbacks.on_hello = [this, usable](const protocol::Hello& hello) {
    log_debug("guest agent {} on Linux {}", hello.agent_version, hello.kernel_release);
    if (usable()) callbacks_.on_ready();
  };
  callbacks.on_exit = [this, usable](const protocol::ExitEvent& event) {
    if (!usable()) return;
    pausing_->note_exit(event);
    callbacks_.on_exit(event);
  };
  callbacks.on_oom = [this, usable](const protocol::OomEvent& event) {
    if (usable()) callbacks_.on_oom(event);
  };
  callbacks.on_notify = [this, usable](const protocol::NotifyEvent& event) {
    if (usable()) callbacks_.on_notify(event);
  };
  callbacks.on_closed = [this, usable](const Error& error) {
    if (usable()) agent_closed(error);
  };
  auto agent = AgentClient::create(loop_, std::move(*socket), std::move(callbacks));
  if (!agent) return lose(std::move(agent.error()));
  agent_ = std::move(*agent);
  pausing_ =
      std::make_unique<PausingAgent>(loop_, *agent_,
                                     PausingAgent::Machine{[this] { return set_paused(true); },
                                                           [this] { return set_paused(false); }});
}

Result<void> Sandbox::set_paused(bool paused) {
  TRY(paused ? vm_->pause() : vm_->resume());
  if (callbacks_.on_paused) callbacks_.on_paused(paused);
  return {};
}

void Sandbox::fs_ended() {
  if (watching_fs_) loop_.remove_fd(fs_->pidfd());
  watching_fs_ = false;
  lose(make_error(ErrorKind::kUnavailable,
                  fmt::format("the file-system server has died: {}", fs_->end()))
           .value());
}

void Sandbox::vm_ended() {
  std::string detail = "its exit status is lost";
  if (const auto exit = vm_->exit(); exit && *exit) detail = (*exit)->detail;
  if (watching_vm_) loop_.remove_fd(vm_->pidfd());
  watching_vm_ = false;
  lose(make_error(ErrorKind::kUnavailable, fmt::format("the virtual machine has ended: {}", detail))
           .value());
}

void Sandbox::agent_closed(const Error& error) {
  if (stopped_) return;
  if (pausing_) pausing_->retire();
  // A guest that powers off or crashes closes the connection first: wait for what says why.
  loop_.add_timer(kPoweroffGraceMs, [this, alive = alive_, error] {
    if (*alive) lose(error);
  });
}

void Sandbox::lose(Error reason) {
  if (stopped_ || !callbacks_.on_lost) return;
  const auto on_lost = std::move(callbacks_.on_lost);
  callbacks_.on_lost = nullptr;
  if (watching_fs_) loop_.remove_fd(fs_->pidfd());
  watching_fs_ = false;
  on_lost(std::move(reason));
}

std::vector<ProcessId> Sandbox::processes() const {
  std::vector<ProcessId> out;
  for (const pid_t pid : {vm_ ? vm_->pid() : 0, fs_ ? fs_->pid() : 0}) {
    if (const auto process = identify_process(pid)) out.push_back(*process);
  }
  return out;
}

void Sandbox::stop() {
  if (stopped_) return;
  stopped_ = true;
  if (watching_fs_) loop_.remove_fd(fs_->pidfd());
  if (watching_vm_) loop_.remove_fd(vm_->pidfd());
  watching_fs_ = watching_vm_ = false;
  if (listener_) loop_.remove_fd(listener_.get());
  listener_.reset();
  if (vm_) {
    if (const auto stopped = vm_->stop(); !stopped)
      log_debug("stop the virtual machine: {}, killing it", stopped.error().message);
  }
  if (pausing_) pausing_->retire();
  // Not from within one of their callbacks.
  loop_.defer([agent = std::shared_ptr<AgentClient>(std::move(agent_)),
               pausing = std::shared_ptr<PausingAgent>(std::move(pausing_))] {});
  vm_.reset();
  fs_.reset();
}

std::string Sandbox::console_tail() const {
  if (!vm_) return {};
  auto console = vm_->console();
  if (!console) return {};
  // guest-controlled: nothing of it may move the cursor of the terminal that shows it.
  std::string text;
  for (const char c : *console) {
    if (c == '\n' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f)) text += c;
  }
  // What a panicking kernel prints after the reason is a trace of itself.
  const size_t panic = text.rfind("Kernel panic - not syncing");
  if (panic != std::string::npos) text.resize(std::min(text.size(), text.find('\n', panic)));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  size_t begin = text.size() > kTailBytes ? text.size() - kTailBytes : 0;
  size_t line = text.size();
  for (int i = 0; i < kTailLines && line != std::string::npos && line > begin; ++i)
    line = text.rfind('\n', line - 1);
  if (line != std::string::npos && line > begin) begin = line + 1;
  return text.substr(begin);
}

}  // namespace kiln::runtime
