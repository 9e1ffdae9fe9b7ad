// SPDX-License-Identifier: Apache-2.0
#include "runtime/written_volumes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <deque>
#include <filesystem>
#include <fstream>

#include "base/temporary_directory.h"
#include "oci/parse.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

class FakeAgent : public Agent {
 public:
  struct Asked {
    protocol::RefreshRequest request;
    RpcClient::ReplyCallback reply;
  };
  void request(const std::string& method, Json params, int64_t /*timeout_ms*/,
               RpcClient::ReplyCallback callback) override {
    EXPECT_EQ(method, "refresh");
    asked.push_back({*protocol::from_json<protocol::RefreshRequest>(params), std::move(callback)});
  }
  std::deque<Asked> asked;
};

class WrittenVolumesTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(volume_); }

  // As the kubelet's AtomicWriter.
  void write(const std::string& version, size_t bytes = 1) const {
    const auto old = fs::is_symlink(volume_ / "..data") ? fs::read_symlink(volume_ / "..data") : "";
    fs::create_directory(volume_ / version);
    std::ofstream(volume_ / version / "key") << std::string(bytes, 'x');
    fs::create_symlink(version, volume_ / "..data_tmp");
    fs::rename(volume_ / "..data_tmp", volume_ / "..data");
    if (!old.empty()) fs::remove_all(volume_ / old);
  }
  Shares shares(bool read_only = true) const {
    Shares out;
    Share share;
    share.entry = "mount-0";
    share.source = volume_;
    share.fd.reset(open(volume_.c_str(), O_PATH | O_CLOEXEC));
    share.read_only = read_only;
    out.bind_entries = {{0, share.entry}};
    out.list.push_back(std::move(share));
    return out;
  }
  std::unique_ptr<WrittenVolumes> open_volumes(bool read_only = true) const {
    oci::Spec spec = oci::default_spec(false);
    spec.mounts.resize(1);
    spec.mounts[0].destination = "/etc/cfg";
    auto opened = WrittenVolumes::open(*loop_, spec, shares(read_only));
    EXPECT_TRUE(opened);
    return std::move(*opened);
  }
  // Until the agent has been asked `count` times and has not answered; at most ten seconds.
  void until_asked(size_t count) {
    for (int i = 0; i < 1000 && agent_.asked.size() < count; ++i) ASSERT_TRUE(loop_->run_once(10));
    ASSERT_EQ(agent_.asked.size(), count);
  }
  void answer(Result<Json> outcome) {
    FakeAgent::Asked asked = std::move(agent_.asked.front());
    agent_.asked.pop_front();
    asked.reply(std::move(outcome));
  }
  void stay_idle() {
    for (int i = 0; i < 30; ++i) ASSERT_TRUE(loop_->run_once(10));
    EXPECT_TRUE(agent_.asked.empty());
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "volumes-");
  fs::path volume_ = directory_.path() + "/volumes/kubernetes.io~configmap/cfg";
  FakeAgent agent_;
};

TEST(IsWrittenVolume, KnowsTheKubeletsNames) {
  const std::string pod = "/var/lib/kubelet/pods/1-2/";
  for (const char* plugin : {"configmap", "secret", "projected", "downward-api"}) {
    EXPECT_TRUE(is_written_volume(pod + "volumes/kubernetes.io~" + plugin + "/name"));
    EXPECT_TRUE(is_written_volume(pod + "volumes/kubernetes.io~" + plugin + "/name/"));
  }
  EXPECT_FALSE(is_written_volume(pod + "volumes/kubernetes.io~empty-dir/name"));
  EXPECT_FALSE(is_written_volume(pod + "volumes/kubernetes.io~csi/name/mount"));
  EXPECT_FALSE(is_written_volume(pod + "volumes/kubernetes.io~configmap/name/..data/key"));
  EXPECT_FALSE(is_written_volume(pod + "volumes/kubernetes.io~configmap"));
  EXPECT_FALSE(is_written_volume(pod + "volume-subpaths/name/container/0"));
  EXPECT_FALSE(is_written_volume(""));
}

TEST_F(WrittenVolumesTest, TellsOfAnotherVersionOnce) {
  write("..1");
  const auto volumes = open_volumes();
  EXPECT_EQ(volumes->versions(), (std::map<size_t, std::string>{{0, "..1"}}));
  volumes->follow(agent_, "c1");
  stay_idle();
  write("..2");
  until_asked(1);
  EXPECT_EQ(agent_.asked[0].request.container_id, "c1");
  EXPECT_EQ(agent_.asked[0].request.mount, 0U);
  EXPECT_EQ(agent_.asked[0].request.version, "..2");
  answer(Json::object());
  stay_idle();
}

TEST_F(WrittenVolumesTest, ForgetsNoChangeBetweenCreationAndFollowing) {
  const auto volumes = open_volumes();
  EXPECT_EQ(volumes->versions().at(0), "");
  write("..1");
  EXPECT_TRUE(volumes->changed());
  volumes->follow(agent_, "c1");
  until_asked(1);
  EXPECT_EQ(agent_.asked[0].request.version, "..1");
}

TEST_F(WrittenVolumesTest, TakesManyChangesTogetherAndEndsWithTheLast) {
  write("..0");
  const auto volumes = open_volumes();
  volumes->versions();
  volumes->follow(agent_, "c1");
  for (int i = 1; i <= 200; ++i) write(".." + std::to_string(i));
  until_asked(1);
  EXPECT_EQ(agent_.asked[0].request.version, "..200");
  // While it copies, the kubelet goes on: what it was asked for is gone.
  write("..201");
  write("..202");
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(loop_->run_once(10));
  ASSERT_EQ(agent_.asked.size(), 1U) << "two at a time";
  answer(sys_error("open `..200`", ENOENT));
  until_asked(1);
  EXPECT_EQ(agent_.asked[0].request.version, "..202");
  answer(Json::object());
  stay_idle();
}

TEST_F(WrittenVolumesTest, GivesUpAVersionThatTheGuestRefuses) {
  write("..1");
  const auto volumes = open_volumes();
  volumes->versions();
  volumes->follow(agent_, "c1");
  write("..2");
  until_asked(1);
  answer(make_error(ErrorKind::kOutOfRange, "too much"));
  stay_idle();
  write("..3");
  until_asked(1);
  EXPECT_EQ(agent_.asked[0].request.version, "..3");
}

TEST_F(WrittenVolumesTest, AnAnswerMayComeWhenTheyAreGone) {
  write("..1");
  auto volumes = open_volumes();
  volumes->versions();
  volumes->follow(agent_, "c1");
  write("..2");
  until_asked(1);
  volumes.reset();
  answer(Json::object());
  write("..3");
  stay_idle();
}

TEST_F(WrittenVolumesTest, LooksItselfWhereItCannotWatch) {
  write("..1");
  // What is left is enough for the copy of the volume's descriptor.
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const Shares shared = shares();
  const rlimit tight{static_cast<rlim_t>(shared.list[0].fd.get()) + 2, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  oci::Spec spec = oci::default_spec(false);
  const auto volumes = WrittenVolumes::open(*loop_, spec, shared);
  const UniqueFd full(open("/dev/null", O_PATH | O_CLOEXEC));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(volumes) << volumes.error().message;
  ASSERT_FALSE(full) << "it could watch";
  (*volumes)->versions();
  (*volumes)->follow(agent_, "c1");
  write("..2");
  until_asked(1);
  EXPECT_EQ(agent_.asked[0].request.version, "..2");
}

TEST_F(WrittenVolumesTest, LeavesOutWhatIsWritableLargeOrNotTheKubelets) {
  write("..1");
  EXPECT_EQ(open_volumes(false), nullptr);
  write("..2", protocol::kMaxVolumeBytes + 1);
  EXPECT_EQ(open_volumes(), nullptr);
  fs::remove_all(volume_);
  fs::create_directory(volume_);
  std::ofstream(volume_ / "key") << "by hand";
  EXPECT_EQ(open_volumes(), nullptr);
}

}  // namespace
}  // namespace kiln::runtime
