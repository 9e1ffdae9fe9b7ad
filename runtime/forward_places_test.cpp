// SPDX-License-Identifier: Apache-2.0
#include "runtime/forward_places.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/temporary_directory.h"
#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

class ForwardPlacesTest : public testing::Test {
 protected:
  ForwardPlacesTest() {
    fs::create_directory(directory_ / "rootfs");
    fs::create_directory(directory_ / "data");
    fs::create_directory(directory_ / "data/sub");
    std::ofstream(directory_ / "data/file") << "x";
    inside_ = *listen_unix(directory_ / "data/sub/s");
    alone_ = *listen_unix(directory_ / "alone");
    spec_.root.emplace().path = "rootfs";
  }
  void mount(const std::string& destination, const std::string& type, const std::string& source,
             oci::Strings options = {}) {
    oci::Mount mount;
    mount.destination = destination;
    mount.type = type;
    mount.source = source;
    mount.options = std::move(options);
    spec_.mounts.push_back(std::move(mount));
  }
  void bind(const std::string& destination, const std::string& source, bool read_only = false) {
    mount(destination, "bind", directory_ / source,
          read_only ? oci::Strings{"bind", "ro"} : oci::Strings{"bind"});
  }
  Result<ForwardPlaces> find(const std::string& value) {
    Shares shares = *open_shares(spec_, directory_, RootKind::kPlain);
    return find_forwards(value.empty() ? std::vector<Forward>() : *parse_forwards(value), spec_,
                         shares);
  }
  // `DIR` stands for the directory.
  void expect_error(const std::string& value, std::string message) {
    const auto found = find(value);
    ASSERT_FALSE(found);
    for (size_t at = 0; (at = message.find("DIR", at)) != std::string::npos;)
      message.replace(at, 3, directory_);
    EXPECT_EQ(found.error().message, message);
  }

  TemporaryDirectory made_ = *TemporaryDirectory::create("/tmp", "places-");
  fs::path directory_ = made_.path();
  UniqueFd inside_;
  UniqueFd alone_;
  oci::Spec spec_;
};

TEST_F(ForwardPlacesTest, FindsASocketThatIsMountedItself) {
  bind("/run/alone.sock/", "alone");
  chmod((directory_ / "alone").c_str(), 0640);
  const auto found = find("/run/alone.sock");
  ASSERT_TRUE(found) << found.error().message;
  ASSERT_EQ(found->sockets.size(), 1U);
  EXPECT_EQ(found->sockets[0].mount, 0U);
  EXPECT_EQ(found->sockets[0].mode, 0640U);
  EXPECT_TRUE(found->sockets[0].file);
}

TEST_F(ForwardPlacesTest, FindsOneInASharedDirectory) {
  mount("/x", "tmpfs", "tmpfs");
  bind("/x/data", "data", true);
  const auto found = find("/x/data/sub/s");
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_FALSE(found->sockets.at(0).mount);
  EXPECT_EQ(found->sockets[0].path, "/x/data/sub/s");
}

TEST_F(ForwardPlacesTest, FindsThePlaceOfWhatTheContainerServes) {
  bind("/data", "data");
  const auto found = find("serve:/any/where=/data/sub/new,serve:/b=/data/top");
  ASSERT_TRUE(found) << found.error().message;
  ASSERT_EQ(found->served.size(), 2U);
  EXPECT_EQ(found->served[0].place.share, directory_ / "data");
  EXPECT_EQ(found->served[0].place.below, "sub");
  EXPECT_EQ(found->served[0].place.name, "new");
  EXPECT_EQ(found->served[1].place.below, ".");
}

TEST_F(ForwardPlacesTest, TheLastMountCounts) {
  bind("/data", "data");
  mount("/data/sub", "tmpfs", "tmpfs");
  expect_error("/data/sub/s",
               "annotation `io.kiln.vsock-forward`: `/data/sub/s`: `/data/sub/s` lies in no bind "
               "mount");
}

TEST_F(ForwardPlacesTest, ASocketThatNobodyNamedNeedsTheAnnotation) {
  bind("/run/alone.sock", "alone");
  expect_error("",
               "mount `/run/alone.sock`: `DIR/alone` is a socket of the host, which nothing in a "
               "VM can connect to: needs the annotation io.kiln.vsock-forward: /run/alone.sock");
}

TEST_F(ForwardPlacesTest, ErrorsNameTheAnnotationAndTheEntry) {
  bind("/data", "data");
  bind("/ro", "data", true);
  const std::string name = "annotation `io.kiln.vsock-forward`: ";
  expect_error("/datax/s", name + "`/datax/s`: `/datax/s` lies in no bind mount");
  expect_error("/data", name + "`/data`: `DIR/data` of the host is no socket");
  expect_error("/data/file", name + "`/data/file`: `DIR/data/file` of the host is no socket");
  expect_error("/data/lost", name +
                                 "`/data/lost`: find the socket in `DIR/data`: open `lost`: No "
                                 "such file or directory");
  expect_error("serve:/a=/tmp/s", name + "`serve:/a=/tmp/s`: `/tmp/s` lies in no bind mount");
  expect_error("serve:/a=/data", name + "`serve:/a=/data`: `/data` is a mount point itself");
  expect_error("serve:/a=/ro/s",
               name + "`serve:/a=/ro/s`: `/ro/s` lies in a mount that is read-only");
  expect_error("serve:/a=/data/no/s",
               name +
                   "`serve:/a=/data/no/s`: find its directory in `DIR/data`: "
                   "open `no`: No such file or directory");
}

TEST_F(ForwardPlacesTest, SymbolicLinksAreNotFollowed) {
  fs::create_symlink("sub/s", directory_ / "data/link");
  fs::create_directory_symlink("..", directory_ / "data/up");
  bind("/data", "data");
  EXPECT_FALSE(find("/data/link"));
  EXPECT_EQ(find("/data/up/alone").error().sys_errno, ELOOP);
  EXPECT_EQ(find("serve:/a=/data/up/new").error().sys_errno, ELOOP);
}

TEST_F(ForwardPlacesTest, SocketsOfOtherTypesAreRefusedByName) {
  const auto packets = listen_unix(directory_ / "data/packets", SOCK_SEQPACKET);
  bind("/data", "data");
  expect_error("/data/packets",
               "annotation `io.kiln.vsock-forward`: `/data/packets`: `DIR/data/packets` of the "
               "host is a socket of packets, and only streams can be carried into a VM");
}

TEST_F(ForwardPlacesTest, ServersDoNotNoticeTheLook) {
  bind("/data", "data");
  ASSERT_TRUE(find("/data/sub/s"));
  pollfd waiting{inside_.get(), POLLIN, 0};
  EXPECT_EQ(poll(&waiting, 1, 0), 0);
}

}  // namespace
}  // namespace kiln::runtime
