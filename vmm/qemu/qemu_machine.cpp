// SPDX-License-Identifier: Apache-2.0
#include "vmm/qemu/qemu_machine.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "vmm/api/confined_process.h"
#include "vmm/console_ring.h"
#include "vmm/qemu/qmp_client.h"
#include "vmm/vhost_user/server.h"
#include "vmm/virtio/vsock/vsock_device.h"

namespace kiln::vmm {
namespace {

constexpr const char* kDefaultQemu = "/usr/bin/qemu-system-x86_64";

int64_t monotonic_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// Reads to its end whatever QEMU writes to one descriptor.
class Reader {
 public:
  using Callback = std::function<void(std::string_view bytes)>;  // empty: the end

  Reader(EventLoop& loop, UniqueFd fd, Callback callback)
      : loop_(loop), fd_(std::move(fd)), callback_(std::move(callback)) {}
  ~Reader() {
    if (fd_) loop_.remove_fd(fd_.get());
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  Result<void> start() {
    return loop_.add_fd(fd_.get(), EPOLLIN, [this](uint32_t) { receive(); });
  }

 private:
  void receive() {
    std::array<char, 8192> buffer{};
    const ssize_t got = retry_eintr([&] { return read(fd_.get(), buffer.data(), buffer.size()); });
    if (got > 0) return callback_({buffer.data(), static_cast<size_t>(got)});
    loop_.remove_fd(fd_.get());
    fd_.reset();
    callback_({});
  }

  EventLoop& loop_;
  UniqueFd fd_;
  Callback callback_;
};

class QemuMachine : public Machine {
 public:
  QemuMachine(EventLoop& loop, std::string accel, Callbacks callbacks)
      : loop_(loop), accel_(std::move(accel)), callbacks_(std::move(callbacks)) {}
  ~QemuMachine() override {
    if (process_.pidfd) loop_.remove_fd(process_.pidfd.get());
    kill_and_reap(process_);
  }

  Result<void> start(const VmConfig& config, const TscSample& started);

  void pause(Done done) override { command("stop", std::move(done)); }
  void resume(Done done) override { command("cont", std::move(done)); }
  void stop() override;
  std::string console() const override { return console_.text(); }
  Json metrics() const override;

 private:
  Result<void> host_vsock(const VsockConfig& config, UniqueFd connection);
  Result<void> spawn_qemu(const VmConfig& config, const TscSample& started,
                          std::vector<std::pair<int, int>> fds);
  void command(const char* name, Done done);
  void take_event(const std::string& name, const Json& data);
  void take_error_output(std::string_view bytes);
  void process_ended();
  void part_ended();
  VmExit judge_exit() const;

  EventLoop& loop_;
  const std::string accel_;
  const Callbacks callbacks_;
  const int64_t started_ms_ = monotonic_ms();
  ChildProcess process_;
  std::optional<ExitStatus> status_;
  std::unique_ptr<QmpClient> qmp_;
  std::unique_ptr<Reader> serial_;
  std::unique_ptr<Reader> error_output_;
  std::unique_ptr<VsockDevice> vsock_;
  std::unique_ptr<VhostUserServer> vsock_server_;
  ConsoleRing console_;
  std::string error_line_;       // QEMU's last line on standard error, maybe unfinished
  std::string shutdown_reason_;  // as QEMU's SHUTDOWN event has it
  std::string vsock_failure_;
  bool stopping_ = false;
  // The process, its monitor, its console and its error output: each ends once.
  int parts_left_ = 4;
};

Result<void> QemuMachine::start(const VmConfig& config, const TscSample& started) {
  auto [qmp_here, qmp_there] = TRY(socket_pair(SOCK_STREAM));
  auto [serial_here, serial_there] = TRY(socket_pair(SOCK_STREAM));
  auto [vsock_here, vsock_there] = TRY(socket_pair(SOCK_STREAM));
  std::array<int, 2> error_pipe{};
  if (pipe2(error_pipe.data(), O_CLOEXEC) != 0) return sys_error("create a pipe");
  error_output_ =
      std::make_unique<Reader>(loop_, UniqueFd(error_pipe[0]), [this](std::string_view bytes) {
        if (bytes.empty()) return part_ended();
        take_error_output(bytes);
      });
  const UniqueFd error_there(error_pipe[1]);
  serial_ = std::make_unique<Reader>(loop_, std::move(serial_here), [this](std::string_view bytes) {
    if (bytes.empty()) return part_ended();
    console_.append(bytes);
  });
  TRY(host_vsock(config.vsock, std::move(vsock_here)));
  std::vector<std::pair<int, int>> fds = {{error_there.get(), STDERR_FILENO},
                                          {qmp_there.get(), kQmpFd},
                                          {serial_there.get(), kSerialFd},
                                          {vsock_there.get(), kVsockFd}};
  for (size_t i = 0; i < config.fs.size(); ++i)
    fds.emplace_back(config.fs[i].vhost_user_fd, kFirstFsFd + static_cast<int>(i));
  for (size_t i = 0; i < config.drives.size(); ++i)
    fds.emplace_back(config.drives[i].fd, drive_fd(config, i));
  for (size_t i = 0; i < config.network_interfaces.size(); ++i)
    fds.emplace_back(config.network_interfaces[i].tap_fd, tap_fd(config, i));
  TRY(spawn_qemu(config, started, std::move(fds)));
  TRY(error_output_->start());
  TRY(serial_->start());
  QmpClient::Callbacks callbacks;
  callbacks.on_ready = [this] { callbacks_.on_started(); };
  callbacks.on_event = [this](const std::string& name, const Json& data) {
    take_event(name, data);
  };
  callbacks.on_closed = [this] { part_ended(); };
  qmp_ = TRY(QmpClient::create(loop_, std::move(qmp_here), std::move(callbacks)));
  return loop_.add_fd(process_.pidfd.get(), EPOLLIN, [this](uint32_t) { process_ended(); });
}

Result<void> QemuMachine::host_vsock(const VsockConfig& config, UniqueFd connection) {
  VsockOptions options;
  options.guest_cid = config.guest_cid;
  options.uds_path = config.uds_path;
  vsock_ = TRY(VsockDevice::create(loop_, std::move(options)));
  vsock_server_ = TRY(VhostUserServer::create(loop_, std::move(connection), *vsock_,
                                              [this](const Result<void>& why) {
                                                if (why) return;
                                                // The guest cannot be reached any more.
                                                vsock_failure_ = why.error().message;
                                                stop();
                                              }));
  return {};
}

Result<void> QemuMachine::spawn_qemu(const VmConfig& config, const TscSample& started,
                                     std::vector<std::pair<int, int>> fds) {
  const uint64_t tsc_khz = accel_ == "tcg" ? tsc_khz_since(started) : 0;
  SpawnOptions options;
  options.program = config.qemu_binary.empty() ? kDefaultQemu : config.qemu_binary;
  options.argv = TRY(qemu_arguments(config, accel_, tsc_khz));
  options.environment = std::vector<std::string>{};
  options.fds = std::move(fds);
  options.working_directory = std::string("/");  // GCC bug 105651 with a literal
  auto spawned = spawn(options);
  if (!spawned && spawned.error().sys_errno == ENOENT) {
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("there is no `{}`: install qemu-system-x86", options.program));
  }
  process_ = TRY(std::move(spawned));
  return {};
}

void QemuMachine::command(const char* name, Done done) {
  if (!qmp_) return done(make_error(ErrorKind::kUnavailable, "qemu is not up yet"));
  qmp_->execute(name, [done = std::move(done)](const Result<Json>& answer) {
    if (!answer) return done(tl::unexpected(answer.error()));
    done({});
  });
}

void QemuMachine::stop() {
  stopping_ = true;
  if (process_.pidfd) syscall(SYS_pidfd_send_signal, process_.pidfd.get(), SIGKILL, nullptr, 0);
}

void QemuMachine::take_event(const std::string& name, const Json& data) {
  if (name == "SHUTDOWN" && data.is_object() && data.contains("reason") &&
      data["reason"].is_string()) {
    shutdown_reason_ = data["reason"].get<std::string>();
  } else if (name == "GUEST_PANICKED") {
    shutdown_reason_ = "guest-panic";
  }
}

void QemuMachine::take_error_output(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    error_line_.append(bytes.substr(0, std::min(end, size_t{1024})));
    if (end == std::string_view::npos) break;
    if (!error_line_.empty()) log_warning("{}", error_line_);
    bytes.remove_prefix(end + 1);
    if (!bytes.empty()) error_line_.clear();
  }
  if (error_line_.size() > 4096) error_line_.resize(4096);
}

void QemuMachine::process_ended() {
  const auto status = wait_child(process_, 0);
  if (status && !*status) return;
  loop_.remove_fd(process_.pidfd.get());
  if (status) status_ = **status;
  process_.pidfd.reset();
  process_.pid = -1;
  part_ended();
}

void QemuMachine::part_ended() {
  if (--parts_left_ == 0) callbacks_.on_exit(judge_exit());
}

VmExit QemuMachine::judge_exit() const {
  using Reason = VmExit::Reason;
  if (!vsock_failure_.empty())
    return {Reason::kCrashed, fmt::format("its vsock has failed: {}", vsock_failure_)};
  if (stopping_) return {Reason::kStopped, "it was stopped"};
  if (status_ && status_->signal != 0) return {Reason::kCrashed, describe_end("qemu", *status_)};
  if (shutdown_reason_ == "guest-shutdown") return {Reason::kPoweroff, "the guest has powered off"};
  // guest-controlled, but it only chooses the words.
  const bool panicked = console_.text().find("Kernel panic - not syncing") != std::string::npos;
  if (shutdown_reason_ == "guest-panic" || (shutdown_reason_ == "guest-reset" && panicked))
    return {Reason::kPanic, "the guest's kernel has panicked"};
  if (shutdown_reason_ == "guest-reset") return {Reason::kReset, "the guest has reset itself"};
  if (!error_line_.empty()) return {Reason::kCrashed, error_line_};
  return {Reason::kCrashed, describe_end("qemu", status_.value_or(ExitStatus{-1, 0}))};
}

Json QemuMachine::metrics() const {
  return {{"backend", "qemu"},
          {"accel", accel_},
          {"vmm_pid", process_.pid},
          {"uptime_ms", monotonic_ms() - started_ms_},
          {"console_bytes", console_.total_bytes()}};
}

}  // namespace

Result<std::unique_ptr<Machine>> start_qemu(EventLoop& loop, const VmConfig& config,
                                            const std::string& accel, const TscSample& started,
                                            Machine::Callbacks callbacks) {
  auto machine = std::make_unique<QemuMachine>(loop, accel, std::move(callbacks));
  TRY(machine->start(config, started));
  return std::unique_ptr<Machine>(std::move(machine));
}

}  // namespace kiln::vmm
