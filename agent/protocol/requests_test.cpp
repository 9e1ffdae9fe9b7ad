// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "agent/protocol/messages.h"
#include "base/format.h"

namespace kiln::protocol {
namespace {

template <typename T>
std::string error_of(const Json& value) {
  const Result<T> result = from_json<T>(value);
  return result ? "accepted" : result.error().message;
}

CreateRequest create_request() {
  CreateRequest request;
  request.container_id = "c1";
  request.config = {{"ociVersion", "1.2.0"}};
  request.rootfs = {.entry = "c1.rootfs", .overlay = true, .overlay_size_bytes = 1ULL << 63};
  request.bind_entries = {{0, "c1.mount0"}, {17, "c1.mount17"}};
  request.stdio = {.stdin_open = true, .stdout_open = false, .stderr_open = true};
  return request;
}

TEST(CreateRequest, SurvivesTheWayThroughJson) {
  const auto parsed = from_json<CreateRequest>(to_json(create_request()));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->container_id, "c1");
  EXPECT_EQ(parsed->config.at("ociVersion"), "1.2.0");
  EXPECT_EQ(parsed->rootfs.entry, "c1.rootfs");
  EXPECT_TRUE(parsed->rootfs.overlay);
  EXPECT_EQ(parsed->rootfs.overlay_size_bytes, 1ULL << 63);
  EXPECT_EQ(parsed->bind_entries, create_request().bind_entries);
  EXPECT_TRUE(parsed->stdio.stdin_open);
  EXPECT_FALSE(parsed->stdio.stdout_open);
  EXPECT_TRUE(parsed->stdio.stderr_open);
}

TEST(PodRequest, SurvivesTheWayThroughJson) {
  const PodRequest request{"pod-1", {{"hostname", "web"}}};
  const auto parsed = from_json<PodRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->pod_id, "pod-1");
  EXPECT_EQ(parsed->config, request.config);
}

TEST(PodRequest, NeedsAnIdAndAConfigAndNothingElse) {
  Json value = to_json(PodRequest{"pod-1", Json::object()});
  value["pod"] = "../pod";
  EXPECT_NE(error_of<PodRequest>(value).find("/pod"), std::string::npos);
  value = {{"pod", "pod-1"}};
  EXPECT_NE(error_of<PodRequest>(value).find("/config"), std::string::npos);
  value["config"] = "text";
  EXPECT_NE(error_of<PodRequest>(value).find("/config"), std::string::npos);
  value["config"] = Json::object();
  value["rootfs"] = "pause";
  EXPECT_NE(error_of<PodRequest>(value).find("/rootfs"), std::string::npos);
}

TEST(CreateRequest, CarriesPassedDescriptorsAndTheNotificationSocket) {
  CreateRequest request = create_request();
  request.stdio.passed = {Passed::kWriter, Passed::kListener, Passed::kSocket, Passed::kReader};
  request.notify_mount = 3;
  request.notify_name = "notify.sock";
  const auto parsed = from_json<CreateRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->stdio.passed, request.stdio.passed);
  EXPECT_EQ(parsed->notify_mount, request.notify_mount);
  EXPECT_EQ(parsed->notify_name, request.notify_name);
}

TEST(CreateRequest, RefusesPassedDescriptorsThatCannotBe) {
  Json value = to_json(create_request());
  value["stdio"]["passed"] = {"file"};
  EXPECT_EQ(error_of<CreateRequest>(value), "/stdio/passed: has an unknown kind of descriptor");
  value["stdio"]["passed"] = {1};
  EXPECT_EQ(error_of<CreateRequest>(value), "/stdio/passed: has an unknown kind of descriptor");
  value["stdio"]["passed"] = std::vector<std::string>(33, "socket");
  EXPECT_EQ(error_of<CreateRequest>(value), "/stdio/passed: has more than 32 entries");
}

TEST(CreateRequest, CarriesForwards) {
  CreateRequest request = create_request();
  EXPECT_FALSE(to_json(request).contains("forwards"));
  request.forwards = {1030, {{4, {std::string(32, 'a'), 0660, 7, 999}}}, {"/run/app.sock"}};
  const auto parsed = from_json<CreateRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->forwards.port, 1030U);
  EXPECT_EQ(parsed->forwards.sockets.at(4).token, std::string(32, 'a'));
  EXPECT_EQ(parsed->forwards.sockets.at(4).mode, 0660U);
  EXPECT_EQ(parsed->forwards.sockets.at(4).uid, 7U);
  EXPECT_EQ(parsed->forwards.sockets.at(4).gid, 999U);
  EXPECT_EQ(parsed->forwards.served, request.forwards.served);
}

TEST(CreateRequest, RefusesForwardsOutOfBounds) {
  CreateRequest request = create_request();
  request.forwards = {1030, {{4, {std::string(32, 'a'), 0660, 7, 999}}}, {"/run/app.sock"}};
  const Json good = to_json(request);
  const auto error_with = [&good](const char* pointer, const Json& value) {
    Json changed = good;
    changed[Json::json_pointer(pointer)] = value;
    return error_of<CreateRequest>(changed);
  };
  EXPECT_EQ(error_with("/forwards/port", 1024), "/forwards/port: must be from 1027");
  EXPECT_EQ(error_with("/forwards/port", 9999),
            "/forwards/port: must be an integer from 0 to 2050");
  EXPECT_EQ(error_with("/forwards/sockets/4/token", "abc"),
            "/forwards/sockets/4/token: must be 32 hexadecimal digits");
  EXPECT_EQ(error_with("/forwards/sockets/4/token", std::string(32, 'g')),
            "/forwards/sockets/4/token: must be 32 hexadecimal digits");
  EXPECT_EQ(error_with("/forwards/sockets/4/mode", 04777),
            "/forwards/sockets/4/mode: must be an integer from 0 to 511");
  EXPECT_EQ(error_with("/forwards/served", {"run"}), "/forwards/served: must have absolute paths");
  EXPECT_EQ(error_with("/forwards/served", {std::string("/a\0b", 4)}),
            "/forwards/served: must have absolute paths");
  EXPECT_EQ(error_with("/forwards/served", std::vector<std::string>(17, "/a")),
            "/forwards/served: has more than 16 entries");
  EXPECT_EQ(error_with("/forwards/ports", 1),
            "/forwards/ports: is not a member that is known here");
}

TEST(CreateRequest, CarriesVersionsOfVolumesThatAreBindMounts) {
  CreateRequest request = create_request();
  EXPECT_FALSE(to_json(request).contains("volumeVersions"));
  const size_t mount = request.bind_entries.begin()->first;
  for (const char* version : {"", "..2026_11_02"}) {
    request.volume_versions = {{mount, version}};
    const auto parsed = from_json<CreateRequest>(to_json(request));
    ASSERT_TRUE(parsed) << parsed.error().message;
    EXPECT_EQ(parsed->volume_versions, request.volume_versions);
  }
  request.volume_versions = {{mount, "../etc"}};
  EXPECT_EQ(error_of<CreateRequest>(to_json(request)),
            fmt::format("/volumeVersions/{}: must be the name of one share entry", mount));
  request.volume_versions = {{4711, "..1"}};
  EXPECT_EQ(error_of<CreateRequest>(to_json(request)), "/volumeVersions/4711: is no bind mount");
}

TEST(RefreshRequest, NamesAContainerAMountAndAVersion) {
  const Json good = to_json(RefreshRequest{"c1", 3, "..2026_11_02"});
  const auto parsed = from_json<RefreshRequest>(good);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->container_id, "c1");
  EXPECT_EQ(parsed->mount, 3U);
  EXPECT_EQ(parsed->version, "..2026_11_02");
  for (const char* version : {"", ".", "..", "a/b", "a\nb"}) {
    Json bad = good;
    bad["version"] = version;
    EXPECT_EQ(error_of<RefreshRequest>(bad), "/version: must be the name of one share entry");
  }
  Json bad = good;
  bad["mount"] = -1;
  EXPECT_EQ(error_of<RefreshRequest>(bad), "/mount: must be an integer from 0 to 65535");
}

TEST(StreamHeader, NamesAServedSocketOfInit) {
  EXPECT_EQ(served_stream(3), "serve:3");
  EXPECT_EQ(served_index("serve:3"), 3U);
  EXPECT_FALSE(served_index("serve:16"));
  EXPECT_FALSE(served_index("serve:-1"));
  EXPECT_FALSE(served_index("serve:"));
  EXPECT_TRUE(from_json<StreamHeader>(to_json(StreamHeader{"c1", "", "serve:0"})));
  EXPECT_FALSE(from_json<StreamHeader>(to_json(StreamHeader{"c1", "e1", "serve:0"})));
}

TEST(StreamHeader, NamesAPortOfAPod) {
  EXPECT_EQ(port_stream(80), "port:80");
  EXPECT_EQ(port_number("port:65535"), 65535);
  for (const char* none : {"port:0", "port:65536", "port:-1", "port:", "port:80 ", "ports:80"})
    EXPECT_FALSE(port_number(none)) << none;
  EXPECT_TRUE(from_json<StreamHeader>(to_json(StreamHeader{"pod", "", "port:80"})));
  EXPECT_FALSE(from_json<StreamHeader>(to_json(StreamHeader{"pod", "e1", "port:80"})));
  EXPECT_FALSE(from_json<StreamHeader>(to_json(StreamHeader{"pod", "", "port:0"})));
}

TEST(CreateRequest, RefusesNotificationSocketsThatAreNoName) {
  Json value = to_json(create_request());
  value["notify"] = {{"mount", 1}, {"name", "a/b"}};
  EXPECT_EQ(error_of<CreateRequest>(value), "/notify/name: must be the name of one share entry");
  value["notify"] = {{"mount", 1}, {"name", std::string(65, 'n')}};
  EXPECT_EQ(error_of<CreateRequest>(value), "/notify/name: must have at most 64 bytes");
  value["notify"] = {{"mount", -1}, {"name", "n"}};
  EXPECT_EQ(error_of<CreateRequest>(value), "/notify/mount: must be an integer from 0 to 65535");
}

TEST(CreateRequest, WithoutBindsHasAnEmptyMap) {
  CreateRequest request = create_request();
  request.bind_entries.clear();
  const auto parsed = from_json<CreateRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_TRUE(parsed->bind_entries.empty());
}

TEST(CreateRequest, RefusesMountIndexesThatAreNoNumber) {
  Json value = to_json(create_request());
  for (const char* key : {"", "-1", "1x", "65536", "99999999999999999999999"}) {
    value["bindEntries"] = {{key, "entry"}};
    EXPECT_NE(error_of<CreateRequest>(value).find("must be an index"), std::string::npos) << key;
  }
}

TEST(CreateRequest, RefusesOneMountIndexInTwoSpellings) {
  Json value = to_json(create_request());
  value["bindEntries"] = {{"1", "a"}, {"01", "b"}};
  EXPECT_EQ(error_of<CreateRequest>(value), "/bindEntries/1: is there twice");
}

TEST(CreateRequest, RefusesEntriesThatAreNoSingleComponent) {
  Json value = to_json(create_request());
  for (const char* name : {"", ".", "..", "a/b", "/", "a\nb"}) {
    value["rootfs"]["entry"] = name;
    EXPECT_EQ(error_of<CreateRequest>(value), "/rootfs/entry: must be the name of one share entry")
        << name;
  }
}

TEST(CreateRequest, CarriesDrives) {
  CreateRequest request = create_request();
  request.rootfs.drive = Drive{"rootfs", "ext4", true};
  request.rootfs.entry.clear();
  request.mount_drives[3] = Drive{"mount-3", "erofs", false};
  const auto parsed = from_json<CreateRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_TRUE(parsed->rootfs.drive);
  EXPECT_EQ(parsed->rootfs.drive->id, "rootfs");
  EXPECT_EQ(parsed->rootfs.drive->type, "ext4");
  EXPECT_TRUE(parsed->rootfs.drive->read_only);
  EXPECT_EQ(parsed->mount_drives.at(3).id, "mount-3");
}

TEST(CreateRequest, CarriesLayers) {
  CreateRequest request = create_request();
  request.rootfs.entry.clear();
  request.rootfs.layers = {Drive{"layer-0", "erofs", true}, Drive{"layer-1", "erofs", true}};
  request.rootfs.upper = Drive{"upper", "ext4", false};
  Json value = to_json(request);
  const auto parsed = from_json<CreateRequest>(value);
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->rootfs.layers.size(), 2U);
  EXPECT_EQ(parsed->rootfs.layers[1].id, "layer-1");
  ASSERT_TRUE(parsed->rootfs.upper);
  EXPECT_EQ(parsed->rootfs.upper->type, "ext4");
  value["rootfs"]["drive"] = value["rootfs"]["upper"];
  EXPECT_EQ(error_of<CreateRequest>(value), "/rootfs: must be an entry, a drive or layers");
  value["rootfs"].erase("drive");
  value["rootfs"]["layers"] = Json::array();
  EXPECT_EQ(error_of<CreateRequest>(value),
            fmt::format("/rootfs/layers: must be 1 to {}", kMaxRootLayers));
}

TEST(CreateRequest, CarriesSharedNamespacesAndDevices) {
  CreateRequest request = create_request();
  request.shared = {{"ipc", "c0"}, {"pid", "c9"}};
  request.device_drives = {{3, "device-3"}};
  const auto parsed = from_json<CreateRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->shared, request.shared);
  EXPECT_EQ(parsed->device_drives, request.device_drives);
  Json value = to_json(request);
  value["shared"]["mount"] = "c0";
  EXPECT_NE(error_of<CreateRequest>(value).find("/shared/mount"), std::string::npos);
}

TEST(CreateRequest, RefusesARootThatIsBothOrNeither) {
  Json value = to_json(create_request());
  value["rootfs"]["drive"] = {{"id", "rootfs"}, {"type", "ext4"}};
  EXPECT_EQ(error_of<CreateRequest>(value), "/rootfs: must be an entry, a drive or layers");
  value["rootfs"].erase("drive");
  value["rootfs"].erase("entry");
  EXPECT_EQ(error_of<CreateRequest>(value), "/rootfs: must be an entry, a drive or layers");
}

TEST(CreateRequest, RefusesDrivesThatCannotBe) {
  Json value = to_json(create_request());
  value["mountDrives"] = {{"0", {{"id", std::string(21, 'x')}, {"type", "ext4"}}}};
  EXPECT_EQ(error_of<CreateRequest>(value), "/mountDrives/0/id: must have at most 20 bytes");
  value["mountDrives"] = {{"0", {{"id", "a"}, {"type", "ext4,x"}}}};
  EXPECT_EQ(error_of<CreateRequest>(value), "/mountDrives/0/type: must be a file system's");
}

TEST(CreateRequest, NamesAMemberThatItDoesNotKnow) {
  Json value = to_json(create_request());
  value["rootfs"]["readonly"] = true;
  EXPECT_EQ(error_of<CreateRequest>(value), "/rootfs/readonly: is not a member that is known here");
}

TEST(CreateRequest, RefusesAConfigThatIsNoObject) {
  Json value = to_json(create_request());
  value["config"] = "text";
  EXPECT_EQ(error_of<CreateRequest>(value), "/config: must be an object");
}

TEST(ContainerRequest, AcceptsIdsUpToTheLimitOnly) {
  EXPECT_EQ(error_of<ContainerRequest>({{"container", std::string(kMaxIdBytes, 'a')}}), "accepted");
  EXPECT_EQ(error_of<ContainerRequest>({{"container", std::string(kMaxIdBytes + 1, 'a')}}),
            "/container: is longer than 1024 bytes");
}

TEST(ContainerRequest, RefusesIdsThatCouldBePaths) {
  for (const char* id : {"", ".", "..", "a/b", "../x", "a b", "a\n", "\xc3\xa4"}) {
    EXPECT_EQ(error_of<ContainerRequest>({{"container", id}}),
              "/container: must be an id of [A-Za-z0-9_+.-]")
        << id;
  }
}

TEST(ContainerRequest, RefusesWhatIsNoObject) {
  EXPECT_EQ(error_of<ContainerRequest>(Json::array()), "/: must be an object");
  EXPECT_EQ(error_of<ContainerRequest>(Json()), "/: must be an object");
  EXPECT_EQ(error_of<ContainerRequest>(Json::object()), "/container: is missing");
}

TEST(SandboxRequest, SurvivesTheWayThroughJson) {
  const SandboxRequest request{.hostname = "guest",
                               .realtime_ns = 1'700'000'000'123'456'789,
                               .entropy_hex = "00ffA0",
                               .share_tag = "kiln"};
  const auto parsed = from_json<SandboxRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->hostname, request.hostname);
  EXPECT_EQ(parsed->realtime_ns, request.realtime_ns);
  EXPECT_EQ(parsed->entropy_hex, request.entropy_hex);
  EXPECT_EQ(parsed->share_tag, request.share_tag);
}

TEST(SandboxRequest, RefusesEntropyThatIsNotHexadecimal) {
  for (const char* text : {"0", "0g", "0x"})
    EXPECT_EQ(error_of<SandboxRequest>({{"entropyHex", text}}),
              "/entropyHex: must be pairs of hexadecimal digits");
}

TEST(SandboxRequest, RefusesATimeBefore1970) {
  EXPECT_EQ(error_of<SandboxRequest>({{"realtimeNs", -1}}),
            "/realtimeNs: must be an integer from 0 to 9223372036854775807");
}

TEST(ClockRequest, SurvivesTheWayThroughJson) {
  const auto parsed = from_json<ClockRequest>(to_json(ClockRequest{1'700'000'000'123'456'789}));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->realtime_ns, 1'700'000'000'123'456'789);
}

TEST(ClockRequest, RefusesToBeWithoutATime) {
  EXPECT_NE(error_of<ClockRequest>(Json::object()), "");
  EXPECT_EQ(error_of<ClockRequest>({{"realtimeNs", 0}}),
            "/realtimeNs: must be an integer from 1 to 9223372036854775807");
}

TEST(ExecRequest, SurvivesTheWayThroughJson) {
  const ExecRequest request{.container_id = "c1",
                            .process_id = "exec-1",
                            .process = {{"args", {"sh", "-c", "true"}}},
                            .stdio = {.stdout_open = true}};
  const auto parsed = from_json<ExecRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->process_id, "exec-1");
  EXPECT_EQ(parsed->process, request.process);
  EXPECT_TRUE(parsed->stdio.stdout_open);
  EXPECT_FALSE(parsed->stdio.stdin_open);
}

TEST(ExecRequest, NeedsAProcessId) {
  Json value = to_json(ExecRequest{.container_id = "c1", .process = Json::object()});
  EXPECT_EQ(error_of<ExecRequest>(value), "/process: must be an id of [A-Za-z0-9_+.-]");
}

TEST(SignalRequest, AcceptsEverySignalAndNoOther) {
  for (int number = 0; number <= 64; ++number)
    EXPECT_EQ(
        error_of<SignalRequest>(to_json(SignalRequest{.container_id = "c1", .signal = number})),
        "accepted");
  for (const int number : {-1, 65, 1 << 30})
    EXPECT_EQ(
        error_of<SignalRequest>(to_json(SignalRequest{.container_id = "c1", .signal = number})),
        "/signal: must be an integer from 0 to 64");
}

TEST(SignalRequest, RefusesNumbersOfOtherTypes) {
  for (const Json& number : {Json("9"), Json(9.0), Json(true), Json(nullptr), Json::array({9})})
    EXPECT_EQ(error_of<SignalRequest>({{"container", "c1"}, {"signal", number}}),
              "/signal: must be an integer from 0 to 64");
}

TEST(SignalRequest, CannotMeanAllAndOne) {
  const SignalRequest request{.container_id = "c1", .process_id = "e", .signal = 9, .all = true};
  EXPECT_EQ(error_of<SignalRequest>(to_json(request)), "/all: cannot be combined with a process");
}

TEST(ResizeRequest, SurvivesTheWayThroughJson) {
  const ResizeRequest request{
      .container_id = "c1", .process_id = "", .rows = 65535, .columns = 132};
  const auto parsed = from_json<ResizeRequest>(to_json(request));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->rows, 65535);
  EXPECT_EQ(parsed->columns, 132);
}

TEST(ResizeRequest, RefusesSizesThatDoNotFit) {
  Json value = to_json(ResizeRequest{.container_id = "c1", .rows = 1, .columns = 1});
  value["rows"] = 65536;
  EXPECT_EQ(error_of<ResizeRequest>(value), "/rows: must be an integer from 0 to 65535");
}

}  // namespace
}  // namespace kiln::protocol
