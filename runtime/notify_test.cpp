// SPDX-License-Identifier: Apache-2.0
#include "runtime/notify.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/file.h"
#include "base/temporary_directory.h"
#include "oci/parse.h"

namespace kiln::runtime {
namespace {

class NotifyTest : public testing::Test {
 protected:
  void listen_at(const std::string& name) {
    manager_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    ASSERT_LT(name.size(), sizeof address.sun_path);
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name.front() == '@') address.sun_path[0] = '\0';
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    ASSERT_EQ(bind(manager_.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
  }
  std::string hear() const {
    std::array<char, 8192> text{};
    const ssize_t got = recv(manager_.get(), text.data(), text.size(), 0);
    return got < 0 ? "nothing" : std::string(text.data(), static_cast<size_t>(got));
  }
  std::unique_ptr<NotifyRelay> relay(bool adds_main_pid = true) const {
    return *NotifyRelay::create(*loop_, {0, "notify.sock", path_, adds_main_pid}, getpid());
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "notify-");
  std::string path_ = directory_.path() + "/s";
  UniqueFd manager_;
};

TEST_F(NotifyTest, TellsReadinessOnceWithThePidToWatch) {
  listen_at(path_);
  const auto one = relay();
  ASSERT_TRUE(one->tell({"READY=1", "STATUS=up"}));
  EXPECT_TRUE(one->ready());
  EXPECT_EQ(hear(), "READY=1\nSTATUS=up\n");
  EXPECT_EQ(hear(), "MAINPID=" + std::to_string(getpid()) + "\n");
  ASSERT_TRUE(one->tell({"READY=1"}));
  EXPECT_EQ(hear(), "READY=1\n");
  EXPECT_EQ(hear(), "nothing");
}

TEST_F(NotifyTest, LeavesThePidToConmon) {
  listen_at(path_);
  const auto one = relay(false);
  ASSERT_TRUE(one->tell({"READY=1"}));
  EXPECT_EQ(hear(), "READY=1\n");
  EXPECT_EQ(hear(), "nothing");
}

TEST_F(NotifyTest, LeavesOutWhatIsNotTheGuestsToSay) {
  listen_at(path_);
  const auto one = relay();
  ASSERT_TRUE(one->tell({"MAINPID=1", "FDSTORE=1", "NOTIFYACCESS=all", "BARRIER=1", "", "READY"}));
  EXPECT_EQ(hear(), "nothing");
  ASSERT_TRUE(one->tell({"MAINPID=1", "WATCHDOG=1"}));
  EXPECT_EQ(hear(), "WATCHDOG=1\n");
  EXPECT_FALSE(one->ready());
}

TEST_F(NotifyTest, CutsAFloodButNotReadiness) {
  listen_at(path_);
  const auto one = relay();
  int heard = 0;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(one->tell({"STATUS=flood"}));
    heard += hear() == "nothing" ? 0 : 1;
  }
  EXPECT_LT(heard, 200);
  ASSERT_TRUE(one->tell({"READY=1"}));
  EXPECT_EQ(hear(), "READY=1\n");
}

TEST_F(NotifyTest, KeepsReadinessForAManagerThatDoesNotRead) {
  listen_at(path_);
  const auto one = relay();
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(one->tell({"STATUS=" + std::string(8000, 'x')}));
  ASSERT_TRUE(one->tell({"READY=1"}));
  EXPECT_TRUE(one->ready());
  std::vector<std::string> heard;
  for (int i = 0; i < 600; ++i) {
    if (std::string text = hear(); text != "nothing") heard.push_back(std::move(text));
    ASSERT_TRUE(loop_->run_once(0));
  }
  ASSERT_GE(heard.size(), 3U);
  EXPECT_LT(heard.size(), 52U);  // some found the queue full
  EXPECT_EQ(heard[heard.size() - 2], "READY=1\n");
  EXPECT_EQ(heard.back(), "MAINPID=" + std::to_string(getpid()) + "\n");
}

TEST_F(NotifyTest, ReachesAbstractNamesAndLongPaths) {
  path_ = "@kiln-notify-test-" + std::to_string(getpid());
  listen_at(path_);
  ASSERT_TRUE(relay()->tell({"READY=1"}));
  EXPECT_EQ(hear(), "READY=1\n");
  const std::string deep = directory_.path() + "/" + std::string(120, 'd');
  ASSERT_TRUE(make_directories(deep, 0700));
  listen_at(directory_.path() + "/t");
  ASSERT_EQ(rename((directory_.path() + "/t").c_str(), (deep + "/t").c_str()), 0);
  path_ = deep + "/t";
  ASSERT_TRUE(relay()->tell({"READY=1"}));
  EXPECT_EQ(hear(), "READY=1\n");
}

TEST_F(NotifyTest, NamesASocketThatIsNotThere) {
  for (const char* name : {"/nonexistent/s", "vsock:2:1", "@kiln-no-such-name", "relative"}) {
    const auto failed = NotifyRelay::create(*loop_, {0, "n", name, true}, 1);
    ASSERT_FALSE(failed) << name;
    EXPECT_NE(failed.error().message.find(name), std::string::npos);
  }
}

TEST_F(NotifyTest, AVariableOfTheHostsIsAMountAndAVariable) {
  oci::Spec spec = oci::default_spec(false);
  const size_t mounts = spec.mounts.size();
  const auto route = route_notifications(spec, "/run/systemd/notify", "/bundle");
  ASSERT_TRUE(route);
  EXPECT_EQ(route->mount, mounts);
  EXPECT_EQ(route->host_socket, "/run/systemd/notify");
  EXPECT_TRUE(route->adds_main_pid);
  ASSERT_EQ(spec.mounts.size(), mounts + 1);
  EXPECT_EQ(spec.mounts.back().destination, "/run/notify");
  EXPECT_EQ(spec.process->env.back(), "NOTIFY_SOCKET=/run/notify/" + route->name);
}

TEST_F(NotifyTest, AMountThatHasTheSocketIsARoute) {
  listen_at(path_);
  oci::Spec spec = oci::default_spec(false);
  spec.process->env.emplace_back("NOTIFY_SOCKET=/run/notify/s");
  EXPECT_FALSE(route_notifications(spec, "", "/bundle"));
  spec.mounts.push_back({"/run/notify/", "bind", directory_.path(), {"rbind"}, {}, {}});
  const size_t mounts = spec.mounts.size();
  const auto route = route_notifications(spec, "", "/bundle");
  ASSERT_TRUE(route);
  EXPECT_EQ(route->mount, mounts - 1);
  EXPECT_EQ(route->name, "s");
  EXPECT_EQ(route->host_socket, path_);
  EXPECT_FALSE(route->adds_main_pid);
  EXPECT_EQ(spec.mounts.size(), mounts);
  spec.mounts.back().source = "/nonexistent";
  EXPECT_FALSE(route_notifications(spec, "", "/bundle"));
  spec.mounts.back() = {"/run/notify", "tmpfs", "tmpfs", {}, {}, {}};
  EXPECT_FALSE(route_notifications(spec, "", "/bundle"));
}

}  // namespace
}  // namespace kiln::runtime
