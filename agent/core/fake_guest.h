// SPDX-License-Identifier: Apache-2.0
// A guest for the tests of the agent's core: containers are process groups of this program, the
// host is a socket pair.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "agent/core/server.h"
#include "base/event_loop.h"
#include "oci/spec.h"

namespace kiln::agent {

// What a test can set or see of the fakes.
struct FakeState {
  bool powered_off = false;
  std::optional<protocol::SandboxRequest> adopted;
  std::optional<protocol::NetworkRequest> network;
  std::string released_drive;
  int64_t realtime_ns = 0;
  std::vector<oci::Device> devices;  // of the last container
  std::vector<oci::DeviceRule> device_rules;
  int shared_types = 0;
  std::vector<int> shared_fds;
  static constexpr int kPodIpc = 12345;
  bool share_mounted = true;
  uint64_t oom_kills = 0;
  bool frozen = false;
  std::optional<oci::Resources> updated;
  protocol::StatsReply stats;
  std::optional<oci::Spec> pod;
  protocol::StatsReply pod_stats;
  int destroyed = 0;
  int syncs = 0;
  int roots_released = 0;
  std::optional<BlockSource> root_device;  // of the last container that was created
  std::map<size_t, BlockSource> mount_devices;
  std::map<size_t, std::string> bind_sources;
  std::map<size_t, std::string> volume_versions;
  UniqueFd container_root;
  std::deque<UniqueFd> dialed;        // the host's ends of what the guest has dialled, if it can
  std::optional<uint32_t> host_port;  // what it can dial
  UniqueFd sync_gate;                 // valid: a sync ends when this pipe's write end is closed
};

class ServerTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Turns the loop until `done`, at most ten seconds.
  template <typename Done>
  void until(Done done, const char* what) {
    for (int i = 0; i < 1000 && !done(); ++i) turn();
    ASSERT_TRUE(done()) << what;
  }
  void turn();

  uint64_t send(const std::string& method, Json params);
  protocol::Reply wait_reply(uint64_t id);
  protocol::Reply ask(const std::string& method, Json params) {
    return wait_reply(send(method, std::move(params)));
  }
  // The error's kind, nullopt for a result.
  std::optional<ErrorKind> kind_of(const protocol::Reply& reply) const {
    return reply.error ? std::optional(reply.error->kind) : std::nullopt;
  }
  protocol::ExitEvent wait_exit(const std::string& process_id = "");

  void adopt() { ASSERT_FALSE(ask("sandbox", {{"hostname", "g"}}).error); }
  // A container `c1` that runs `script` in a shell.
  protocol::Reply create(const std::string& script, bool terminal = false,
                         std::vector<protocol::Passed> passed = {});
  protocol::Reply exec(const std::string& process_id, const std::string& script);
  void start() { ASSERT_EQ(kind_of(ask("start", {{"container", "c1"}})), std::nullopt); }
  void run(const std::string& script, bool terminal = false,
           std::vector<protocol::Passed> passed = {}) {
    adopt();
    ASSERT_EQ(kind_of(create(script, terminal, std::move(passed))), std::nullopt);
    start();
  }

  // Dials a stream; the connection is blocking. `refusal` gets the agent's answer.
  UniqueFd dial(const std::string& stream, const std::string& process_id = "",
                std::optional<Error>* refusal = nullptr);
  // Everything up to the end of the stream.
  std::string drain(const UniqueFd& connection);

  FakeState state_;
  std::optional<size_t> notify_mount_;  // of create()
  protocol::Forwards forwards_;         // of create()
  std::unique_ptr<Guest> guest_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Server> server_;
  UniqueFd host_;
  std::string socket_path_;
  std::string incoming_;
  std::vector<protocol::FromAgent> messages_;  // in the order of arrival, replies too
  uint64_t next_id_ = 1;
};

}  // namespace kiln::agent
