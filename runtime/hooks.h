// SPDX-License-Identifier: Apache-2.0
// The hooks of config.json that run on the host (runtime-spec 1.2 config.md#posix-platform-hooks).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/process.h"
#include "oci/spec.h"

namespace kiln::runtime {

enum class HookFailure {
  kStop,      // prestart, createRuntime, createContainer: the first failure ends the list
  kContinue,  // poststart, poststop: the rest runs all the same
};

struct HookList {
  std::string kind;  // "createRuntime": for messages
  std::vector<oci::Hook> hooks;
  std::string state;              // the container's state as JSON, for their standard input
  std::string working_directory;  // the bundle
  HookFailure on_failure = HookFailure::kStop;
  int network_namespace = -1;  // to run them in; borrowed. -1: ours
};

// Runs them one after the other without blocking the loop. Destroying it kills the one that runs.
class HookRunner {
 public:
  // Once, with what failed; it may destroy the runner.
  using Callback = std::function<void(std::vector<Error> failures)>;

  static std::unique_ptr<HookRunner> start(EventLoop& loop, HookList list, Callback callback);
  ~HookRunner();
  HookRunner(const HookRunner&) = delete;
  HookRunner& operator=(const HookRunner&) = delete;

 private:
  HookRunner(EventLoop& loop, HookList list, Callback callback)
      : loop_(loop), list_(std::move(list)), callback_(std::move(callback)) {}
  void next();
  Result<void> launch(const oci::Hook& hook);
  void ended();
  void fail(Error error);
  void kill_current();
  std::string what_it_said() const;

  EventLoop& loop_;
  HookList list_;
  Callback callback_;
  size_t index_ = 0;
  ChildProcess child_;
  UniqueFd stderr_file_;
  EventLoop::TimerId timer_ = 0;
  bool timed_out_ = false;
  std::vector<Error> failures_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// The same to its end, in a loop of its own.
Result<std::vector<Error>> run_hooks(HookList list);

}  // namespace kiln::runtime
