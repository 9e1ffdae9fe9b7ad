// SPDX-License-Identifier: Apache-2.0
#include "agent/container/devices.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <climits>

#include "agent/container/forked_child.h"
#include "base/file.h"
#include "base/format.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

// A root file system in a temporary directory, on a tmpfs of a child's own mount namespace, so that
// nothing is left and nodes work wherever the tests run.
class DevicesTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: makes device nodes";
  }

  // 0 if `check` holds after create_devices in a root file system that `prepare` has furnished.
  static int in_rootfs(const oci::Spec& spec, const std::function<bool()>& prepare,
                       const std::function<bool(const Result<void>&)>& check) {
    return exit_code_of_child([&] {
      if (::unshare(CLONE_NEWNS) != 0 ||
          ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
          ::mount("tmpfs", "/mnt", "tmpfs", 0, "") != 0 || ::chdir("/mnt") != 0 ||
          ::mkdir("root", 0755) != 0 || ::mkdir("outside", 0755) != 0 || ::chdir("root") != 0)
        return 98;
      if (prepare && !prepare()) return 97;
      const UniqueFd root(::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
      const auto created = create_devices(root.get(), spec);
      if (!created) std::fprintf(stderr, "%s\n", created.error().message.c_str());
      return check(created) ? 0 : 1;
    });
  }

  static bool is_device(const char* path, unsigned major, unsigned minor, mode_t mode,
                        uid_t uid = 0, gid_t gid = 0) {
    struct stat status {};
    return ::lstat(path, &status) == 0 && status.st_rdev == makedev(major, minor) &&
           status.st_mode == mode && status.st_uid == uid && status.st_gid == gid;
  }

  static std::string link_of(const char* path) {
    char target[PATH_MAX];
    const ssize_t size = ::readlink(path, target, sizeof target);
    return size < 0 ? "" : std::string(target, static_cast<size_t>(size));
  }

  static oci::Spec with_device(oci::Device device) {
    oci::Spec spec;
    spec.linux.devices = {std::move(device)};
    return spec;
  }
};

TEST_F(DevicesTest, DefaultsAreThereWithModesThatNoUmaskCuts) {
  EXPECT_EQ(in_rootfs(
                {},
                [] {
                  ::umask(0077);
                  return true;
                },
                [](const Result<void>& created) {
                  return created && is_device("dev/null", 1, 3, S_IFCHR | 0666) &&
                         is_device("dev/zero", 1, 5, S_IFCHR | 0666) &&
                         is_device("dev/full", 1, 7, S_IFCHR | 0666) &&
                         is_device("dev/random", 1, 8, S_IFCHR | 0666) &&
                         is_device("dev/urandom", 1, 9, S_IFCHR | 0666) &&
                         is_device("dev/tty", 5, 0, S_IFCHR | 0666);
                }),
            0);
}

TEST_F(DevicesTest, SymbolicLinksAreThere) {
  EXPECT_EQ(in_rootfs({}, nullptr,
                      [](const Result<void>& created) {
                        return created && link_of("dev/fd") == "/proc/self/fd" &&
                               link_of("dev/stdin") == "/proc/self/fd/0" &&
                               link_of("dev/stdout") == "/proc/self/fd/1" &&
                               link_of("dev/stderr") == "/proc/self/fd/2" &&
                               link_of("dev/ptmx") == "pts/ptmx";
                      }),
            0);
}

TEST_F(DevicesTest, ConfiguredDeviceHasItsModeAndOwner) {
  const auto spec = with_device({.type = "b",
                                 .path = "/dev/deep/er/disk",
                                 .major = 8,
                                 .minor = 17,
                                 .file_mode = S_IFBLK | 0640,
                                 .uid = 11,
                                 .gid = 22});
  EXPECT_EQ(in_rootfs(spec, nullptr,
                      [](const Result<void>& created) {
                        return created &&
                               is_device("dev/deep/er/disk", 8, 17, S_IFBLK | 0640, 11, 22);
                      }),
            0);
}

TEST_F(DevicesTest, ConfiguredPipeIsOne) {
  const auto spec = with_device({.type = "p", .path = "/pipe", .file_mode = 0600});
  EXPECT_EQ(in_rootfs(spec, nullptr,
                      [](const Result<void>& created) {
                        struct stat status {};
                        return created && ::lstat("pipe", &status) == 0 &&
                               status.st_mode == (S_IFIFO | 0600);
                      }),
            0);
}

TEST_F(DevicesTest, ConfiguredDefaultGetsTheConfiguredMode) {
  const auto spec = with_device(
      {.type = "c", .path = "/dev/null", .major = 1, .minor = 3, .file_mode = 0600, .uid = 5});
  EXPECT_EQ(in_rootfs(spec, nullptr,
                      [](const Result<void>& created) {
                        return created && is_device("dev/null", 1, 3, S_IFCHR | 0600, 5);
                      }),
            0);
}

TEST_F(DevicesTest, FilesInThePlaceOfDevicesAreReplaced) {
  EXPECT_EQ(in_rootfs(
                {},
                [] {
                  return ::mkdir("dev", 0755) == 0 && ::symlink("/etc/passwd", "dev/null") == 0 &&
                         ::mknod("dev/zero", S_IFREG | 0600, 0) == 0 &&
                         ::mknod("dev/ptmx", S_IFCHR | 0666, makedev(5, 2)) == 0;
                },
                [](const Result<void>& created) {
                  return created && is_device("dev/null", 1, 3, S_IFCHR | 0666) &&
                         is_device("dev/zero", 1, 5, S_IFCHR | 0666) &&
                         link_of("dev/ptmx") == "pts/ptmx";
                }),
            0);
}

TEST_F(DevicesTest, LinkForDevCannotLeadOutOfTheRoot) {
  EXPECT_EQ(in_rootfs(
                {}, [] { return ::symlink("../outside", "dev") == 0; },
                [](const Result<void>& created) {
                  return created && ::access("../outside/null", F_OK) != 0 &&
                         is_device("outside/null", 1, 3, S_IFCHR | 0666);
                }),
            0);
}

TEST_F(DevicesTest, WhatIsMountedThereStays) {
  EXPECT_EQ(in_rootfs(
                {},
                [] {
                  return ::mkdir("dev", 0755) == 0 && ::mknod("dev/null", S_IFREG | 0600, 0) == 0 &&
                         ::mount("/dev/zero", "dev/null", nullptr, MS_BIND, nullptr) == 0;
                },
                [](const Result<void>& created) {
                  struct stat status {};
                  return created && ::lstat("dev/null", &status) == 0 &&
                         status.st_rdev == makedev(1, 5);
                }),
            0);
}

TEST_F(DevicesTest, OwnDevOfTheConfigIsLeftAlone) {
  oci::Spec spec;
  spec.mounts = {{.destination = "/dev/", .source = "/x", .options = {"rbind"}}};
  EXPECT_EQ(
      in_rootfs(spec, nullptr,
                [](const Result<void>& created) { return created && ::access("dev", F_OK) != 0; }),
      0);
}

TEST_F(DevicesTest, InAUserNamespaceTheGuestsNodesAreBound) {
  oci::Spec spec = with_device({.type = "c", .path = "/dev/nothing", .major = 1, .minor = 3});
  spec.linux.namespaces = {{.type = "user"}};
  EXPECT_EQ(in_rootfs(spec, nullptr,
                      [](const Result<void>& created) {
                        struct stat host {};
                        struct stat bound {};
                        struct stat root {};
                        return created && ::stat("/dev/null", &host) == 0 &&
                               ::stat("dev/null", &bound) == 0 && ::stat(".", &root) == 0 &&
                               host.st_dev == bound.st_dev && host.st_ino == bound.st_ino &&
                               bound.st_dev != root.st_dev && ::stat("dev/nothing", &bound) == 0 &&
                               bound.st_rdev == makedev(1, 3);
                      }),
            0);
}

TEST_F(DevicesTest, DeviceThatTheGuestLacksCannotBeBound) {
  oci::Spec spec = with_device({.type = "c", .path = "/dev/nothing", .major = 4000, .minor = 3});
  spec.linux.namespaces = {{.type = "user"}};
  EXPECT_EQ(in_rootfs(spec, nullptr,
                      [](const Result<void>& created) {
                        return !created &&
                               created.error().message ==
                                   "linux.devices `/dev/nothing`: the guest has no device c 4000:3";
                      }),
            0);
}

TEST_F(DevicesTest, NumbersThatAreNoneAreRefused) {
  const auto spec = with_device({.type = "c", .path = "/dev/x", .major = 4096, .minor = 0});
  EXPECT_EQ(in_rootfs(spec, nullptr,
                      [](const Result<void>& created) {
                        return !created && created.error().message ==
                                               "linux.devices `/dev/x`: 4096:0 is no device number";
                      }),
            0);
}

}  // namespace
}  // namespace kiln::agent
