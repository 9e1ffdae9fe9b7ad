// SPDX-License-Identifier: Apache-2.0
#include "agent/core/fake_guest.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>

#include "agent/core/proc_info.h"
#include "base/file.h"
#include "base/format.h"
#include "base/unix_socket.h"
#include "oci/parse.h"

namespace kiln::agent {
namespace {

struct ChildPlan {
  std::vector<std::string> args;
  ProcessFds fds;
  UniqueFd terminal;   // slave
  UniqueFd wait_for;   // exec once a byte arrives
  UniqueFd report_to;  // errno of a failed exec
  pid_t group = 0;     // 0: a new one
};

[[noreturn]] void run_child(ChildPlan plan) {
  if (plan.terminal) {
    setsid();
    ioctl(plan.terminal.get(), TIOCSCTTY, 0);
    for (int fd = 0; fd < 3; ++fd) dup2(plan.terminal.get(), fd);
  } else {
    setpgid(0, plan.group);
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    int target = 0;
    for (const UniqueFd* fd : {&plan.fds.stdin_fd, &plan.fds.stdout_fd, &plan.fds.stderr_fd})
      dup2(*fd ? fd->get() : null.get(), target++);
  }
  int passed = protocol::kFirstPassedFd;
  for (const UniqueFd& fd : plan.fds.passed) dup2(fd.get(), passed++);
  char byte = 0;
  if (plan.wait_for && read(plan.wait_for.get(), &byte, 1) != 1) _exit(126);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int number : {SIGHUP, SIGPIPE}) signal(number, SIG_DFL);  // nohup(1) ignores it
  std::vector<char*> argv;
  for (std::string& arg : plan.args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  const int failed = errno;
  if (plan.report_to) {
    [[maybe_unused]] const auto written = write(plan.report_to.get(), &failed, sizeof failed);
  }
  _exit(127);
}

Result<StartedProcess> launch(ChildPlan plan) {
  const pid_t group = plan.group;
  const bool leads_session = plan.terminal.valid();
  const pid_t pid = fork();
  if (pid < 0) return sys_error("fork");
  if (pid == 0) run_child(std::move(plan));
  if (!leads_session) setpgid(pid, group);  // whoever is first
  return StartedProcess{pid, UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))), {}};
}

class FakeContainer : public GuestContainer {
 public:
  explicit FakeContainer(FakeState& state) : state_(state) {}
  ~FakeContainer() override {
    if (init_.pid > 0) kill(-init_.pid, SIGKILL);
  }

  Result<void> create(const oci::Process& process, ProcessFds stdio) {
    ChildPlan plan{process.args, std::move(stdio), {}, {}, {}, 0};
    std::array<int, 2> start{};
    std::array<int, 2> report{};
    if (pipe2(start.data(), O_CLOEXEC) != 0 || pipe2(report.data(), O_CLOEXEC) != 0)
      return sys_error("pipe");
    plan.wait_for.reset(start[0]);
    start_.reset(start[1]);
    report_.reset(report[0]);
    plan.report_to.reset(report[1]);
    UniqueFd master;
    if (process.terminal) {
      master.reset(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
      int unlocked = 0;
      ioctl(master.get(), TIOCSPTLCK, &unlocked);
      plan.terminal.reset(ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    }
    init_ = TRY(launch(std::move(plan)));
    init_.pty_master = std::move(master);
    return {};
  }

  StartedProcess& init() override { return init_; }
  Result<void> begin_start() override { return write_fully(start_.get(), "x"); }
  int start_fd() const override { return report_.get(); }
  Result<void> finish_start() override {
    int failed = 0;
    if (TRY(read_fully(report_.get(), &failed, sizeof failed)) == 0) return {};
    return sys_error("exec", failed);
  }
  Result<StartedProcess> exec(const oci::Process& process, ProcessFds stdio) override {
    return launch({process.args, std::move(stdio), {}, {}, {}, init_.pid});
  }
  Result<std::vector<pid_t>> processes() const override {
    std::vector<pid_t> out;
    DIR* stream = opendir("/proc");
    while (const dirent* entry = readdir(stream)) {
      const pid_t pid = std::atoi(entry->d_name);
      if (pid > 0 && getpgid(pid) == init_.pid && !is_zombie(pid)) out.push_back(pid);
    }
    closedir(stream);
    return out;
  }
  Result<void> signal_all(int signal) override {
    kill(-init_.pid, signal);
    return {};
  }
  Result<void> freeze(bool frozen) override {
    state_.frozen = frozen;
    return {};
  }
  Result<void> update(const oci::Resources& resources) override {
    state_.updated = resources;
    return {};
  }
  Result<void> refresh(size_t mount, const std::string& version) override {
    state_.volume_versions[mount] = version;
    return {};
  }
  Result<protocol::StatsReply> stats() const override { return state_.stats; }
  int memory_events_fd() const override { return -1; }
  Result<uint64_t> oom_kills() const override { return state_.oom_kills; }
  int root_fd() const override { return state_.container_root.get(); }
  void release_root() override { ++state_.roots_released; }
  Result<void> destroy() override {
    ++state_.destroyed;
    return {};
  }

 private:
  static bool is_zombie(pid_t pid) {
    const auto stat = read_file(fmt::format("/proc/{}/stat", pid));
    return !stat || stat->find(") Z") != std::string::npos;
  }

  FakeState& state_;
  StartedProcess init_;
  UniqueFd start_;
  UniqueFd report_;
};

// With an ipc namespace and no other; the descriptor is made up.
class FakePod : public GuestPod {
 public:
  explicit FakePod(FakeState& state) : state_(state) {}
  Result<int> namespace_fd(int type) override {
    if (type == CLONE_NEWIPC) return FakeState::kPodIpc;
    return make_error(ErrorKind::kFailedPrecondition, "no such namespace");
  }
  Result<protocol::StatsReply> stats() const override { return state_.pod_stats; }

 private:
  FakeState& state_;
};

class FakeGuest : public Guest {
 public:
  explicit FakeGuest(FakeState& state) : state_(state) {}
  Result<void> adopt(const protocol::SandboxRequest& request) override {
    state_.adopted = request;
    return {};
  }
  Result<void> correct_clock(int64_t realtime_ns) override {
    state_.realtime_ns = realtime_ns;
    return {};
  }
  Result<void> configure_network(const protocol::NetworkRequest& request) override {
    state_.network = request;
    return {};
  }
  Result<std::string> prepare_drive(const protocol::Drive& drive) override {
    if (drive.id == "lost") return make_error(ErrorKind::kNotFound, "no drive `lost`");
    return "/dev/" + drive.id;
  }
  Result<void> release_drive(const std::string& id) override {
    if (id == "lost") return make_error(ErrorKind::kNotFound, "no drive `lost`");
    state_.released_drive = id;
    return {};
  }
  Result<void> prepare_device(const oci::Device& device) override {
    if (device.major == 226) return make_error(ErrorKind::kUnimplemented, "no such device");
    return {};
  }
  Result<pid_t> begin_sync() override {
    ++state_.syncs;
    if (!state_.sync_gate) return -1;
    const pid_t child = fork();
    if (child != 0) return child;
    char byte = 0;
    [[maybe_unused]] const auto got = read(state_.sync_gate.get(), &byte, 1);
    _exit(0);
  }
  Result<void> unmount_share() override {
    state_.share_mounted = false;
    return {};
  }
  Result<UniqueFd> dial(uint32_t port) override {
    if (state_.host_port != port) return make_error(ErrorKind::kUnavailable, "nobody listens");
    auto [ours, theirs] = TRY(socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
    state_.dialed.push_back(std::move(theirs));
    return std::move(ours);
  }
  void power_off() override { state_.powered_off = true; }

 private:
  FakeState& state_;
};

class UnixListener : public StreamListener {
 public:
  explicit UnixListener(UniqueFd fd) : fd_(std::move(fd)) {}
  int fd() const override { return fd_.get(); }
  Result<UniqueFd> accept() override { return accept_unix(fd_.get(), SOCK_NONBLOCK); }

 private:
  UniqueFd fd_;
};

}  // namespace

void ServerTest::SetUp() {
  loop_ = *EventLoop::create();
  guest_ = std::make_unique<FakeGuest>(state_);
  auto [ours, theirs] = *socket_pair(SOCK_STREAM);
  host_ = std::move(ours);
  socket_path_ = fmt::format("{}/agent-{}.sock", testing::TempDir(), getpid());
  unlink(socket_path_.c_str());
  Server::Options options;
  options.control = std::move(theirs);
  options.streams = std::make_unique<UnixListener>(*listen_unix(socket_path_));
  options.guest = guest_.get();
  options.run_directory = testing::TempDir();
  options.factory = [this](const ContainerSetup& setup,
                           ProcessFds stdio) -> Result<std::unique_ptr<GuestContainer>> {
    state_.root_device = setup.root_device;
    state_.devices = setup.spec->linux.devices;
    state_.device_rules.clear();
    if (setup.spec->linux.resources) state_.device_rules = setup.spec->linux.resources->devices;
    state_.shared_types = 0;
    state_.shared_fds.clear();
    for (const SharedNamespaces& shared : setup.shared) {
      state_.shared_types |= shared.types;
      state_.shared_fds.push_back(shared.fd);
    }
    state_.mount_devices = setup.mount_devices;
    state_.bind_sources = setup.bind_sources;
    state_.volume_versions = setup.volume_versions;
    auto container = std::make_unique<FakeContainer>(state_);
    TRY(container->create(*setup.spec->process, std::move(stdio)));
    return std::unique_ptr<GuestContainer>(std::move(container));
  };
  options.pod_factory = [this](const oci::Spec& config) -> Result<std::unique_ptr<GuestPod>> {
    if (config.hostname == "bad") return invalid_argument("no such name");
    state_.pod = config;
    return std::unique_ptr<GuestPod>(std::make_unique<FakePod>(state_));
  };
  server_ = *Server::create(*loop_, std::move(options));
}

void ServerTest::TearDown() {
  server_.reset();
  unlink(socket_path_.c_str());
}

void ServerTest::turn() {
  ASSERT_TRUE(loop_->run_once(10));
  std::array<char, 65536> buffer;
  ssize_t got = 0;
  while (host_ && (got = recv(host_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0)
    incoming_.append(buffer.data(), static_cast<size_t>(got));
  uint32_t size = 0;
  while (incoming_.size() >= sizeof size) {
    std::memcpy(&size, incoming_.data(), sizeof size);
    if (incoming_.size() < sizeof size + size) break;
    auto message = protocol::decode_from_agent(incoming_.substr(sizeof size, size));
    ASSERT_TRUE(message) << message.error().message;
    messages_.push_back(std::move(*message));
    incoming_.erase(0, sizeof size + size);
  }
}

uint64_t ServerTest::send(const std::string& method, Json params) {
  const uint64_t id = next_id_++;
  EXPECT_TRUE(
      send_frame(host_.get(), protocol::encode(protocol::Request{id, method, std::move(params)})));
  return id;
}

protocol::Reply ServerTest::wait_reply(uint64_t id) {
  const auto find = [&]() -> const protocol::Reply* {
    for (const auto& message : messages_)
      if (message.reply && message.reply->id == id) return &*message.reply;
    return nullptr;
  };
  until([&] { return find() != nullptr; }, "no reply");
  return find() != nullptr ? *find() : protocol::Reply{};
}

protocol::ExitEvent ServerTest::wait_exit(const std::string& process_id) {
  std::optional<protocol::ExitEvent> exit;
  until(
      [&] {
        for (const auto& message : messages_) {
          if (!message.event || message.event->name != "exit") continue;
          auto event = protocol::from_json<protocol::ExitEvent>(message.event->params);
          if (event && event->process_id == process_id) exit = std::move(*event);
        }
        return exit.has_value();
      },
      "no exit event");
  return exit.value_or(protocol::ExitEvent{});
}

protocol::Reply ServerTest::create(const std::string& script, bool terminal,
                                   std::vector<protocol::Passed> passed) {
  oci::Spec spec = oci::default_spec(false);
  spec.process->terminal = terminal;
  spec.process->args = {"/bin/sh", "-c", script};
  protocol::CreateRequest request;
  request.container_id = "c1";
  request.config = oci::to_json(spec);
  request.rootfs.entry = "rootfs";
  request.stdio = {true, true, true, std::move(passed)};
  request.forwards = forwards_;
  if (notify_mount_) {
    request.notify_mount = notify_mount_;
    request.notify_name = "notify.sock";
  }
  return ask("create", protocol::to_json(request));
}

protocol::Reply ServerTest::exec(const std::string& process_id, const std::string& script) {
  oci::Process process;
  process.cwd = "/";
  process.args = {"/bin/sh", "-c", script};
  protocol::ExecRequest request{"c1", process_id, oci::to_json(process), {true, true, true}};
  return ask("exec", protocol::to_json(request));
}

UniqueFd ServerTest::dial(const std::string& stream, const std::string& process_id,
                          std::optional<Error>* refusal) {
  auto connection = connect_unix(socket_path_);
  EXPECT_TRUE(connection);
  EXPECT_TRUE(send_frame(connection->get(),
                         protocol::encode(protocol::StreamHeader{"c1", process_id, stream})));
  pollfd answered{connection->get(), POLLIN, 0};
  until([&] { return poll(&answered, 1, 0) > 0; }, "no answer to a stream");
  const auto frame = receive_frame(connection->get(), protocol::kMaxStreamFrameBytes);
  EXPECT_TRUE(frame);
  const auto accepted = protocol::decode_stream_reply(frame ? *frame : "");
  if (refusal != nullptr) {
    *refusal = accepted ? std::nullopt : std::optional(accepted.error());
  } else {
    EXPECT_TRUE(accepted) << accepted.error().message;
  }
  return std::move(*connection);
}

std::string ServerTest::drain(const UniqueFd& connection) {
  std::string out;
  bool ended = false;
  until(
      [&] {
        std::array<char, 65536> buffer;
        ssize_t got = 0;
        while ((got = recv(connection.get(), buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0)
          out.append(buffer.data(), static_cast<size_t>(got));
        ended = got == 0;
        return ended;
      },
      "the stream does not end");
  return out;
}

}  // namespace kiln::agent
