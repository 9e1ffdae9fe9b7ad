// SPDX-License-Identifier: Apache-2.0
#include "runtime/pausing_agent.h"

#include <algorithm>
#include <csignal>
#include <ctime>

#include <nlohmann/json.hpp>

#include "base/log.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kClockTimeoutMs = 30'000;
// A guest that does not say so is stopped in the middle of something.
constexpr int64_t kSettleTimeoutMs = 10'000;

int64_t realtime_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// Empty: the request is the machine's.
std::string container_of(const Json& params) {
  const auto found = params.find("container");
  return found != params.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

PausingAgent::~PausingAgent() {
  *alive_ = false;
  retire();
}

void PausingAgent::request(const std::string& method, Json params, int64_t timeout_ms,
                           RpcClient::ReplyCallback callback) {
  ++outstanding_;
  wake();
  const std::string id = container_of(params);
  std::optional<protocol::SignalRequest> kill;
  if (method == "signal") {
    const auto request = protocol::from_json<protocol::SignalRequest>(params);
    if (request && request->signal == SIGKILL) kill = *request;
  }
  if (kill) expect_death(id, *kill);
  agent_.request(
      method, std::move(params), timeout_ms,
      [this, alive = alive_, method, id, kill, callback = std::move(callback)](Result<Json> done) {
        if (*alive) {
          --outstanding_;
          learn(method, id, done);
          if (kill && !done) {
            if (const auto found = containers_.find(id); found != containers_.end())
              found->second.dying.erase(kill->process_id);
          }
          settle();
        }
        callback(std::move(done));
      });
}

void PausingAgent::expect_death(const std::string& id, const protocol::SignalRequest& request) {
  if (const auto found = containers_.find(id); found != containers_.end())
    found->second.dying.insert(request.process_id);
}

void PausingAgent::learn(const std::string& method, const std::string& id,
                         const Result<Json>& answer) {
  if (!answer) return;
  if (method == "create") containers_[id] = {};
  if (method == "delete") containers_.erase(id);
  const auto found = containers_.find(id);
  if (found == containers_.end()) return;
  if (method == "pause") found->second.frozen = true;
  if (method == "resume") found->second.frozen = false;
}

void PausingAgent::note_exit(const protocol::ExitEvent& event) {
  const auto found = containers_.find(event.container_id);
  if (found == containers_.end()) return;
  if (event.process_id.empty()) {
    containers_.erase(found);
  } else {
    found->second.dying.erase(event.process_id);
  }
  settle();
}

void PausingAgent::retire() {
  retired_ = true;
  settle();
}

bool PausingAgent::may_pause() const {
  return !retired_ && !paused_ && outstanding_ == 0 && !containers_.empty() &&
         std::all_of(containers_.begin(), containers_.end(), [](const auto& item) {
           return item.second.frozen && item.second.dying.empty();
         });
}

void PausingAgent::settle() {
  if (timer_) loop_.cancel_timer(*timer_);
  timer_.reset();
  ++settling_;
  if (may_pause()) timer_ = loop_.add_timer(settle_ms_, [this] { ask_to_settle(); });
}

// A frozen process may die of other signals than SIGKILL too.
void PausingAgent::ask_to_settle() {
  timer_.reset();
  agent_.request("settle", Json::object(), kSettleTimeoutMs,
                 [this, alive = alive_, current = settling_](const Result<Json>&) {
                   if (*alive && current == settling_ && may_pause()) pause();
                 });
}

void PausingAgent::pause() {
  if (const auto paused = machine_.pause(); !paused)
    return log_warning("pause the virtual machine: {}, ignoring", paused.error().message);
  log_debug("the virtual machine is paused");
  paused_ = true;
}

void PausingAgent::wake() {
  settle();
  if (!paused_) return;
  if (const auto resumed = machine_.resume(); !resumed) {
    // Whoever asks gets no answer then.
    return log_error("resume the virtual machine: {}", resumed.error().message);
  }
  paused_ = false;
  log_debug("the virtual machine goes on");
  // Before anything that could thaw a container.
  agent_.request("clock", protocol::to_json(protocol::ClockRequest{realtime_ns()}), kClockTimeoutMs,
                 [](const Result<Json>& done) {
                   if (!done)
                     log_warning("correct the guest's clock: {}, ignoring", done.error().message);
                 });
}

}  // namespace kiln::runtime
