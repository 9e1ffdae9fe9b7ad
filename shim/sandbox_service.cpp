// SPDX-License-Identifier: Apache-2.0
#include "shim/sandbox_service.h"

#include <unistd.h>

#include <csignal>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/json.h"
#include "base/log.h"
#include "runtime/container_dir.h"
#include "shim/sandbox_files.h"
#include "shim/sandbox_spec.h"
#include "shim/stats.h"

namespace kiln::shim {
namespace {

constexpr const char* kService = "containerd.runtime.sandbox.v1.Sandbox";
constexpr int64_t kStopMs = 10'000;  // where the caller names no time

}  // namespace

const Call<SandboxService> SandboxService::kCalls[] = {
    {"CreateSandbox", &SandboxService::create},   {"StartSandbox", &SandboxService::start},
    {"Platform", &SandboxService::platform},      {"StopSandbox", &SandboxService::stop},
    {"WaitSandbox", &SandboxService::wait},       {"SandboxStatus", &SandboxService::status},
    {"PingSandbox", &SandboxService::ping},       {"ShutdownSandbox", &SandboxService::shutdown},
    {"SandboxMetrics", &SandboxService::metrics},
};

std::vector<ttrpc::Server::Method> SandboxService::methods() {
  std::vector<ttrpc::Server::Method> out;
  add_calls<SandboxService>(this, kService, kCalls, out);
  return out;
}

bool SandboxService::is_ours(const std::string& id, const Reply& reply) const {
  if (sandbox_ && sandbox_->id() == id) return true;
  reply(make_error(ErrorKind::kNotFound, fmt::format("sandbox {}: not found", id)));
  return false;
}

void SandboxService::create(const Incoming& incoming, const Reply& reply) {
  api::CreateSandboxRequest request;
  if (!decode(incoming, reply, request)) return;
  if (const auto checked = runtime::check_container_id(request.sandbox_id()); !checked)
    return reply(tl::unexpected(checked.error()));
  if (sandbox_)
    return reply(make_error(ErrorKind::kAlreadyExists,
                            fmt::format("sandbox {}: already exists", sandbox_->id())));
  const auto spec = sandbox_spec(request);
  if (!spec) return reply(tl::unexpected(spec.error()));
  if (auto written =
          write_file_atomic(request.bundle_path() + "/config.json", dump_json(*spec), 0600);
      !written)
    return reply(tl::unexpected(std::move(written.error())));
  if (auto made = make_sandbox_files(request); !made) {
    static_cast<void>(remove_sandbox_files(request.bundle_path()));
    return reply(tl::unexpected(std::move(made.error())));
  }
  NewTask description;
  description.id = request.sandbox_id();
  description.namespace_name = context_.namespace_name;
  description.bundle = request.bundle_path();
  description.silent = true;
  description.options = context_.options;
  sandbox_ = std::make_shared<Task>(context_, std::move(description));
  sandbox_->create([this, reply](Result<void> created) {
    if (created) {
      context_.sandbox_bundle = sandbox_->bundle();
      return reply(std::string());
    }
    static_cast<void>(remove_sandbox_files(sandbox_->bundle()));
    sandbox_.reset();
    reply(tl::unexpected(std::move(created.error())));
  });
}

void SandboxService::start(const Incoming& incoming, const Reply& reply) {
  api::SandboxRequest request;
  if (!decode(incoming, reply, request) || !is_ours(request.sandbox_id(), reply)) return;
  sandbox_->when_created([this, reply, sandbox = sandbox_] {
    sandbox->start([this, reply, sandbox](Result<void> started) {
      if (!started) return reply(tl::unexpected(std::move(started.error())));
      created_at_ = now();
      api::StartSandboxResponse response;
      response.set_pid(sandbox->init().pid);
      *response.mutable_created_at() = created_at_;
      reply(response.SerializeAsString());
    });
  });
}

void SandboxService::platform(const Incoming& incoming, const Reply& reply) {
  api::SandboxRequest request;
  if (!decode(incoming, reply, request)) return;
  api::PlatformResponse response;
  response.mutable_platform()->set_os("linux");
  response.mutable_platform()->set_architecture("amd64");
  reply(response.SerializeAsString());
}

void SandboxService::stop(const Incoming& incoming, const Reply& reply) {
  api::StopSandboxRequest request;
  if (!decode(incoming, reply, request) || !is_ours(request.sandbox_id(), reply)) return;
  const int64_t patience_ms =
      request.timeout_secs() > 0 ? int64_t{request.timeout_secs()} * 1000 : kStopMs;
  sandbox_->when_created([this, reply, patience_ms, sandbox = sandbox_] {
    sandbox->kill("", SIGTERM, false, [this, reply, patience_ms, sandbox](Result<void> killed) {
      // It has ended by itself.
      if (!killed && killed.error().kind != ErrorKind::kNotFound)
        return reply(tl::unexpected(std::move(killed.error())));
      sandbox->wait("", [reply] { reply(std::string()); });
      end_by_force(patience_ms);
    });
  });
}

void SandboxService::end_by_force(int64_t after_ms) {
  context_.loop.add_timer(after_ms, [sandbox = sandbox_] {
    if (!sandbox || sandbox->init().stopped()) return;
    sandbox->kill("", SIGKILL, true, [](Result<void> killed) {
      if (!killed && killed.error().kind != ErrorKind::kNotFound)
        log_warning("end the sandbox: {}, ignoring", killed.error().message);
    });
  });
}

void SandboxService::wait(const Incoming& incoming, const Reply& reply) {
  api::SandboxRequest request;
  if (!decode(incoming, reply, request) || !is_ours(request.sandbox_id(), reply)) return;
  sandbox_->wait("", [reply, sandbox = sandbox_] {
    api::WaitSandboxResponse response;
    response.set_exit_status(sandbox->init().exit_status);
    *response.mutable_exited_at() = sandbox->init().exited_at;
    reply(response.SerializeAsString());
  });
}

Json SandboxService::verbose_info() const {
  return {{"shimPid", getpid()}, {"monitorPid", sandbox_->init().pid}, {"version", KILN_VERSION}};
}

void SandboxService::status(const Incoming& incoming, const Reply& reply) {
  api::SandboxStatusRequest request;
  if (!decode(incoming, reply, request) || !is_ours(request.sandbox_id(), reply)) return;
  const Process& process = sandbox_->init();
  api::SandboxStatusResponse response;
  response.set_sandbox_id(sandbox_->id());
  response.set_pid(process.pid);
  response.set_state(process.status == api::RUNNING ? "SANDBOX_READY" : "SANDBOX_NOTREADY");
  *response.mutable_created_at() = created_at_;
  if (process.stopped()) *response.mutable_exited_at() = process.exited_at;
  if (request.verbose()) (*response.mutable_info())["kiln"] = dump_json(verbose_info());
  reply(response.SerializeAsString());
}

void SandboxService::ping(const Incoming& incoming, const Reply& reply) {
  api::SandboxRequest request;
  if (!decode(incoming, reply, request) || !is_ours(request.sandbox_id(), reply)) return;
  if (sandbox_->init().stopped())
    return reply(make_error(ErrorKind::kFailedPrecondition, "the sandbox has ended"));
  reply(std::string());
}

void SandboxService::shutdown(const Incoming& incoming, const Reply& reply) {
  api::SandboxRequest request;
  if (!decode(incoming, reply, request)) return;
  // A second time, or after a create that failed.
  if (!sandbox_) {
    reply(std::string());
    return on_shutdown_();
  }
  if (!is_ours(request.sandbox_id(), reply)) return;
  const auto remove = [this, reply, sandbox = sandbox_] {
    sandbox->remove([this, reply](Result<void> removed) {
      if (!removed) return reply(tl::unexpected(std::move(removed.error())));
      sandbox_.reset();
      reply(std::string());
      on_shutdown_();
    });
  };
  sandbox_->when_created([this, remove, sandbox = sandbox_] {
    if (sandbox->init().status != api::RUNNING) return remove();
    sandbox->kill("", SIGKILL, true, [](Result<void>) {});
    sandbox->wait("", [this, remove] { context_.loop.defer(remove); });
  });
}

void SandboxService::metrics(const Incoming& incoming, const Reply& reply) {
  api::SandboxRequest request;
  if (!decode(incoming, reply, request) || !is_ours(request.sandbox_id(), reply)) return;
  sandbox_->stats([this, reply, id = request.sandbox_id()](Result<protocol::StatsReply> stats) {
    if (!stats) return reply(tl::unexpected(std::move(stats.error())));
    api::SandboxMetricsResponse response;
    api::Metric& metric = *response.mutable_metrics();
    *metric.mutable_timestamp() = now();
    metric.set_id(id);
    *metric.mutable_data() = encode_stats(*stats, context_.unified_cgroups);
    reply(response.SerializeAsString());
  });
}

}  // namespace kiln::shim
