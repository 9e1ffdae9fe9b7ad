// SPDX-License-Identifier: Apache-2.0
// The network mode passt: a network namespace that has the host's connectivity.
#include <arpa/inet.h>

#include <filesystem>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "runtime/monitor_impl.h"
#include "runtime/resolv_conf.h"

namespace kiln::runtime {
namespace {

constexpr const char* kResolvConf = "/etc/resolv.conf";
constexpr int64_t kPastaTimeoutMs = 10'000;

// The last mount on it, if that is a file of the host's.
oci::Mount* resolv_conf_mount(oci::Spec& spec) {
  oci::Mount* found = nullptr;
  for (oci::Mount& mount : spec.mounts) {
    if (std::filesystem::path(mount.destination).lexically_normal() == kResolvConf) found = &mount;
  }
  return found;
}

}  // namespace

// A name server on the host's loopback interface is out of pasta's reach: the relay takes its
// place. A container that has another file keeps it.
Result<void> Monitor::prepare_names(MonitorPlan& plan) {
  if (plan.network != NetworkMode::kPasst) return {};
  oci::Mount* mount = resolv_conf_mount(plan.spec);
  if (!plan.host_resolv_conf && mount == nullptr) return {};
  const std::string of_host = TRY(TRY(ResolvConf::at(kResolvConf)).text());
  const std::string loopback = loopback_server(of_host);
  std::string text = of_host;
  if (!plan.host_resolv_conf) {
    // A relative path is the bundle's, where we are.
    if (!loopback.empty()) text = TRY(TRY(ResolvConf::at(mount->source)).text());
    if (loopback.empty() || !names_server(text, loopback)) return {};
  }
  in_addr address{};
  if (inet_pton(AF_INET, loopback.c_str(), &address) == 1) {
    loopback_name_server_ = ntohl(address.s_addr);
    text = replace_loopback_servers(text, kRelayedNameServer);
  }
  const std::string file = dir_.file("resolv.conf");
  TRY(write_file_atomic(file, text, 0644));
  if (mount == nullptr) {
    plan.spec.mounts.emplace_back();
    mount = &plan.spec.mounts.back();
    mount->destination = kResolvConf;
    mount->type = "bind";
    mount->options = {"bind", "ro"};
  }
  mount->source = file;
  return {};
}

Result<void> Monitor::enter_passt(const MonitorPlan& plan) {
  NamespaceHolder holder = TRY(NamespaceHolder::start());
  {
    const UniqueFd made = TRY(holder.open_network());
    network_ = TRY(SandboxNetwork::enter_new(made.get()));
  }
  Pasta::Options options;
  options.program = plan.pasta;
  options.host_namespace = network_->host_namespace();
  pasta_ = TRY(wrap(Pasta::start(loop_, options, std::move(holder),
                                 [this](Error reason) {
                                   if (creating_) return interrupt(std::move(reason));
                                   log_error("{}", reason.message);
                                 }),
                    "start the container's network"));
  return wait_until([this] { return pasta_->ready(); }, kPastaTimeoutMs,
                    "pasta did not make its interface");
}

}  // namespace kiln::runtime
