// SPDX-License-Identifier: Apache-2.0
// On a real cgroup v2 hierarchy, of this host; skipped where there is none to write to.
#include "agent/container/cgroup.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <new>

#include "agent/container/cgroup_directory.h"
#include "agent/container/forked_child.h"
#include "base/file.h"
#include "base/format.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

constexpr long kCgroup2Magic = 0x63677270;

std::string find_hierarchy() {
  for (const char* root : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
    struct statfs stats {};
    if (::statfs(root, &stats) == 0 && stats.f_type == kCgroup2Magic && ::access(root, W_OK) == 0)
      return root;
  }
  return {};
}

// A root of its own below the host's, so that <root>/kiln is the test's.
class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string hierarchy = find_hierarchy();
    if (hierarchy.empty() || ::geteuid() != 0)
      GTEST_SKIP() << "needs root and a writable cgroup v2 hierarchy";
    const std::string root = fmt::format("{}/kiln-test-{}", hierarchy, ::getpid());
    if (::mkdir(root.c_str(), 0755) != 0)
      GTEST_SKIP() << "cannot make a cgroup here: " << std::strerror(errno);
    root_ = root;
  }

  void TearDown() override {
    for (const pid_t child : children_) {
      ::kill(child, SIGKILL);
      ::waitpid(child, nullptr, 0);
    }
    if (root_.empty()) return;
    const auto fd = open_file(root_, O_RDONLY | O_DIRECTORY);
    EXPECT_TRUE(fd && remove_cgroups_below(fd->get()));
    EXPECT_EQ(::rmdir(root_.c_str()), 0);
  }

  Result<Cgroup> create(const oci::Spec& spec = {}) { return Cgroup::create("c1", spec, root_); }

  // A process that sleeps until a signal ends it. SIGUSR2 it handles, by ending of SIGUSR1.
  pid_t start_sleeper() {
    // Before fork, so that the child has it from its first moment.
    ::signal(SIGUSR2, [](int) { ::raise(SIGUSR1); });
    const pid_t child = ::fork();
    if (child != 0) ::signal(SIGUSR2, SIG_DFL);
    if (child == 0) {
      while (true) ::pause();
    }
    children_.push_back(child);
    return child;
  }

  // The signal that ended a child.
  int signal_of(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    children_.erase(std::find(children_.begin(), children_.end(), child));
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }

  bool exists(const std::string& path) { return ::access((root_ + path).c_str(), F_OK) == 0; }

  std::string root_;
  std::vector<pid_t> children_;
};

TEST_F(CgroupTest, IsMadeAndRemoved) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  EXPECT_TRUE(exists("/kiln/c1/cgroup.procs"));
  EXPECT_TRUE(cgroup->remove());
  EXPECT_FALSE(exists("/kiln/c1"));
  EXPECT_TRUE(cgroup->remove());
}

TEST_F(CgroupTest, AnUpdateOfNothingIsNoError) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  EXPECT_TRUE(cgroup->update({}));
  EXPECT_TRUE(cgroup->remove());
}

TEST_F(CgroupTest, RemovesNestedCgroups) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  for (const char* below : {"/kiln/c1/a", "/kiln/c1/a/b", "/kiln/c1/a/b/c", "/kiln/c1/d"})
    ASSERT_EQ(::mkdir((root_ + below).c_str(), 0755), 0);
  EXPECT_TRUE(cgroup->remove());
  EXPECT_FALSE(exists("/kiln/c1"));
}

TEST_F(CgroupTest, LetsNobodyNestBeyondWhatTheAgentWalks) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  std::string path = root_ + "/kiln/c1";
  int depth = 0;
  while (depth < 2 * kMaxCgroupDepth && ::mkdir((path += "/d").c_str(), 0755) == 0) ++depth;
  EXPECT_EQ(depth, kMaxCgroupDepth);
  EXPECT_TRUE(cgroup->processes());
  EXPECT_TRUE(cgroup->remove());
}

TEST_F(CgroupTest, ReplacesALeftoverWithoutProcesses) {
  ASSERT_TRUE(create());
  ASSERT_EQ(::mkdir((root_ + "/kiln/c1/old").c_str(), 0755), 0);
  EXPECT_TRUE(create());
  EXPECT_FALSE(exists("/kiln/c1/old"));
}

TEST_F(CgroupTest, LeavesALeftoverWithProcessesAlone) {
  auto first = create();
  ASSERT_TRUE(first);
  ASSERT_TRUE(first->add(start_sleeper()));
  const auto second = create();
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().message, "remove cgroup `c1`: Device or resource busy");
  EXPECT_EQ(first->processes()->size(), 1U);
}

TEST_F(CgroupTest, RefusesAnIdThatIsAPath) {
  for (const char* id : {"", ".", "..", "a/b", "a b"})
    EXPECT_FALSE(Cgroup::create(id, oci::Spec(), root_)) << id;
}

TEST_F(CgroupTest, RefusesAHierarchyThatIsNotV2) {
  const auto cgroup = Cgroup::create("c1", oci::Spec(), "/proc");
  ASSERT_FALSE(cgroup);
  EXPECT_EQ(cgroup.error().message, "`/proc`: is not a cgroup v2 hierarchy");
}

TEST_F(CgroupTest, NamesTheControllerThatIsMissingAndLeavesNothing) {
  oci::Spec spec;
  spec.linux.resources = oci::Resources{.unified = {{"nothing.max", "1"}}};
  const auto cgroup = create(spec);
  ASSERT_FALSE(cgroup);
  EXPECT_EQ(cgroup.error().message,
            "linux.resources.unified `nothing.max`: the guest's kernel has no cgroup controller "
            "`nothing`");
  EXPECT_FALSE(exists("/kiln/c1"));
}

TEST_F(CgroupTest, SetsWhatUnifiedNames) {
  oci::Spec spec;
  spec.linux.resources = oci::Resources{.unified = {{"cgroup.max.descendants", "7"}}};
  ASSERT_TRUE(create(spec));
  EXPECT_EQ(read_file(root_ + "/kiln/c1/cgroup.max.descendants").value(), "7\n");
}

TEST_F(CgroupTest, SaysWhichValueTheKernelRefuses) {
  oci::Spec spec;
  spec.linux.resources = oci::Resources{.unified = {{"cgroup.max.descendants", "x"}}};
  EXPECT_EQ(create(spec).error().message,
            "linux.resources.unified `cgroup.max.descendants` `x`: write `cgroup.max.descendants`: "
            "Invalid argument");
}

TEST_F(CgroupTest, RefusesIntelRdt) {
  oci::Spec spec;
  spec.linux.intel_rdt = oci::IntelRdt{.clos_id = "x"};
  EXPECT_EQ(create(spec).error().message,
            "linux.intelRdt: a microVM cannot steer the host's caches");
}

TEST_F(CgroupTest, ListsProcessesOfNestedCgroupsToo) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  const pid_t outer = start_sleeper();
  const pid_t inner = start_sleeper();
  ASSERT_TRUE(cgroup->add(outer));
  ASSERT_EQ(::mkdir((root_ + "/kiln/c1/sub").c_str(), 0755), 0);
  ASSERT_TRUE(write_file(root_ + "/kiln/c1/sub/cgroup.procs", fmt::format("{}", inner)));
  auto pids = cgroup->processes().value();
  std::sort(pids.begin(), pids.end());
  EXPECT_EQ(pids, (std::vector<pid_t>{std::min(outer, inner), std::max(outer, inner)}));
  EXPECT_TRUE(cgroup->populated().value());
}

TEST_F(CgroupTest, SignalsEveryProcess) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  const pid_t first = start_sleeper();
  const pid_t second = start_sleeper();
  ASSERT_TRUE(cgroup->add(first));
  ASSERT_TRUE(cgroup->add(second));
  EXPECT_TRUE(cgroup->signal_all(SIGUSR1));
  EXPECT_EQ(signal_of(first), SIGUSR1);
  EXPECT_EQ(signal_of(second), SIGUSR1);
}

// A signal that nobody handles ends a frozen process at once, as SIGKILL does.
TEST_F(CgroupTest, HandledSignalsWhileFrozenAreDeliveredOnThaw) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  const pid_t child = start_sleeper();
  ASSERT_TRUE(cgroup->add(child));
  ASSERT_TRUE(cgroup->freeze(true));
  EXPECT_TRUE(cgroup->signal_all(SIGUSR2));
  EXPECT_EQ(read_file(root_ + "/kiln/c1/cgroup.freeze").value(), "1\n");
  EXPECT_EQ(::waitpid(child, nullptr, WNOHANG), 0);
  EXPECT_TRUE(cgroup->freeze(false));
  EXPECT_EQ(signal_of(child), SIGUSR1);
}

TEST_F(CgroupTest, FreezesBeforeItReturns) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  ASSERT_TRUE(cgroup->add(start_sleeper()));
  ASSERT_TRUE(cgroup->freeze(true));
  EXPECT_NE(read_file(root_ + "/kiln/c1/cgroup.events")->find("frozen 1"), std::string::npos);
  ASSERT_TRUE(cgroup->freeze(false));
  EXPECT_NE(read_file(root_ + "/kiln/c1/cgroup.events")->find("frozen 0"), std::string::npos);
}

TEST_F(CgroupTest, KillsFrozenProcessesOfNestedCgroups) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  const pid_t child = start_sleeper();
  ASSERT_EQ(::mkdir((root_ + "/kiln/c1/sub").c_str(), 0755), 0);
  ASSERT_TRUE(write_file(root_ + "/kiln/c1/sub/cgroup.procs", fmt::format("{}", child)));
  ASSERT_TRUE(cgroup->freeze(true));
  EXPECT_TRUE(cgroup->signal_all(SIGKILL));
  EXPECT_EQ(signal_of(child), SIGKILL);
  EXPECT_TRUE(cgroup->remove());
}

TEST_F(CgroupTest, WithoutMemoryControllerThereAreNoOomKills) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  const auto controllers = read_file(root_ + "/kiln/c1/cgroup.controllers").value();
  EXPECT_EQ(cgroup->memory_events_fd() >= 0, has_word(controllers, "memory"));
  EXPECT_EQ(cgroup->oom_kills().value(), 0U);
}

// What the kernel does with the limits; for hosts, and guests, whose v2 hierarchy has the
// controller.
class CgroupLimits : public CgroupTest {
 protected:
  // The controllers that a cgroup gets here; the test's own root hands on all that it has.
  bool has(const char* controller) {
    const auto hierarchy = find_hierarchy();
    const auto available = read_file(hierarchy + "/cgroup.controllers");
    (void)write_file(hierarchy + "/cgroup.subtree_control", fmt::format("+{}", controller));
    return available && has_word(*available, controller);
  }

  std::string content(const char* file) {
    const auto text = read_file(root_ + "/kiln/c1/" + file);
    return text ? *text : text.error().message;
  }

  static oci::Spec with(oci::Resources resources) {
    oci::Spec spec;
    spec.linux.resources = std::move(resources);
    return spec;
  }
};

#define NEEDS_CONTROLLER(name) \
  if (!has(name)) GTEST_SKIP() << "this host's cgroup v2 hierarchy has no controller " << name

TEST_F(CgroupLimits, MemoryHogIsKilledAndCounted) {
  NEEDS_CONTROLLER("memory");
  constexpr size_t limit = 32 << 20;
  auto cgroup = create(with({.memory = oci::MemoryResources{.limit = limit, .swap = limit}}));
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  EXPECT_EQ(content("memory.max"), fmt::format("{}\n", limit));
  pollfd events{.fd = cgroup->memory_events_fd(), .events = POLLPRI, .revents = 0};
  const int status = status_of_child([&] {
    if (!cgroup->add(::getpid())) return 98;
    for (size_t used = 0; used < 4 * limit; used += 1 << 20)
      std::memset(::operator new(1 << 20), 1, 1 << 20);
    return 0;
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(::poll(&events, 1, 1000), 1);
  EXPECT_EQ(cgroup->oom_kills().value(), 1U);
}

TEST_F(CgroupLimits, ForksStopAtThePidsLimit) {
  NEEDS_CONTROLLER("pids");
  auto cgroup = create(with({.pids = oci::PidsResources{.limit = 3}}));
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  const int forks = exit_code_of_child([&] {
    if (!cgroup->add(::getpid())) return 98;
    for (int made = 0; made < 50; ++made) {
      const pid_t child = ::fork();
      if (child < 0) return errno == EAGAIN ? made : 99;
      if (child == 0)
        while (true) ::pause();
    }
    return 97;
  });
  EXPECT_EQ(forks, 2);
  EXPECT_TRUE(cgroup->kill());
  EXPECT_TRUE(cgroup->remove());
}

TEST_F(CgroupLimits, CpuSettingsAreInForce) {
  NEEDS_CONTROLLER("cpu");
  auto cgroup = create(with(
      {.cpu = oci::CpuResources{.shares = 512, .quota = 20000, .burst = 1000, .period = 50000}}));
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  EXPECT_EQ(content("cpu.weight"), "20\n");
  EXPECT_EQ(content("cpu.max"), "20000 50000\n");
  EXPECT_EQ(content("cpu.max.burst"), "1000\n");
  ASSERT_TRUE(cgroup->lift_cpu_quota());
  EXPECT_EQ(content("cpu.max"), "max 50000\n");
  ASSERT_TRUE(cgroup->restore_cpu_quota());
  EXPECT_EQ(content("cpu.max"), "20000 50000\n");
}

TEST_F(CgroupLimits, IdleGoesTogetherWithShares) {
  NEEDS_CONTROLLER("cpu");
  ASSERT_TRUE(create(with({.cpu = oci::CpuResources{.shares = 512, .idle = 1}})));
  EXPECT_EQ(content("cpu.idle"), "1\n");
}

TEST_F(CgroupLimits, CpusetIsInForce) {
  NEEDS_CONTROLLER("cpuset");
  const auto cgroup = create(with({.cpu = oci::CpuResources{.cpus = "0", .mems = "0"}}));
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  EXPECT_EQ(content("cpuset.cpus.effective"), "0\n");
  EXPECT_EQ(content("cpuset.mems.effective"), "0\n");
}

TEST_F(CgroupLimits, BlockWeightIsInForceInWhicheverFileTheKernelHas) {
  NEEDS_CONTROLLER("io");
  const auto cgroup = create(with({.block_io = oci::BlockIoResources{.weight = 500}}));
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  EXPECT_TRUE(content("io.weight") == "default 4950\n" ||
              content("io.bfq.weight") == "default 500\n");
}

TEST_F(CgroupLimits, MemoryReservationAndSwapAreInForce) {
  NEEDS_CONTROLLER("memory");
  const auto cgroup = create(with({.memory = oci::MemoryResources{.limit = 64 << 20,
                                                                  .reservation = 16 << 20,
                                                                  .swap = 80 << 20,
                                                                  .check_before_update = true}}));
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  EXPECT_EQ(content("memory.low"), fmt::format("{}\n", 16 << 20));
  EXPECT_EQ(content("memory.swap.max"), fmt::format("{}\n", 16 << 20));
}

TEST_F(CgroupLimits, ThrottlingADeviceThatIsNotThereIsAnError) {
  NEEDS_CONTROLLER("io");
  const auto cgroup =
      create(with({.block_io = oci::BlockIoResources{
                       .throttle_read_bps_device = {{.major = 250, .minor = 77, .rate = 1000}}}}));
  ASSERT_FALSE(cgroup);
  EXPECT_EQ(cgroup.error().message,
            "linux.resources.blockIO.throttleReadBpsDevice `250:77 rbps=1000`: write `io.max`: No "
            "such device");
}

TEST_F(CgroupLimits, HugePagesAreLimited) {
  NEEDS_CONTROLLER("hugetlb");
  const auto cgroup = create(with({.hugepage_limits = {{.page_size = "2MB", .limit = 4 << 20}}}));
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  EXPECT_EQ(content("hugetlb.2MB.max"), fmt::format("{}\n", 4 << 20));
  EXPECT_EQ(content("hugetlb.2MB.rsvd.max"), fmt::format("{}\n", 4 << 20));
}

TEST_F(CgroupLimits, PageSizeThatTheKernelLacksIsAnError) {
  NEEDS_CONTROLLER("hugetlb");
  const auto cgroup = create(with({.hugepage_limits = {{.page_size = "3MB", .limit = 1}}}));
  ASSERT_FALSE(cgroup);
  EXPECT_EQ(cgroup.error().message,
            "linux.resources.hugepageLimits: the guest's kernel has no cgroup file "
            "`hugetlb.3MB.max`");
}

TEST_F(CgroupLimits, NewProcessGoesBesideItsNeighbourOnceTheContainerNests) {
  NEEDS_CONTROLLER("pids");
  // Its own root: /proc shows paths from the hierarchy's, and the object knows only <root>/kiln.
  auto cgroup = Cgroup::create(fmt::format("nest-{}", ::getpid()), oci::Spec(), find_hierarchy());
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  const pid_t child = start_sleeper();
  ASSERT_EQ(::mkdirat(cgroup->fd(), "inner", 0755), 0);
  const UniqueFd inner = open_cgroup(cgroup->fd(), "inner").value();
  ASSERT_TRUE(write_cgroup_file(inner.get(), "cgroup.procs", fmt::format("{}", child)));
  ASSERT_TRUE(write_cgroup_file(cgroup->fd(), "cgroup.subtree_control", "+pids"));
  const auto fd = cgroup->fd_for_new_process(child);
  EXPECT_TRUE(fd &&
              write_cgroup_file(fd->get(), "cgroup.procs", fmt::format("{}", start_sleeper())));
  EXPECT_EQ(cgroup->processes()->size(), 2U);
  EXPECT_TRUE(cgroup->kill());
  EXPECT_TRUE(cgroup->remove());
}

TEST_F(CgroupTest, DeniesDevicesThatAreNotAllowed) {
  oci::Spec spec;
  spec.linux.resources = oci::Resources{};
  // /dev/kmsg is 1:11.
  spec.linux.resources->devices = {
      {.allow = false, .access = "rwm"},
      {.allow = true, .type = "c", .major = 1, .minor = 11, .access = "r"}};
  auto cgroup = create(spec);
  ASSERT_TRUE(cgroup) << cgroup.error().message;
  const std::string node = fmt::format("/tmp/kiln-kmsg-{}", ::getpid());
  ASSERT_EQ(::mknod(node.c_str(), S_IFCHR | 0600, makedev(1, 11)), 0);
  const int code = exit_code_of_child([&] {
    if (!cgroup->add(::getpid())) return 98;
    const auto denied = [](const std::string& path, int flags) {
      const UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC));
      return !fd && errno == EPERM;
    };
    if (denied("/dev/null", O_RDWR)) return 1;
    if (!denied(node, O_WRONLY)) return 2;
    if (denied(node, O_RDONLY | O_NONBLOCK)) return 3;
    return 0;
  });
  ::unlink(node.c_str());
  EXPECT_EQ(code, 0);
}

TEST_F(CgroupTest, GivesNewProcessesTheCgroupItself) {
  auto cgroup = create();
  ASSERT_TRUE(cgroup);
  const auto fd = cgroup->fd_for_new_process(::getpid());
  ASSERT_TRUE(fd);
  struct stat own {};
  struct stat given {};
  ::fstat(cgroup->fd(), &own);
  ::fstat(fd->get(), &given);
  EXPECT_EQ(own.st_ino, given.st_ino);
}

TEST(HasWord, FindsWholeWordsOnly) {
  EXPECT_TRUE(has_word("cpu io memory\n", "memory"));
  EXPECT_TRUE(has_word("cpu", "cpu"));
  EXPECT_FALSE(has_word("cpuset io\n", "cpu"));
  EXPECT_FALSE(has_word("", "cpu"));
}

TEST(KeyedNumber, ReadsTheLineOfThatKey) {
  EXPECT_EQ(keyed_number("oom 1\noom_kill 23\n", "oom_kill").value(), 23U);
  EXPECT_EQ(keyed_number("oom_kill 23\noom 1\n", "oom").value(), 1U);
  EXPECT_FALSE(keyed_number("oom_kill 23", "frozen"));
  EXPECT_FALSE(keyed_number("frozen x\n", "frozen"));
}

}  // namespace
}  // namespace kiln::agent
