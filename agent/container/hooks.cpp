// SPDX-License-Identifier: Apache-2.0
#include "agent/container/hooks.h"

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/process.h"
#include "oci/state.h"

namespace kiln::agent {
namespace {

constexpr size_t kMaxOutput = 1 << 20;

std::string state_text(const oci::Spec& spec, const std::string& container_id) {
  oci::State state;
  state.oci_version = spec.oci_version;
  state.id = container_id;
  state.status = "created";
  state.pid = getpid();
  // The bundle is on the host; what the container has of it is its root.
  state.bundle = "/";
  state.annotations = spec.annotations;
  return dump_json(oci::to_json(state));
}

Result<void> run_hook(const oci::Hook& hook, const std::string& state) {
  SpawnOptions options;
  options.program = hook.path;
  options.argv = hook.args.empty() ? oci::Strings{hook.path} : hook.args;
  options.environment = hook.env;
  options.working_directory = "/";
  const int timeout = hook.timeout ? std::min(*hook.timeout, INT_MAX / 1000) * 1000 : -1;
  const auto run =
      TRY(run_captured(std::move(options), state, kMaxOutput, timeout < 0 ? INT_MAX : timeout));
  const int code = run.status.shell_code();
  if (code == 0) return {};
  return make_error(ErrorKind::kAborted, fmt::format("exit status {}", code));
}

}  // namespace

Result<void> run_start_hooks(const oci::Spec& spec, const std::string& container_id) {
  if (!spec.hooks || spec.hooks->start_container.empty()) return {};
  const std::string state = state_text(spec, container_id);
  for (const oci::Hook& hook : spec.hooks->start_container)
    TRY(wrap(run_hook(hook, state), fmt::format("startContainer hook `{}`", hook.path)));
  return {};
}

}  // namespace kiln::agent
