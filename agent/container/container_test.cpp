// SPDX-License-Identifier: Apache-2.0
// Whole containers in this machine's kernel: this machine's own root file system under an overlay,
// in a mount namespace of the test. What depends on the guest is in tests/integration.
#include "agent/container/container.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/container/forked_child.h"
#include "base/file.h"
#include "base/format.h"
#include "oci/parse.h"

namespace kiln::agent {
namespace {

constexpr int kSkipped = 77;
constexpr int kPatienceMs = 20'000;

// The agent's own view: cgroup v2 alone at /sys/fs/cgroup, mounts that nobody else sees.
bool enter_guest_like_namespace() {
  alarm(kPatienceMs / 1000 * 2);  // a test that hangs fails
  return unshare(CLONE_NEWNS) == 0 &&
         mount(nullptr, "/", nullptr, MS_PRIVATE | MS_REC, nullptr) == 0 &&
         mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, nullptr) == 0;
}

oci::Spec shell_spec(const std::string& script) {
  oci::Spec spec = oci::default_spec(false);
  spec.root->readonly = false;
  spec.process->terminal = false;
  spec.process->args = {"/bin/sh", "-c", script};
  return spec;
}

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
  Pipe() {
    int fds[2] = {-1, -1};
    if (pipe2(fds, O_CLOEXEC) != 0) return;
    read_end.reset(fds[0]);
    write_end.reset(fds[1]);
  }
};

std::string drain(int fd) {
  std::string out;
  char buffer[4096];
  pollfd polled{fd, POLLIN, 0};
  while (poll(&polled, 1, kPatienceMs) > 0) {
    const ssize_t size = read(fd, buffer, sizeof buffer);  // EIO: a terminal has been hung up
    if (size <= 0) break;
    out.append(buffer, static_cast<size_t>(size));
  }
  return out;
}

int wait_for(pid_t pid) {
  int status = -1;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Result<std::unique_ptr<Container>> create(const oci::Spec& spec, UniqueFd output) {
  ContainerSetup setup;
  setup.id = fmt::format("unit-test-{}", getpid());
  setup.spec = &spec;
  setup.rootfs = "/";
  setup.overlay = true;
  ProcessFds stdio;
  stdio.stdout_fd = std::move(output);
  return Container::create(setup, std::move(stdio));
}

Result<void> start(Container& container) {
  TRY(container.begin_start());
  pollfd polled{container.start_fd(), POLLIN, 0};
  poll(&polled, 1, kPatienceMs);
  return container.finish_start();
}

struct Outcome {
  int exit_code = -1;
  std::string output;  // or the error's message
};

Outcome run(const oci::Spec& spec) {
  Pipe output;
  auto container = create(spec, std::move(output.write_end));
  if (!container) return {-1, container.error().message};
  if (auto started = start(**container); !started) return {-1, started.error().message};
  Outcome outcome;
  const UniqueFd& master = (*container)->init().pty_master;
  outcome.output = drain(master ? master.get() : output.read_end.get());
  outcome.exit_code = wait_for((*container)->init().pid);
  const auto destroyed = (*container)->destroy();
  if (!destroyed) return {-1, destroyed.error().message};
  return outcome;
}

// `body` in a child with the guest's view: 0 means that it is as it should be.
class ContainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root: makes namespaces and mounts";
    const int ready = exit_code_of_child([] { return enter_guest_like_namespace() ? 0 : 1; });
    if (ready != 0) GTEST_SKIP() << "needs the right to mount cgroup2";
  }
  void TearDown() override { rmdir("/sys/fs/cgroup/unified/kiln"); }

  static void expect(const oci::Spec& spec, int exit_code, const std::string& output) {
    const int code = exit_code_of_child([&] {
      if (!enter_guest_like_namespace()) return kSkipped;
      const Outcome outcome = run(spec);
      rmdir("/sys/fs/cgroup/kiln");
      if (outcome.exit_code == exit_code && outcome.output == output) return 0;
      std::fprintf(stderr, "exit code %d, output `%s`\n", outcome.exit_code,
                   outcome.output.c_str());
      return 1;
    });
    EXPECT_EQ(code, 0);
  }
};

TEST_F(ContainerTest, ExitCodeAndOutputArrive) { expect(shell_spec("echo hi; exit 7"), 7, "hi\n"); }

TEST_F(ContainerTest, ProgramIsProcess1) { expect(shell_spec("echo $$"), 0, "1\n"); }

TEST_F(ContainerTest, HostnameIsTheContainers) {
  oci::Spec spec = shell_spec("cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname");
  spec.hostname = "box";
  spec.domainname = "example.org";
  expect(spec, 0, "box\nexample.org\n");
}

TEST_F(ContainerTest, MissingDirectoryOfWorkIsMade) {
  oci::Spec spec = shell_spec("pwd");
  spec.process->cwd = "/made/for/me";
  expect(spec, 0, "/made/for/me\n");
}

TEST_F(ContainerTest, DescriptorsOfTheAgentAreNoWorkingDirectory) {
  for (int fd = 3; fd < 20; ++fd) {
    oci::Spec spec = shell_spec("ls; echo BAD");
    spec.process->cwd = fmt::format("/proc/self/fd/{}", fd);
    const int code = exit_code_of_child([&] {
      if (!enter_guest_like_namespace()) return kSkipped;
      const Outcome outcome = run(spec);
      rmdir("/sys/fs/cgroup/kiln");
      return outcome.exit_code == -1 ? 0 : 1;
    });
    EXPECT_EQ(code, 0) << fd;
  }
}

TEST_F(ContainerTest, OnlyTheStandardStreamsAreOpen) {
  oci::Spec spec = shell_spec("");
  spec.process->args = {"/bin/ls", "/proc/self/fd"};  // which it has open as number 3
  expect(spec, 0, "0\n1\n2\n3\n");
}

TEST_F(ContainerTest, ReadOnlyRootIsReadOnly) {
  oci::Spec spec = shell_spec("touch /file 2>/dev/null || echo refused");
  spec.root->readonly = true;
  expect(spec, 0, "refused\n");
}

TEST_F(ContainerTest, MaskedFileIsEmptyAndReadOnlyPathRefusesWrites) {
  oci::Spec spec = shell_spec("cat /etc/passwd; ls /home; touch /root/x 2>/dev/null || echo ro");
  spec.linux.masked_paths = {"/etc/passwd", "/home", "/nonexistent"};
  spec.linux.readonly_paths = {"/root", "/nonexistent"};
  expect(spec, 0, "ro\n");
}

TEST_F(ContainerTest, TmpfsWithCopyUpHasWhatItHides) {
  oci::Spec spec = shell_spec(
      "test -s /etc/passwd && touch /etc/new && grep -c '^tmpfs /etc tmpfs' /proc/self/mounts");
  spec.mounts.push_back({"/etc", "tmpfs", "tmpfs", {"tmpcopyup"}, {}, {}});
  expect(spec, 0, "1\n");
}

TEST_F(ContainerTest, MountOnProcThroughALinkIsRefused) {
  oci::Spec spec = shell_spec("true");
  spec.mounts[0].destination = "/bin/proc";  // usr-merged: /bin is a symbolic link
  if (struct stat status{}; lstat("/bin", &status) != 0 || !S_ISLNK(status.st_mode))
    GTEST_SKIP() << "needs a merged /usr";
  expect(spec, -1, "mount `proc` at `/bin/proc`: the path contains a symbolic link");
}

TEST_F(ContainerTest, MountInsideProcIsRefused) {
  oci::Spec spec = shell_spec("true");
  spec.mounts.push_back({"/proc/sys/kernel", "tmpfs", "tmpfs", {}, {}, {}});
  expect(spec, -1, "mount `tmpfs` at `/proc/sys/kernel`: it is inside the container's /proc");
}

TEST_F(ContainerTest, MissingProgramFailsAtCreate) {
  oci::Spec spec = shell_spec("");
  spec.process->args = {"no-such-program"};
  expect(spec, -1, "exec: \"no-such-program\": executable file not found in $PATH");
}

TEST_F(ContainerTest, TerminalIsTheContainersOwnAndHasItsSize) {
  oci::Spec spec = shell_spec("tty; stty size; test /dev/console -ef $(tty) && echo same");
  spec.process->terminal = true;
  spec.process->console_size = oci::ConsoleSize{33, 77};
  expect(spec, 0, "/dev/pts/0\r\n33 77\r\nsame\r\n");
}

TEST_F(ContainerTest, UserNamespaceMapsIds) {
  oci::Spec spec = shell_spec("id -u; cat /proc/self/uid_map | tr -s ' '; echo x > /dev/stdout");
  spec.linux.namespaces.push_back({"user", ""});
  spec.linux.uid_mappings = {{0, 100'000, 65'536}};
  spec.linux.gid_mappings = {{0, 100'000, 65'536}};
  spec.process->user.uid = 0;
  expect(spec, 0, "0\n 0 100000 65536\nx\n");
}

TEST_F(ContainerTest, TimeNamespaceHasItsOffset) {
  oci::Spec spec =
      shell_spec("read up rest < /proc/uptime; test ${up%.*} -gt 1000000000 && echo later");
  spec.linux.namespaces.push_back({"time", ""});
  spec.linux.time_offsets["boottime"] = {1'000'000'000, 0};
  expect(spec, 0, "later\n");
}

TEST_F(ContainerTest, StartHookRunsBeforeTheProgramWithTheState) {
  oci::Spec spec = shell_spec("grep -c '\"status\":\"created\"' /tmp/state");
  spec.hooks.emplace();
  spec.hooks->start_container.push_back(
      {"/bin/sh", {"sh", "-c", "cat > /tmp/state"}, {"PATH=/bin:/usr/bin"}, {}});
  expect(spec, 0, "1\n");
}

TEST_F(ContainerTest, FailingStartHookKeepsTheProgramFromRunning) {
  oci::Spec spec = shell_spec("echo BAD");
  spec.hooks.emplace();
  spec.hooks->start_container.push_back({"/bin/sh", {"sh", "-c", "exit 3"}, {}, {}});
  expect(spec, -1, "startContainer hook `/bin/sh`: exit status 3");
}

// A container that sleeps, for what happens to a running one.
int with_running(const std::function<int(Container&, oci::Process)>& body) {
  return exit_code_of_child([&] {
    if (!enter_guest_like_namespace()) return kSkipped;
    const oci::Spec spec = shell_spec("exec sleep 100");
    auto container = create(spec, UniqueFd());
    if (!container || !start(**container)) return 1;
    const int code = body(**container, *spec.process);
    const bool killed = (*container)->signal_all(SIGKILL).has_value();
    const int ended = wait_for((*container)->init().pid);
    const bool gone = (*container)->destroy() && (*container)->destroy();
    rmdir("/sys/fs/cgroup/kiln");
    return killed && ended == 128 + SIGKILL && gone ? code : 2;
  });
}

TEST_F(ContainerTest, ProcessEntersARunningContainer) {
  EXPECT_EQ(with_running([](Container& container, oci::Process process) {
              process.args = {"/bin/sh", "-c", "cat /proc/1/comm; exit 9"};
              Pipe output;
              ProcessFds stdio;
              stdio.stdout_fd = std::move(output.write_end);
              const auto entered = container.exec(process, std::move(stdio));
              if (!entered) return 3;
              const std::string text = drain(output.read_end.get());
              return wait_for(entered->pid) == 9 && text == "sleep\n" ? 0 : 4;
            }),
            0);
}

TEST_F(ContainerTest, EnteringWithAMissingProgramIsAnError) {
  EXPECT_EQ(with_running([](Container& container, oci::Process process) {
              process.args = {"no-such-program"};
              const auto entered = container.exec(process, ProcessFds());
              return !entered && entered.error().kind == ErrorKind::kNotFound ? 0 : 3;
            }),
            0);
}

TEST_F(ContainerTest, EnteringProcessIsAmongTheProcesses) {
  EXPECT_EQ(with_running([](Container& container, oci::Process process) {
              process.args = {"/bin/sleep", "100"};
              const auto entered = container.exec(process, ProcessFds());
              const auto pids = container.processes();
              if (!entered) return 3;
              ::kill(entered->pid, SIGKILL);
              // Not reaped, it would keep the container's process 1 from ending.
              const bool killed = wait_for(entered->pid) == 128 + SIGKILL;
              return killed && pids && pids->size() == 2 ? 0 : 4;
            }),
            0);
}

}  // namespace
}  // namespace kiln::agent
