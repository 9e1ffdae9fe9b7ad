// SPDX-License-Identifier: Apache-2.0
// The sandbox's network on its way: interfaces are there when it starts, or come and go later.
#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "runtime/monitor_impl.h"
#include "runtime/network/namespace.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kNetworkTimeoutMs = 30'000;

}  // namespace

Result<void> Monitor::enter_network(const MonitorPlan& plan) {
  if (plan.network == NetworkMode::kNone) return {};
  if (plan.network == NetworkMode::kPasst) {
    TRY(enter_passt(plan));
  } else {
    const oci::Namespace* entry = oci::find_namespace(plan.spec.linux, "network");
    record_.network_path = entry != nullptr ? entry->path : "";
    auto network = SandboxNetwork::enter(record_.network_path);
    // A user without privileges cannot have a new one, nor could anybody put an interface into it:
    // the guest has `lo` all the same. Hooks would look for it, though.
    const bool unneeded = record_.network_path.empty() && !plan.spec.hooks;
    if (!network && network.error().sys_errno == EPERM && unneeded) return {};
    network_ = TRY(std::move(network));
    TRY(move_net_devices(plan));
    // The owner of the sandbox has wired it.
    if (plan.join) record_.network_path.clear();
  }
  const UniqueFd entered = TRY(current_network_namespace());
  return main_thread_.perform([&entered] { return enter_network_namespace(entered.get()); });
}

Result<void> Monitor::move_net_devices(const MonitorPlan& plan) {
  if (plan.spec.linux.net_devices.empty()) return {};
  std::map<std::string, std::string> wanted;
  for (const auto& [name, device] : plan.spec.linux.net_devices) wanted[name] = device.name;
  const UniqueFd target = TRY(current_network_namespace());
  net_devices_ = TRY(NetDevices::move(wanted, network_->host_namespace(), target.get()));
  return {};
}

// From the monitor of a container that has joined: it has moved interfaces into our namespace.
void Monitor::handle_network(const Json& params, const Reply& reply) {
  const auto names = params.at("interfaces").get<std::vector<std::string>>();
  update_network([this, names, reply] {
    std::set<std::string> connected;
    if (network_) {
      for (const auto& interface : network_->request().interfaces) connected.insert(interface.name);
    }
    for (const std::string& name : names) {
      if (!connected.contains(name))
        return reply(make_error(
            ErrorKind::kResourceExhausted,
            fmt::format("the sandbox's machine has no network device left for `{}`", name)));
    }
    reply(Json::object());
  });
}

Result<void> Monitor::plug_in_network(const MonitorPlan& plan, vmm::VmConfig& vm) {
  if (!network_) return {};
  vm.network_interfaces = TRY(network_->plug_in(plan.spare_interfaces));
  record_.network_interfaces = network_->wired();
  return save_status("creating");
}

void Monitor::network_is_started(const MonitorPlan& plan) {
  if (!network_) return;
  SandboxNetwork::Plugging plugging;
  if (plan.vm.machine.spare_slots > plan.spare_drives) {
    plugging.attach = [this](const vmm::NetworkInterfaceConfig& interface) {
      return machine_->attach_network(interface);
    };
    plugging.detach = [this](const std::string& id) { machine_->detach_network(id); };
  }
  network_->started(std::move(plugging));
}

Result<bool> Monitor::refresh_network() {
  const bool changed = TRY(network_->refresh());
  if (record_.network_interfaces != network_->wired()) {
    record_.network_interfaces = network_->wired();
    TRY(dir_.write_record(record_));
  }
  return changed;
}

void Monitor::leave_network() {
  if (!network_) return;
  // It must not ask anybody there.
  resolver_.reset();
  pod_ports_.reset();
  const int host = network_->host_namespace();
  if (const auto left = enter_network_namespace(host); !left)
    log_warning("{}, ignoring", left.error().message);
  static_cast<void>(main_thread_.perform([host] { return enter_network_namespace(host); }));
  network_.reset();
  pasta_.reset();
  record_.network_interfaces.clear();
}

Result<void> Monitor::bring_up_network() {
  if (!network_) return {};
  // Before the last look, so that nothing falls between the two.
  TRY(network_->watch(loop_, [this] { update_network([] {}); }));
  static_cast<void>(TRY(refresh_network()));
  TRY(wrap(ask_agent("network", protocol::to_json(network_->request()), kNetworkTimeoutMs),
           "set up the guest's network"));
  network_->forget_unplugged();
  if (TRY(open_resolver()))
    TRY(wrap(ask_agent("resolver", Json::object(), kNetworkTimeoutMs),
             "set up the guest's name server"));
  return {};
}

Result<bool> Monitor::open_resolver() {
  if (resolver_ || !TRY(resolv_conf_.names(kRelayedNameServer))) return false;
  NameServer server;
  if (loopback_name_server_) server = {*loopback_name_server_, host_network()};
  resolver_ = TRY(ResolverRelay::listen(loop_, sandbox_->vsock_path(), server));
  return true;
}

// Docker writes resolv.conf anew when a container gets into the first network that has names.
void Monitor::update_resolver() {
  const auto opened = open_resolver();
  if (!opened) log_warning("{}, ignoring", opened.error().message);
  if (!opened || !*opened) return;
  sandbox_->agent()->request(
      "resolver", Json::object(), kNetworkTimeoutMs, [](const Result<Json>& answer) {
        if (!answer)
          log_warning("set up the guest's name server: {}, ignoring", answer.error().message);
      });
}

void Monitor::update_network(const std::function<void()>& done) {
  const bool ours = network_ && machine_ != nullptr && machine_->agent() != nullptr;
  if (!ours || ending()) return done();
  update_resolver();
  const auto changed = refresh_network();
  if (!changed) log_warning("look at the network: {}, ignoring", changed.error().message);
  if (!changed || !*changed) return done();
  sandbox_->agent()->request("network", protocol::to_json(network_->request()), kNetworkTimeoutMs,
                             [this, done](const Result<Json>& answer) {
                               if (!answer)
                                 log_warning("change the guest's network: {}, ignoring",
                                             answer.error().message);
                               if (network_) network_->forget_unplugged();
                               done();
                             });
}

}  // namespace kiln::runtime
