// SPDX-License-Identifier: Apache-2.0
#include "shim/address.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/temporary_directory.h"
#include "base/unix_socket.h"

namespace kiln::shim {
namespace {

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

TEST(Address, EachGroupHasItsOwn) {
  const std::string path = socket_path("/run/s", "/run/c.sock", "default", "pod");
  EXPECT_EQ(path, socket_path("/run/s", "/run/c.sock", "default", "pod"));
  EXPECT_NE(path, socket_path("/run/s", "/run/c.sock", "default", "other"));
  EXPECT_NE(path, socket_path("/run/s", "/run/c.sock", "k8s.io", "pod"));
  EXPECT_NE(path, socket_path("/run/s", "/run/d.sock", "default", "pod"));
  EXPECT_TRUE(path.starts_with("/run/s/"));
}

TEST(Address, IsShortWhateverTheNames) {
  const std::string path =
      socket_path(kSocketDirectory, std::string(4096, 'a'), std::string(76, 'n'), "pod");
  EXPECT_LT(path.size(), 108U);
}

TEST(Address, LosesItsScheme) {
  EXPECT_EQ(without_scheme("unix:///run/s"), "/run/s");
  EXPECT_EQ(without_scheme("/run/s"), "/run/s");
  EXPECT_EQ(without_scheme(""), "");
}

TEST(Address, OnlyADeadSocketIsRemoved) {
  const auto directory = *TemporaryDirectory::create(testing::TempDir(), "address-");
  const std::string path = directory.path() + "/s";
  UniqueFd listener = *listen_unix(path);
  EXPECT_TRUE(is_served(path));
  EXPECT_EQ(socket_of(listener.get()), path);
  remove_dead_socket(path);
  EXPECT_TRUE(exists(path));
  listener.reset();
  EXPECT_FALSE(is_served(path));
  remove_dead_socket(path);
  EXPECT_FALSE(exists(path));
  remove_dead_socket(path);
}

TEST(Address, WhatIsNoSocketHasNone) {
  const auto pair = *socket_pair(SOCK_STREAM);
  EXPECT_EQ(socket_of(pair.first.get()), "");
  EXPECT_EQ(socket_of(-1), "");
  UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(socket_of(null.get()), "");
}

}  // namespace
}  // namespace kiln::shim
