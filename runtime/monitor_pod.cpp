// SPDX-License-Identifier: Apache-2.0
// A pod's sandbox: a machine with the pod's namespaces, for containers that join it. Its own
// image's program does nothing but hold namespaces, so it is not run; the monitor answers in its
// place.
#include <csignal>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "oci/parse.h"
#include "runtime/container_view.h"
#include "runtime/monitor_impl.h"

namespace kiln::runtime {
namespace {

// For what its containers have written to reach the host, after a signal that asks politely.
constexpr int64_t kEndGraceMs = 15'000;
constexpr int64_t kKillGraceMs = 5000;

// Of the config only what the pod's namespaces are made by.
oci::Spec pod_config(const oci::Spec& spec) {
  oci::Spec out;
  out.oci_version = spec.oci_version;
  out.root = spec.root;  // the spec wants one
  out.hostname = spec.hostname;
  out.domainname = spec.domainname;
  out.linux.namespaces = spec.linux.namespaces;
  for (oci::Namespace& entry : out.linux.namespaces) entry.path.clear();
  out.linux.sysctl = spec.linux.sysctl;
  return out;
}

}  // namespace

Result<void> Monitor::create_pod(const MonitorPlan& plan) {
  pod_ = true;
  // Nobody writes there or reads: whoever has the other ends is told so.
  TRY(take_stdio());
  passed_.clear();
  TRY(launch_sandbox(plan));
  note_stage("file-system server");
  TRY(boot_machine(plan, {}));
  TRY(await_guest(plan));
  const protocol::PodRequest request{plan.id, oci::to_json(pod_config(plan.spec))};
  TRY(wrap(ask_agent("pod", protocol::to_json(request), kCreateTimeoutMs), "set up the pod"));
  open_pod_ports();
  note_stage("pod created");
  // Whoever enters the mount namespace of its pid is not to find the host's files.
  auto view = TRY(ContainerView::open(oci::Spec(), Shares()));
  return view ? main_thread_.perform([&] { return view->enter(dir_.path()); }) : Result<void>();
}

// Not on the host's own localhost, where a pod without a network namespace would be.
void Monitor::open_pod_ports() {
  if (!network_) return;
  auto opened = PodPorts::open(loop_, sandbox_->vsock_path(), record_.state.id);
  if (!opened)
    return log_warning("take connections to the pod's localhost (port-forward): {}, ignoring",
                       opened.error().message);
  pod_ports_ = std::move(*opened);
}

bool Monitor::handle_pod_request(const protocol::Request& request, const Reply& reply) {
  const std::string& method = request.method;
  if (method == "pause" || method == "resume") {
    freeze_pod(method == "pause", reply);
  } else if (method == "ps") {
    reply(protocol::to_json(protocol::ProcessesReply()));
  } else if (method == "exec" || method == "opened" || method == "resize") {
    reply(make_error(
        ErrorKind::kFailedPrecondition,
        fmt::format("sandbox {} runs no process: the pod's containers do", record_.state.id)));
  } else {
    return false;
  }
  return true;
}

// There is nothing to freeze: the machine stands while all of the pod's containers are frozen.
void Monitor::freeze_pod(bool freeze, const Reply& reply) {
  const char* status = freeze ? "paused" : (started_ ? "running" : "created");
  if (auto saved = save_status(status); !saved)
    return reply(tl::unexpected(std::move(saved.error())));
  reply(Json::object());
}

// As the program would take them: it ends on SIGTERM and SIGINT, and has handlers or no use for the
// others, which as the first process of a pid namespace it would ignore.
void Monitor::signal_pod(int signal) {
  if (signal == SIGTERM || signal == SIGINT) end_pod(0, kEndGraceMs);
  if (signal == SIGKILL) end_pod(128 + SIGKILL, kKillGraceMs);
}

void Monitor::end_pod(int exit_code, int64_t grace_ms) {
  if (ending()) return;
  exit_code_ = exit_code;
  loop_.add_timer(grace_ms, [this] { finish_in_order(); });
  sandbox_->agent()->request("shutdown", Json::object(), grace_ms,
                             [this](const Result<Json>& done) {
                               if (!done)
                                 log_warning("end the pod: {}, ignoring", done.error().message);
                               // Not in the middle of the agent's callback.
                               loop_.defer([this] { finish_in_order(); });
                             });
}

}  // namespace kiln::runtime
