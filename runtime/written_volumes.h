// SPDX-License-Identifier: Apache-2.0
// A container's volumes that the kubelet writes anew while it runs: configMap, secret, projected,
// downwardAPI.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "oci/spec.h"
#include "runtime/agent_client.h"
#include "runtime/shares.h"

namespace kiln::runtime {

// Whether the source is such a volume as a whole, by the kubelet's names: a subPath of one has
// another, and is never written anew.
bool is_written_volume(const std::string& source);

// The guest's kernel cannot tell of what changes in a share, so the container has a copy of such a
// volume (agent/container/volume_copy.h), and the agent is told of each new version. A version is
// the directory that the volume's `..data` names. Used by the monitor's only thread.
class WrittenVolumes {
 public:
  // Those of `shares` that are read-only and small enough to be copied; null if there are none.
  static Result<std::unique_ptr<WrittenVolumes>> open(EventLoop& loop, const oci::Spec& spec,
                                                      const Shares& shares);
  ~WrittenVolumes();
  WrittenVolumes(const WrittenVolumes&) = delete;
  WrittenVolumes& operator=(const WrittenVolumes&) = delete;

  // For CreateRequest: the newest ones. Their change after that is not forgotten.
  const std::map<size_t, std::string>& versions();
  // The kubelet has gone on since.
  bool changed() const;
  // The container is there. `agent` outlives this object.
  void follow(Agent& agent, const std::string& container_id);

 private:
  struct Volume {
    size_t mount = 0;  // index in spec.mounts
    std::string destination;
    UniqueFd directory;
    bool asked = false;  // the agent, which has not answered yet
  };

  explicit WrittenVolumes(EventLoop& loop) : loop_(loop) {}
  Result<void> add(size_t mount, const std::string& destination, const Share& share);
  Result<void> watch();
  void look_in(int64_t milliseconds);
  void look();
  void refresh(Volume& volume, const std::string& version);
  void refreshed(Volume& volume, const std::string& version, const Result<Json>& done);

  EventLoop& loop_;
  std::vector<Volume> volumes_;
  std::map<size_t, std::string> told_;  // the guest has it, or cannot have it
  UniqueFd events_;                     // invalid: we look ourselves
  std::optional<EventLoop::TimerId> timer_;
  Agent* agent_ = nullptr;
  std::string container_id_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::runtime
