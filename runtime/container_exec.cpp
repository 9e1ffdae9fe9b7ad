// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_exec.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "oci/parse.h"
#include "runtime/console.h"
#include "runtime/container_create.h"
#include "runtime/control_client.h"
#include "runtime/pidfd_socket.h"
#include "runtime/plan.h"
#include "runtime/process_io.h"
#include "runtime/signals.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kStartTimeoutMs = 60'000;
constexpr int64_t kNoTimeout = 0;  // it may wait for a resume
// How long a stream may stay silent after the process has ended while something else in the
// container holds it open.
constexpr int64_t kLingerMs = 1000;
constexpr int kKilledCode = 128 + SIGKILL;
constexpr char kKnown[] = "known";

bool parse_id(std::string_view text, uint32_t& value) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failed == std::errc() && end == text.data() + text.size() && !text.empty();
}

void add_capability(std::vector<std::string>& set, const std::string& name) {
  if (std::find(set.begin(), set.end(), name) == set.end()) set.push_back(name);
}

std::string new_process_id() {
  uint64_t random = 0;
  if (getrandom(&random, sizeof random, 0) != static_cast<ssize_t>(sizeof random))
    random = static_cast<uint64_t>(getpid());
  return fmt::format("exec-{:016x}", random);
}

// A bundle's unknown capability is ignored with a warning, as the spec wants it; one that somebody
// has just typed is a mistake.
Result<void> check_capabilities(const std::vector<std::string>& names) {
  oci::Process probe;
  probe.cwd = "/";
  probe.args = {"-"};
  probe.capabilities.emplace().bounding = names;
  std::vector<std::string> warnings;
  TRY(oci::parse_process(oci::to_json(probe), "--cap", &warnings));
  if (!warnings.empty()) return invalid_argument(warnings.front());
  return {};
}

}  // namespace

Result<oci::Process> exec_process(oci::Process base, const ExecChanges& changes) {
  base.args = changes.args;
  base.terminal = changes.terminal;
  base.console_size.reset();
  base.apparmor_profile.clear();
  base.selinux_label.clear();
  if (changes.cwd) base.cwd = *changes.cwd;
  base.env.insert(base.env.end(), changes.env.begin(), changes.env.end());
  if (changes.user) {
    const std::string_view text = *changes.user;
    const size_t colon = text.find(':');
    const bool valid =
        parse_id(text.substr(0, colon), base.user.uid) &&
        (colon == std::string_view::npos || parse_id(text.substr(colon + 1), base.user.gid));
    if (!valid)
      return invalid_argument(
          fmt::format("--user: must be uid[:gid] in numbers, is `{}`", *changes.user));
  }
  for (const uint32_t gid : changes.additional_gids) base.user.additional_gids.push_back(gid);
  if (changes.no_new_privileges) base.no_new_privileges = true;
  if (!changes.capabilities.empty()) {
    TRY(check_capabilities(changes.capabilities));
    if (!base.capabilities) base.capabilities.emplace();
    for (const std::string& name : changes.capabilities) {
      for (auto* set : {&base.capabilities->bounding, &base.capabilities->effective,
                        &base.capabilities->permitted, &base.capabilities->ambient,
                        &base.capabilities->inheritable})
        add_capability(*set, name);
    }
  }
  return oci::parse_process(oci::to_json(base), "exec");
}

namespace {

// Ours from here on, with nobody else in this process.
std::vector<PassedStream> take_passed(const std::vector<protocol::Passed>& kinds) {
  std::vector<PassedStream> streams;
  for (const protocol::Passed kind : kinds) {
    const int fd = protocol::kFirstPassedFd + static_cast<int>(streams.size());
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    streams.push_back({kind, UniqueFd(fd)});
  }
  return streams;
}

// One exec, in the process that stands for it. One thread, one loop.
class Exec {
 public:
  Exec(EventLoop& loop, const ContainerDir& dir, const ExecOptions& options)
      : loop_(loop), dir_(dir), options_(options), process_id_(new_process_id()) {}

  Result<void> start();
  Result<int> wait();
  // Kills the process again: nobody could be told of it.
  void abandon();

 private:
  Result<void> open_console();
  Result<void> open_streams(const protocol::StdioRequest& stdio);
  void handle_signal(int number);
  void resize();
  void ended(int code);

  EventLoop& loop_;
  const ContainerDir& dir_;
  const ExecOptions& options_;
  std::string process_id_;
  std::unique_ptr<RpcClient> monitor_;
  UniqueFd pty_slave_;          // with --console-socket
  std::optional<RawMode> raw_;  // of our own terminal
  std::unique_ptr<ProcessIo> io_;
  std::optional<int> code_;
};

Result<void> Exec::start() {
  TRY(loop_.handle_signals(forwarded_signals(), [this](const ::signalfd_siginfo& info) {
    // Of a terminal's end the guest learns through the stream.
    if (info.ssi_signo == SIGHUP && info.ssi_code > 0) return;
    handle_signal(static_cast<int>(info.ssi_signo));
  }));
  MonitorEvents events;
  events.on_event = [this](const protocol::Event& event) -> Result<void> {
    const bool held = event.name == "paused";
    if (held || event.name == "resumed") {
      if (io_) io_->hold_listeners(held);
      return {};
    }
    const auto exit = TRY(protocol::from_json<protocol::ExitEvent>(event.params));
    ended(exit.signal != 0 ? 128 + exit.signal : exit.exit_code);
    return {};
  };
  events.on_closed = [this](const Error&) { ended(kKilledCode); };  // the container has ended
  monitor_ = TRY(connect_monitor(loop_, dir_, std::move(events)));
  oci::Process process = options_.process;
  if (process.terminal) {
    if (!options_.console_socket.empty()) TRY(open_console());
    const auto size = window_size(pty_slave_ ? pty_slave_.get() : STDIN_FILENO);
    if (size && !process.console_size)
      process.console_size = oci::ConsoleSize{size->ws_row, size->ws_col};
  }
  Json passed = Json::array();
  for (const protocol::Passed kind : options_.passed) passed.push_back(static_cast<int>(kind));
  const protocol::StdioRequest stdio = process.terminal ? protocol::StdioRequest{} : stdio_in_use();
  TRY(monitor_->call("exec",
                     {{"process_id", process_id_},
                      {"process", oci::to_json(process)},
                      {"stdin", stdio.stdin_open},
                      {"stdout", stdio.stdout_open},
                      {"stderr", stdio.stderr_open},
                      {"passed", std::move(passed)},
                      {"ignore_paused", options_.ignore_paused}},
                     options_.ignore_paused ? kNoTimeout : kStartTimeoutMs));
  TRY(open_streams(stdio));
  // From now on nothing of ours is lost when the machine stands still.
  monitor_->request("opened", {{"process_id", process_id_}}, 0, [](const Result<Json>&) {});
  return {};
}

Result<void> Exec::open_console() {
  const UniqueFd socket = TRY(connect_unix(options_.console_socket));
  std::optional<winsize> size;
  if (const auto& wanted = options_.process.console_size) {
    size.emplace();
    size->ws_row = static_cast<uint16_t>(wanted->height);
    size->ws_col = static_cast<uint16_t>(wanted->width);
  }
  Pty pty = TRY(open_pty(size));
  TRY(take_terminal(pty.slave.get()));
  TRY(wrap(send_master(socket.get(), pty.master.get()), "send the terminal"));
  pty_slave_ = std::move(pty.slave);
  // Who started us may read our output to its end before going on: the terminal is all we keep.
  static_cast<void>(TRY(take_stdio()));
  return {};
}

Result<void> Exec::open_streams(const protocol::StdioRequest& stdio) {
  io_ = std::make_unique<ProcessIo>(
      loop_, ProcessIo::Options{options_.vsock_path, dir_.id(), process_id_, kStartTimeoutMs,
                                take_passed(options_.passed)});
  std::optional<Result<void>> opened;
  const auto on_opened = [&opened](Result<void> outcome) { opened = std::move(outcome); };
  if (options_.process.terminal) {
    UniqueFd input(fcntl(pty_slave_ ? pty_slave_.get() : STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
    UniqueFd output(fcntl(pty_slave_ ? pty_slave_.get() : STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    if (!pty_slave_ && isatty(STDIN_FILENO) == 1) raw_.emplace(STDIN_FILENO);
    io_->open_terminal(std::move(input), std::move(output), on_opened);
  } else {
    std::array<UniqueFd, 3> fds;
    for (int fd = 0; fd < 3; ++fd)
      fds[static_cast<size_t>(fd)].reset(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    io_->open_pipes(stdio, std::move(fds), on_opened);
  }
  while (!opened) TRY(loop_.run_once(-1));
  if (!*opened) {
    raw_.reset();
    // A container that has just ended takes the streams with it.
    if (code_) return {};
    return tl::unexpected(std::move(opened->error()));
  }
  if (options_.process.terminal) resize();
  return {};
}

void Exec::resize() {
  const auto size = window_size(pty_slave_ ? pty_slave_.get() : STDIN_FILENO);
  if (!size) return;
  monitor_->request("resize",
                    {{"process", process_id_}, {"rows", size->ws_row}, {"columns", size->ws_col}},
                    0, [](const Result<Json>&) {});
}

void Exec::handle_signal(int number) {
  if (monitor_ == nullptr || code_) return;
  if (number == SIGWINCH && options_.process.terminal) return resize();
  monitor_->request("kill", {{"signal", number}, {"all", false}, {"process", process_id_}}, 0,
                    [](const Result<Json>&) {});
}

void Exec::ended(int code) {
  if (!code_) code_ = code;
}

Result<int> Exec::wait() {
  while (!code_) TRY(loop_.run_once(-1));
  bool drained = false;
  io_->drain(kLingerMs, [&drained] { drained = true; });
  while (!drained) TRY(loop_.run_once(-1));
  raw_.reset();
  return *code_;
}

void Exec::abandon() {
  handle_signal(SIGKILL);
  static_cast<void>(wait());
}

Result<UniqueFd> connect_pidfd_socket(const ExecOptions& options) {
  if (options.pidfd_socket.empty()) return UniqueFd();
  return connect_unix(options.pidfd_socket);
}

// `pid` stands for the process on this host.
Result<void> announce_exec(const ExecOptions& options, const UniqueFd& pidfd_socket, pid_t pid) {
  if (pidfd_socket) {
    const UniqueFd pidfd = TRY(open_pidfd(pid));
    TRY(send_pidfd(pidfd_socket.get(), "setns", pidfd.get()));
  }
  return options.pid_file.empty() ? Result<void>() : write_pid_file(options.pid_file, pid);
}

// The child of the fork: says over `report` whether the process runs, then stands for it, once it
// has heard that others know of it.
[[noreturn]] void run_proxy(const ContainerDir& dir, const ExecOptions& options, int report) {
  setsid();
  int status = 1;
  if (auto loop = EventLoop::create()) {
    Exec exec(**loop, dir, options);
    const auto started = exec.start();
    static_cast<void>(send_frame(report, encode_outcome(started)));
    const bool known = started && receive_frame(report, kMaxPlanBytes);
    close(report);
    if (started && !known) exec.abandon();
    if (known) status = exec.wait().value_or(1);
  }
  _exit(status);
}

// A new session for the process's terminal, and a pid that lives as long as it.
Result<int> exec_by_proxy(const ContainerDir& dir, const ExecOptions& options) {
  auto [report_here, report_there] = TRY(socket_pair(SOCK_STREAM));
  const UniqueFd pidfd_socket = TRY(connect_pidfd_socket(options));
  const pid_t pid = fork();
  if (pid < 0) return sys_error("fork");
  if (pid == 0) {
    report_here.reset();
    run_proxy(dir, options, report_there.release());
  }
  report_there.reset();
  static_cast<void>(take_passed(options.passed));  // the proxy's alone
  const auto report = receive_frame(report_here.get(), kMaxPlanBytes);
  Result<void> started = report ? decode_outcome(*report)
                                : make_error(ErrorKind::kAborted, "the process's proxy has died");
  if (started) started = announce_exec(options, pidfd_socket, pid);
  if (started) started = send_frame(report_here.get(), kKnown);
  if (!started) {
    report_here.reset();
    waitpid(pid, nullptr, 0);
    return tl::unexpected(std::move(started.error()));
  }
  if (options.detach) return 0;
  int status = 0;
  if (retry_eintr([&] { return waitpid(pid, &status, 0); }) < 0) return sys_error("wait");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

Result<int> exec_in_container(const ContainerDir& dir, ExecOptions options) {
  const ContainerRecord record = TRY(dir.current_record());
  if (record.state.status == "stopped")
    return make_error(ErrorKind::kFailedPrecondition, "cannot exec in a stopped container");
  if (record.state.status == "paused" && !options.ignore_paused)
    return make_error(ErrorKind::kFailedPrecondition, kExecInPausedContainer);
  if (options.process.terminal && options.detach && options.console_socket.empty())
    return invalid_argument(
        "cannot allocate tty if kiln will detach without setting console socket");
  if (!options.process.terminal && !options.console_socket.empty())
    return invalid_argument("cannot use console socket if kiln will not allocate tty");
  options.vsock_path =
      record.sandbox.empty() ? dir.vsock_socket() : dir.sibling(record.sandbox) + "/vm/vsock";
  signal(SIGPIPE, SIG_IGN);
  if (options.detach || !options.console_socket.empty()) return exec_by_proxy(dir, options);
  const UniqueFd pidfd_socket = TRY(connect_pidfd_socket(options));
  const auto loop = TRY(EventLoop::create());
  Exec exec(*loop, dir, options);
  TRY(exec.start());
  if (auto told = announce_exec(options, pidfd_socket, getpid()); !told) {
    exec.abandon();
    return tl::unexpected(std::move(told.error()));
  }
  return exec.wait();
}

}  // namespace kiln::runtime
