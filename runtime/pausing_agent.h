// SPDX-License-Identifier: Apache-2.0
// The guest's agent, in a machine whose vCPUs stand while nobody needs them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/event_loop.h"
#include "runtime/agent_client.h"

namespace kiln::runtime {

// Stops the machine once every container in it is frozen or has ended, and lets it go on for as
// long as a request is under way: all requests for the guest pass here, and tell which containers
// there are. Used by the event loop's thread.
class PausingAgent : public Agent {
 public:
  struct Machine {
    std::function<Result<void>()> pause;
    std::function<Result<void>()> resume;
  };

  // What was written before the freeze, and what a request sets off, gets this long to come out.
  static constexpr int64_t kSettleMs = 200;

  // `agent` outlives this.
  PausingAgent(EventLoop& loop, Agent& agent, Machine machine, int64_t settle_ms = kSettleMs)
      : loop_(loop), agent_(agent), machine_(std::move(machine)), settle_ms_(settle_ms) {}
  ~PausingAgent() override;
  PausingAgent(const PausingAgent&) = delete;
  PausingAgent& operator=(const PausingAgent&) = delete;

  void request(const std::string& method, Json params, int64_t timeout_ms,
               RpcClient::ReplyCallback callback) override;
  // The guest says that a process has ended.
  void note_exit(const protocol::ExitEvent& event);
  // From now on the machine is left alone: the guest is on its way out.
  void retire();

 private:
  struct Container {
    bool frozen = false;
    // Processes with a SIGKILL, which a frozen one dies of too ("": init), until their end is told.
    std::set<std::string> dying;
  };
  void wake();
  void expect_death(const std::string& id, const protocol::SignalRequest& request);
  void learn(const std::string& method, const std::string& id, const Result<Json>& answer);
  bool may_pause() const;
  // Starts anew: pauses a moment later, unless something comes in between.
  void settle();
  void ask_to_settle();
  void pause();

  EventLoop& loop_;
  Agent& agent_;
  Machine machine_;
  const int64_t settle_ms_;
  std::map<std::string, Container> containers_;  // those that have not ended
  unsigned outstanding_ = 0;
  std::optional<EventLoop::TimerId> timer_;
  uint64_t settling_ = 0;  // counts the attempts to pause
  bool paused_ = false;
  bool retired_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::runtime
