// SPDX-License-Identifier: Apache-2.0
#include "runtime/resolv_conf.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "oci/parse.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDocker = "nameserver 127.0.0.11\noptions ndots:0\n";
constexpr const char* kOther = "nameserver 10.0.0.1\n";

TEST(ResolvConf, ReadsLinesAsTheResolverDoes) {
  const auto names = [](std::string_view text) { return names_server(text, "127.0.0.11"); };
  EXPECT_TRUE(names("nameserver 127.0.0.11"));
  EXPECT_TRUE(names("search example.org\nnameserver\t 127.0.0.11  \noptions edns0\n"));
  EXPECT_TRUE(names("nameserver 10.0.0.1\r\nnameserver 127.0.0.11\r\n"));
  EXPECT_TRUE(names("nameserver 127.0.0.11#comment\n"));
  EXPECT_FALSE(names(""));
  EXPECT_FALSE(names("nameserver 127.0.0.110\n"));
  EXPECT_FALSE(names("nameserver 127.0.0.1\n"));
  EXPECT_FALSE(names("#nameserver 127.0.0.11\n"));
  EXPECT_FALSE(names(" nameserver 127.0.0.11\n"));
  EXPECT_FALSE(names("nameserver127.0.0.11\n"));
  EXPECT_FALSE(names("nameserver\n127.0.0.11\n"));
  EXPECT_FALSE(names("nameserver"));
  EXPECT_FALSE(names("options 127.0.0.11\n"));
}

TEST(ResolvConf, FindsAndReplacesServersOnTheLoopbackInterface) {
  const char* text = "search a\nnameserver 10.0.0.1\nnameserver 127.0.0.53 # stub\nnameserver ::1";
  EXPECT_EQ(loopback_server(text), "127.0.0.53");
  EXPECT_EQ(loopback_server("nameserver 10.127.0.1\nnameserver 127.0.0.1x\n"), "");
  EXPECT_EQ(loopback_server("nameserver 127.8.9.1"), "127.8.9.1");
  EXPECT_EQ(replace_loopback_servers(text, "169.254.1.1"),
            "search a\nnameserver 10.0.0.1\nnameserver 169.254.1.1\nnameserver ::1\n");
}

class ResolvConfTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/kiln-resolv-XXXXXX";
    directory_ = mkdtemp(name.data());
    fs::create_directories(directory_ / "rootfs/etc");
  }
  void TearDown() override { fs::remove_all(directory_); }
  void write(const fs::path& path, const std::string& text) {
    std::ofstream(directory_ / path) << text;
  }
  void mount(const std::string& destination, const std::string& type, const fs::path& source) {
    oci::Mount mount;
    mount.destination = destination;
    mount.type = type;
    mount.source = source;
    if (type == "bind") mount.options = {"rbind"};
    spec_.mounts.push_back(mount);
  }
  ResolvConf open() {
    const auto shares = open_shares(spec_, directory_, RootKind::kPlain);
    EXPECT_TRUE(shares) << shares.error().message;
    return std::move(*ResolvConf::of(spec_, *shares));
  }
  bool names_docker() {
    const auto answer = open().names("127.0.0.11");
    EXPECT_TRUE(answer) << answer.error().message;
    return answer.value_or(false);
  }

  fs::path directory_;
  oci::Spec spec_ = [] {
    oci::Spec spec = oci::default_spec(false);
    spec.mounts.clear();
    spec.root->readonly = false;
    return spec;
  }();
};

TEST_F(ResolvConfTest, WithoutAMountIsTheRootFileSystems) {
  EXPECT_FALSE(names_docker());
  write("rootfs/etc/resolv.conf", kDocker);
  EXPECT_TRUE(names_docker());
}

TEST_F(ResolvConfTest, IsTheLastMountOnIt) {
  write("rootfs/etc/resolv.conf", kOther);
  write("one", kOther);
  write("two", kDocker);
  mount("/etc/resolv.conf", "bind", directory_ / "one");
  EXPECT_FALSE(names_docker());
  mount("/etc//./resolv.conf", "bind", directory_ / "two");
  EXPECT_TRUE(names_docker());
}

TEST_F(ResolvConfTest, IsInADirectoryThatIsMounted) {
  write("rootfs/etc/resolv.conf", kOther);
  fs::create_directory(directory_ / "etc");
  write("etc/resolv.conf", kDocker);
  mount("/etc", "bind", directory_ / "etc");
  EXPECT_TRUE(names_docker());
}

TEST_F(ResolvConfTest, ADirectoryBesideItDoesNotCount) {
  write("rootfs/etc/resolv.conf", kDocker);
  fs::create_directory(directory_ / "e");
  mount("/e", "bind", directory_ / "e");
  EXPECT_TRUE(names_docker());
}

TEST_F(ResolvConfTest, OnAFileSystemOfTheGuestsNamesNothing) {
  write("rootfs/etc/resolv.conf", kDocker);
  mount("/etc", "tmpfs", "tmpfs");
  EXPECT_FALSE(names_docker());
}

TEST_F(ResolvConfTest, IsReadAnewAndStaysTheSameFile) {
  write("one", kOther);
  mount("/etc/resolv.conf", "bind", directory_ / "one");
  const ResolvConf conf = open();
  EXPECT_FALSE(*conf.names("127.0.0.11"));
  write("one", kDocker);
  EXPECT_TRUE(*conf.names("127.0.0.11"));
  fs::remove(directory_ / "one");
  write("one", kOther);
  EXPECT_TRUE(*conf.names("127.0.0.11")) << "the container has the file that was mounted";
}

TEST_F(ResolvConfTest, LinksStayInsideOfTheRootFileSystem) {
  write("outside", kDocker);
  fs::create_symlink(directory_ / "outside", directory_ / "rootfs/etc/resolv.conf");
  EXPECT_FALSE(names_docker());
  fs::create_directory(directory_ / "rootfs/run");
  write("rootfs/run/stub.conf", kDocker);
  fs::remove(directory_ / "rootfs/etc/resolv.conf");
  fs::create_symlink("../../../run/stub.conf", directory_ / "rootfs/etc/resolv.conf");
  EXPECT_TRUE(names_docker());
}

TEST_F(ResolvConfTest, WhatIsNoFileIsNotOpened) {
  ASSERT_EQ(mkfifo((directory_ / "rootfs/etc/resolv.conf").c_str(), 0644), 0);
  EXPECT_FALSE(names_docker());
}

TEST_F(ResolvConfTest, AFileOfAnyLengthIsNotRead) {
  write("rootfs/etc/resolv.conf", std::string(100'000, '#') + "\n" + kDocker);
  const auto answer = open().names("127.0.0.11");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().kind, ErrorKind::kOutOfRange) << answer.error().message;
}

}  // namespace
}  // namespace kiln::runtime
