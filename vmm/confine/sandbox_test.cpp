// SPDX-License-Identifier: Apache-2.0
#include "vmm/confine/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include <gtest/gtest.h>

#include "base/event_loop.h"
#include "base/file.h"
#include "base/unix_socket.h"
#include "tests/support/fake_driver.h"
#include "vmm/api/confined_process.h"
#include "vmm/confine/capabilities.h"
#include "vmm/virtio/vsock/vsock_device.h"

namespace kiln::vmm {
namespace {

constexpr int kDone = 40;  // + what the body returns

// A child of one thread that confines itself, does `body` and then waits to be let go.
class ConfinedChild {
 public:
  explicit ConfinedChild(
      const Confinement& confinement, const std::function<int()>& body = [] { return 0; }) {
    auto pair = socket_pair(SOCK_STREAM);
    ours_ = std::move(pair->first);
    UniqueFd theirs = std::move(pair->second);
    pid_ = fork();
    if (pid_ == 0) {
      ours_.reset();
      run(confinement, body, theirs.get());
    }
    theirs.reset();
    char byte = 0;
    ready_ = read(ours_.get(), &byte, 1) == 1;
    if (!ready_) wait();
  }
  ~ConfinedChild() { wait(); }
  ConfinedChild(const ConfinedChild&) = delete;
  ConfinedChild& operator=(const ConfinedChild&) = delete;

  bool ready() const { return ready_; }
  // What `body` returned; what went wrong before it is on standard error.
  int wait() {
    ours_.reset();
    int status = 0;
    if (pid_ > 0 && retry_eintr([&] { return waitpid(pid_, &status, 0); }) == pid_)
      result_ = WIFEXITED(status) ? WEXITSTATUS(status) - kDone : 1000 + WTERMSIG(status);
    pid_ = -1;
    return result_;
  }

  std::string proc(const std::string& name) const {
    return "/proc/" + std::to_string(pid_) + "/" + name;
  }
  // A line of /proc/PID/status, without its name and with blanks for tabs.
  std::string status(const std::string& name) const {
    std::istringstream lines(*read_file(proc("status")));
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with(name + ":\t")) continue;
      std::replace(line.begin(), line.end(), '\t', ' ');
      return line.substr(name.size() + 2);
    }
    return "none";
  }
  bool shares_namespace(const char* name) const {
    struct stat mine {};
    struct stat its {};
    EXPECT_EQ(stat((std::string("/proc/self/ns/") + name).c_str(), &mine), 0);
    EXPECT_EQ(stat(proc(std::string("ns/") + name).c_str(), &its), 0);
    return mine.st_ino == its.st_ino;
  }

 private:
  [[noreturn]] static void run(const Confinement& confinement, const std::function<int()>& body,
                               int control) {
    if (const auto entered = enter(confinement); !entered) {
      dprintf(STDERR_FILENO, "%s\n", entered.error().message.c_str());
      _exit(1);
    }
    const int result = body();
    char byte = 0;
    if (write(control, &byte, 1) == 1) static_cast<void>(read(control, &byte, 1));
    _exit(kDone + result);
  }

  UniqueFd ours_;
  pid_t pid_ = -1;
  bool ready_ = false;
  int result_ = -1;
};

class Sandbox : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_capability(CAP_SYS_ADMIN) || !can_change_ids())
      GTEST_SKIP() << "needs root, and ids to change to";
    directory_ = testing::TempDir() + "kiln-sandbox-XXXXXX";
    ASSERT_NE(mkdtemp(directory_.data()), nullptr);
  }
  void TearDown() override {
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  std::string directory_;
};

TEST_F(Sandbox, VmmIsAnUnprivilegedUserWithoutCapabilities) {
  const ConfinedChild child(vmm_confinement());
  ASSERT_TRUE(child.ready());
  EXPECT_EQ(child.status("Uid"), "65533 65533 65533 65533");
  EXPECT_EQ(child.status("Gid"), "65533 65533 65533 65533");
  EXPECT_EQ(child.status("Groups"), " ");
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    EXPECT_EQ(child.status(set), "0000000000000000") << set;
  EXPECT_EQ(child.status("NoNewPrivs"), "1");
}

TEST_F(Sandbox, VmmHasNamespacesOfItsOwn) {
  const ConfinedChild child(vmm_confinement());
  ASSERT_TRUE(child.ready());
  for (const char* name : {"mnt", "ipc", "net", "uts", "cgroup", "user"})
    EXPECT_FALSE(child.shares_namespace(name)) << name;
  EXPECT_EQ(*read_file(child.proc("uid_map")), "     65533      65533          1\n");
  EXPECT_EQ(*read_file(child.proc("setgroups")), "deny\n");
}

TEST_F(Sandbox, VmmSeesNoFileAndCanMakeNone) {
  ConfinedChild child(vmm_confinement(), [] {
    int failures = 0;
    failures += open("/etc/passwd", O_RDONLY) >= 0;
    failures += open("/proc/self/status", O_RDONLY) >= 0;
    failures += open("../../etc/passwd", O_RDONLY) >= 0;
    failures += mkdir("/made", 0777) == 0;
    failures += mount("none", "/", "tmpfs", 0, nullptr) == 0;
    failures += !std::filesystem::is_empty("/");
    return failures;
  });
  EXPECT_TRUE(child.ready());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(child.proc("root")), {}), 0);
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(Sandbox, OldMountsAreGone) {
  const ConfinedChild child(vmm_confinement());
  ASSERT_TRUE(child.ready());
  const std::string mounts = *read_file(child.proc("mountinfo"));
  EXPECT_EQ(std::count(mounts.begin(), mounts.end(), '\n'), 1) << mounts;
  EXPECT_NE(mounts.find(" / / ro,nosuid,nodev,noexec"), std::string::npos) << mounts;
}

TEST_F(Sandbox, VmmHasNoNetworkButLoopback) {
  const ConfinedChild child(vmm_confinement());
  ASSERT_TRUE(child.ready());
  std::istringstream lines(*read_file(child.proc("net/dev")));
  std::string line;
  std::getline(lines, line);
  std::getline(lines, line);  // two of headings
  int others = 0;
  while (std::getline(lines, line)) others += line.find(" lo:") == std::string::npos;
  EXPECT_EQ(others, 0);
}

TEST_F(Sandbox, NetworkStaysWhereItIsWanted) {
  Confinement wanted = vmm_confinement();
  wanted.keep_network = true;
  const ConfinedChild child(wanted);
  ASSERT_TRUE(child.ready());
  EXPECT_TRUE(child.shares_namespace("net"));
}

TEST_F(Sandbox, WithoutUserNamespaceItIsStillNobodyWithNothing) {
  Confinement wanted = vmm_confinement();
  wanted.own_user_namespace = false;  // as on a host that has switched them off
  const ConfinedChild child(wanted);
  ASSERT_TRUE(child.ready());
  EXPECT_TRUE(child.shares_namespace("user"));
  EXPECT_FALSE(child.shares_namespace("mnt"));
  EXPECT_EQ(child.status("Uid"), "65533 65533 65533 65533");
  EXPECT_EQ(child.status("CapPrm"), "0000000000000000");
  EXPECT_EQ(child.status("CapBnd"), "0000000000000000");
}

TEST_F(Sandbox, NothingCanBeRegained) {
  ConfinedChild child(vmm_confinement(), [] {
    int failures = 0;
    failures += setuid(0) == 0;
    failures += prctl(PR_SET_SECUREBITS, 0) == 0;
    failures += prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0;
    failures += unshare(CLONE_NEWNET) == 0;
    failures += sethostname("x", 1) == 0;
    return failures;
  });
  EXPECT_TRUE(child.ready());
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(Sandbox, ResourceLimitsAreLowered) {
  ConfinedChild child(vmm_confinement(), [] {
    const auto most = [](__rlimit_resource resource) {
      rlimit limit{};
      return getrlimit(resource, &limit) == 0 ? limit.rlim_max : RLIM_INFINITY;
    };
    return most(RLIMIT_CORE) == 0 && most(RLIMIT_NOFILE) <= 4096 ? 0 : 1;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(Sandbox, OpenDescriptorsKeepWorking) {
  const std::string path = directory_ + "/image";
  std::ofstream(path) << "content";
  const UniqueFd file = *open_file(path, O_RDWR);
  const UniqueFd place = *open_file(directory_, O_PATH | O_DIRECTORY);
  std::filesystem::permissions(directory_, std::filesystem::perms::all);
  ConfinedChild child(vmm_confinement(), [&] {
    char byte = 0;
    int failures = 0;
    failures += pread(file.get(), &byte, 1, 0) != 1 || byte != 'c';
    failures += pwrite(file.get(), "C", 1, 0) != 1;
    failures += faccessat(place.get(), "image", F_OK, 0) != 0;
    return failures;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(*read_file(path), "Content");
}

TEST_F(Sandbox, SocketsInAKeptDirectoryAreReachedAndNothingBesideThem) {
  const std::string inner = directory_ + "/vm";
  ASSERT_EQ(mkdir(inner.c_str(), 0700), 0);
  std::ofstream(directory_ + "/secret") << "x";
  const auto listener = listen_unix(inner + "/vsock_1024");
  ASSERT_TRUE(listener);
  ASSERT_TRUE(admit_confined(inner));
  ASSERT_TRUE(admit_confined(inner + "/vsock_1024"));
  Confinement wanted = vmm_confinement();
  wanted.kept.push_back({inner, "vsock"});
  ConfinedChild child(wanted, [] {
    int failures = 0;
    failures += !connect_unix("/vsock/vsock_1024");
    failures += access("/vsock/../secret", F_OK) == 0;
    failures += mknod("/vsock/made", S_IFREG | 0600, 0) == 0;
    return failures;
  });
  ASSERT_TRUE(child.ready());
  EXPECT_TRUE(accept_unix(listener->get()));
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(Sandbox, GuestsConnectionsReachTheHostFromAConfinedVsockDevice) {
  const std::string inner = directory_ + "/vm";
  ASSERT_EQ(mkdir(inner.c_str(), 0700), 0);
  const auto listener = listen_unix(inner + "/vsock_1024");
  ASSERT_TRUE(listener);
  ASSERT_TRUE(admit_confined(inner));
  ASSERT_TRUE(admit_confined(inner + "/vsock_1024"));
  VsockOptions options;
  options.uds_path = inner + "/vsock";
  Confinement wanted = vmm_confinement();
  wanted.kept.push_back({*open_vsock_paths(options, "vsock"), "vsock"});
  ConfinedChild child(wanted, [&] {
    const auto loop = EventLoop::create();
    const auto device = VsockDevice::create(**loop, std::move(options));
    FakeGuest guest;
    FakeDriver tx(guest, 16);
    const auto queue = tx.queue();
    Activation activation;
    activation.memory = guest.memory();
    activation.queues = {nullptr, queue.get(), nullptr};
    activation.interrupt = [](unsigned) {};
    if (!device || !(*device)->activate(std::move(activation))) return 1;
    VsockHeader request{};
    request.src_cid = 3;
    request.dst_cid = kVsockHostCid;
    request.src_port = 7;
    request.dst_port = 1024;
    request.type = VIRTIO_VSOCK_TYPE_STREAM;
    request.op = VIRTIO_VSOCK_OP_REQUEST;
    const uint64_t at = guest.allocate(sizeof request);
    guest.put(at, request);
    tx.add_chain({{at, sizeof request, false}});
    return (*device)->process_queue(1) && (*device)->connections() == 1 ? 0 : 2;
  });
  ASSERT_TRUE(child.ready());
  EXPECT_TRUE(accept_unix(listener->get()));
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(Sandbox, SocketThatWasNotAdmittedIsOutOfReach) {
  const auto listener = listen_unix(directory_ + "/socket");
  ASSERT_TRUE(listener);
  ASSERT_TRUE(admit_confined(directory_));
  Confinement wanted = vmm_confinement();
  wanted.kept.push_back({directory_, "vsock"});
  ConfinedChild child(wanted, [] {
    const auto connected = connect_unix("/vsock/socket");
    return !connected && connected.error().sys_errno == EACCES ? 0 : 1;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(Sandbox, MissingKeptDirectoryIsAnError) {
  Confinement wanted = vmm_confinement();
  wanted.kept.push_back({directory_ + "/missing", "x"});
  EXPECT_FALSE(ConfinedChild(wanted).ready());
}

TEST_F(Sandbox, OwnerThatHasDiedIsAnError) {
  auto [ours, theirs] = *socket_pair(SOCK_SEQPACKET);
  Confinement wanted = vmm_confinement();
  wanted.owner_fd = theirs.get();
  EXPECT_TRUE(ConfinedChild(wanted, [&] { return 0; }).ready());
  ours.reset();
  EXPECT_FALSE(ConfinedChild(wanted).ready());
}

TEST_F(Sandbox, ParentDeathSignalSurvivesTheChangeOfTheUid) {
  ASSERT_EQ(prctl(PR_SET_PDEATHSIG, 0), 0);
  ConfinedChild none(vmm_confinement(), [] {
    int number = -1;
    return prctl(PR_GET_PDEATHSIG, &number) == 0 && number == 0 ? 0 : 1;
  });
  EXPECT_EQ(none.wait(), 0);
  // fork(2) clears it: a process that has it from its launcher.
  const pid_t middle = fork();
  if (middle == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int number = 0;
    const bool kept = enter(vmm_confinement()) && prctl(PR_GET_PDEATHSIG, &number) == 0;
    _exit(kept && number == SIGKILL ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(middle, &status, 0), middle);
  EXPECT_EQ(status, 0);
}

TEST_F(Sandbox, VmmIsNotDumpable) {
  ConfinedChild child(vmm_confinement(), [] { return prctl(PR_GET_DUMPABLE); });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(Sandbox, FsServerHasWhatItNeedsToActForFileOwners) {
  const ConfinedChild child(fs_confinement());
  ASSERT_TRUE(child.ready());
  EXPECT_EQ(child.status("Uid"), "0 0 0 0");
  // chown, dac_override, fowner, fsetid, setgid, setuid, mknod, setfcap
  EXPECT_EQ(child.status("CapPrm"), "00000000880000db");
  EXPECT_EQ(child.status("CapEff"), "00000000880000db");
  for (const char* set : {"CapInh", "CapBnd", "CapAmb"})
    EXPECT_EQ(child.status(set), "0000000000000000") << set;
  EXPECT_EQ(child.status("NoNewPrivs"), "1");
  for (const char* name : {"mnt", "ipc", "net", "uts", "cgroup"})
    EXPECT_FALSE(child.shares_namespace(name)) << name;
}

TEST_F(Sandbox, FsServerReachesFilesOfAnyOwnerThroughItsDescriptors) {
  std::ofstream(directory_ + "/file") << "x";
  ASSERT_EQ(chmod((directory_ + "/file").c_str(), 0600), 0);
  ASSERT_EQ(chown((directory_ + "/file").c_str(), 1234, 1234), 0);
  const UniqueFd file = *open_file(directory_ + "/file", O_PATH);
  const UniqueFd place = *open_file(directory_, O_PATH | O_DIRECTORY);
  ConfinedChild child(fs_confinement(), [&] {
    const std::string name = "/proc/self/fd/" + std::to_string(file.get());
    int failures = 0;
    failures += open(name.c_str(), O_RDWR) < 0;
    failures += chmod(name.c_str(), 0640) != 0;
    failures += linkat(AT_FDCWD, name.c_str(), place.get(), "linked", AT_SYMLINK_FOLLOW) != 0;
    failures += mknodat(place.get(), "null", S_IFCHR | 0666, 0x103) != 0;
    setfsgid(4321);
    setfsuid(4321);
    failures += mkdirat(place.get(), "made", 0700) != 0;
    setfsuid(0);
    setfsgid(0);
    failures += fchownat(file.get(), "", 99, 99, AT_EMPTY_PATH) != 0;
    return failures;
  });
  EXPECT_EQ(child.wait(), 0);
  struct stat made {};
  ASSERT_EQ(stat((directory_ + "/made").c_str(), &made), 0);
  EXPECT_EQ(made.st_uid, 4321U);
  EXPECT_EQ(made.st_gid, 4321U);
}

TEST_F(Sandbox, FsServerSeesNothingButItsDescriptors) {
  ConfinedChild child(fs_confinement(), [] {
    int failures = 0;
    failures += open("/proc/self/status", O_RDONLY) >= 0;
    failures += open("/proc/1/root", O_PATH) >= 0;
    failures += open("/proc/self/fd/../status", O_RDONLY) >= 0;
    failures += open("/proc/self/fd/../../1/status", O_RDONLY) >= 0;
    failures += open("/etc/passwd", O_RDONLY) >= 0;
    failures += mount("none", "/proc", "tmpfs", 0, nullptr) == 0;
    failures += setns(0, 0) == 0 || errno != EINVAL;
    return failures;
  });
  EXPECT_EQ(child.wait(), 0);
}

// An unprivileged user's kiln: the same, by way of a user namespace.
TEST_F(Sandbox, UnprivilegedVmmStaysWhoItIsAndGetsTheRest) {
  const pid_t middle = fork();
  if (middle == 0) {
    const bool became = setresgid(1234, 1234, 1234) == 0 && setresuid(1234, 1234, 1234) == 0 &&
                        prctl(PR_SET_DUMPABLE, 1) == 0;
    if (!became) _exit(1);
    const auto entered = enter(vmm_confinement());
    if (!entered && entered.error().kind == ErrorKind::kFailedPrecondition) _exit(2);
    if (!entered) {
      dprintf(STDERR_FILENO, "%s\n", entered.error().message.c_str());
      _exit(1);
    }
    int failures = 0;
    failures += getuid() != 1234 || getgid() != 1234;
    failures += !std::filesystem::is_empty("/");
    failures += if_nametoindex("lo") != 1;
    failures += prctl(PR_CAPBSET_READ, CAP_CHOWN) != 0;
    failures += has_capability(CAP_SYS_ADMIN);
    _exit(failures == 0 ? 0 : 3);
  }
  int status = 0;
  ASSERT_EQ(waitpid(middle, &status, 0), middle);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "unprivileged users get no user namespaces here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace kiln::vmm
