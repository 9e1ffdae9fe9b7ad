// SPDX-License-Identifier: Apache-2.0
#include "runtime/network/sandbox_network.h"

#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <sys/epoll.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "runtime/network/namespace.h"

namespace kiln::runtime {
namespace {

// Engines configure an interface in many small steps: enough of them at a time.
constexpr int64_t kSettleMs = 20;

}  // namespace

Result<std::unique_ptr<SandboxNetwork>> SandboxNetwork::enter(const std::string& path) {
  std::unique_ptr<SandboxNetwork> network(new SandboxNetwork());
  network->host_namespace_ = TRY(current_network_namespace());
  if (path.empty()) {
    TRY(make_network_namespace());
  } else {
    const UniqueFd target = TRY(open_network_namespace(path));
    if (TRY(is_same_namespace(target.get(), network->host_namespace_.get())))
      return make_error(ErrorKind::kUnimplemented,
                        fmt::format("network namespace `{}` is the host's own, which a container "
                                    "in a VM cannot use; the annotation `io.kiln.network: passt` "
                                    "gives it the host's connectivity",
                                    path));
    TRY(enter_network_namespace(target.get()));
  }
  network->socket_ = TRY(open_netlink());
  return network;
}

Result<std::unique_ptr<SandboxNetwork>> SandboxNetwork::enter_new(int namespace_fd) {
  std::unique_ptr<SandboxNetwork> network(new SandboxNetwork());
  network->host_namespace_ = TRY(current_network_namespace());
  TRY(enter_new_network_namespace(namespace_fd));
  network->socket_ = TRY(open_netlink());
  return network;
}

SandboxNetwork::~SandboxNetwork() {
  *alive_ = false;
  if (loop_ != nullptr && events_) loop_->remove_fd(nl_socket_get_fd(events_.get()));
  for (const auto& device : devices_) {
    if (device->interface != 0) disconnect(*device);
  }
}

std::set<int> SandboxNetwork::taps() const {
  std::set<int> out;
  for (const auto& device : devices_) out.insert(device->tap.index);
  return out;
}

SandboxNetwork::Device* SandboxNetwork::device_of(int interface) {
  const auto found = std::find_if(devices_.begin(), devices_.end(), [&](const auto& device) {
    return device->interface == interface;
  });
  return found == devices_.end() ? nullptr : found->get();
}

vmm::NetworkInterfaceConfig SandboxNetwork::config_of(const Device& device) {
  vmm::NetworkInterfaceConfig config;
  config.iface_id = device.id;
  config.tap_fd = device.tap.fd.get();
  config.guest_mac = device.mac;
  config.mtu = vmm::kLargestMtu;
  return config;
}

// A locally administered address tells the devices of a machine apart; the guest's agent gives the
// interface the one that the network knows.
Result<SandboxNetwork::Device> SandboxNetwork::make_device() {
  Device device;
  const unsigned number = next_device_++;
  device.id = fmt::format("net{}", number);
  device.mac = fmt::format("02:6b:6c:6e:{:02x}:{:02x}", number >> 8 & 0xff, number & 0xff);
  device.tap = TRY(make_tap(socket_.get()));
  return device;
}

Result<SandboxNetwork::Device*> SandboxNetwork::free_device() {
  Device* device = device_of(0);
  if (device != nullptr && !device->to_detach) return device;
  if (started_ && !plugging_.attach)
    return make_error(ErrorKind::kResourceExhausted,
                      "the machine has no network device left for it");
  devices_.push_back(std::make_unique<Device>(TRY(make_device())));
  return devices_.back().get();
}

// False: refused, which has been said.
Result<bool> SandboxNetwork::connect(const HostInterface& interface) {
  const std::string& name = interface.config.name;
  const bool known = refused_.contains(name);
  auto device = free_device();
  Result<void> wired;
  if (device) {
    wired = wire(socket_.get(), interface.index, (*device)->tap.index);
    if (wired && started_ && plugging_.attach && (*device)->tap.fd) {
      wired = plugging_.attach(config_of(**device));
      if (!wired) static_cast<void>(unwire(socket_.get(), interface.index));
    }
  } else {
    wired = tl::unexpected(std::move(device.error()));
  }
  if (wired) {
    if (started_) (*device)->tap.fd.reset();
    (*device)->interface = interface.index;
    (*device)->name = name;
    return true;
  }
  Error error = std::move(wired.error()).wrap(fmt::format("connect interface `{}`", name));
  if (error.kind == ErrorKind::kAlreadyExists)
    error.message += " (another virtual machine may be connected to it)";
  if (!started_) return tl::unexpected(std::move(error));
  if (!known) log_warning("{}, ignoring", error.message);
  refused_.insert(name);
  return false;
}

void SandboxNetwork::disconnect(Device& device) {
  if (auto done = unwire(socket_.get(), device.interface); !done)
    log_warning("disconnect interface `{}`: {}, ignoring", device.name, done.error().message);
  // The tap's own half: it may be wired again.
  static_cast<void>(unwire(socket_.get(), device.tap.index));
  device.interface = 0;
}

Result<std::vector<vmm::NetworkInterfaceConfig>> SandboxNetwork::plug_in(unsigned spare) {
  static_cast<void>(TRY(refresh()));
  for (unsigned i = 0; i < spare; ++i)
    devices_.push_back(std::make_unique<Device>(TRY(make_device())));
  std::vector<vmm::NetworkInterfaceConfig> out;
  for (const auto& device : devices_) out.push_back(config_of(*device));
  return out;
}

void SandboxNetwork::started(Plugging plugging) {
  plugging_ = std::move(plugging);
  started_ = true;
  for (const auto& device : devices_) device->tap.fd.reset();
}

Result<bool> SandboxNetwork::refresh() {
  std::vector<std::string> warnings;
  std::vector<HostInterface> found = TRY(list_interfaces(socket_.get(), taps(), warnings));
  for (const auto& device : devices_) {
    const bool there = std::any_of(found.begin(), found.end(), [&](const HostInterface& interface) {
      return interface.index == device->interface;
    });
    if (device->interface == 0 || there) continue;
    disconnect(*device);
    device->to_detach = static_cast<bool>(plugging_.detach);
  }
  protocol::NetworkRequest request;
  for (HostInterface& interface : found) {
    Device* device = device_of(interface.index);
    if (device == nullptr) {
      if (!TRY(connect(interface))) continue;
      device = device_of(interface.index);
    }
    if (auto same = set_mtu(socket_.get(), device->tap.index, interface.config.mtu); !same)
      log_debug("tap `{}`: {}, ignoring", device->tap.name, same.error().message);
    interface.config.device_mac = device->mac;
    request.interfaces.push_back(std::move(interface.config));
  }
  const Json before = protocol::to_json(request_);
  if (protocol::to_json(request) == before) return false;
  for (const std::string& warning : warnings) log_warning("{}, ignoring", warning);
  request_ = std::move(request);
  return true;
}

void SandboxNetwork::forget_unplugged() {
  for (const auto& device : devices_) {
    if (device->to_detach) plugging_.detach(device->id);
  }
  std::erase_if(devices_, [](const auto& device) { return device->to_detach; });
}

std::vector<int> SandboxNetwork::wired() const {
  std::vector<int> out;
  for (const auto& device : devices_) {
    if (device->interface != 0) out.push_back(device->interface);
  }
  return out;
}

Result<void> SandboxNetwork::watch(EventLoop& loop, std::function<void()> changed) {
  changed_ = std::move(changed);
  loop_ = &loop;
  events_ = TRY(open_netlink());
  nl_socket_disable_seq_check(events_.get());
  const int code = nl_socket_add_memberships(events_.get(), RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR,
                                             RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE,
                                             RTNLGRP_IPV6_ROUTE, RTNLGRP_NEIGH, RTNLGRP_NONE);
  if (code < 0) return netlink_error(code, "watch a network namespace");
  if (const int set = nl_socket_set_nonblocking(events_.get()); set < 0)
    return netlink_error(set, "watch a network namespace");
  // What they say does not matter: everything is looked at anew.
  nl_socket_modify_cb(
      events_.get(), NL_CB_VALID, NL_CB_CUSTOM, [](nl_msg*, void*) -> int { return NL_OK; },
      nullptr);
  return loop.add_fd(nl_socket_get_fd(events_.get()), EPOLLIN,
                     [this](uint32_t) { handle_events(); });
}

void SandboxNetwork::handle_events() {
  // An overrun (NLE_NOMEM) has been taken notice of by this.
  while (nl_recvmsgs_default(events_.get()) >= 0) {
  }
  if (settling_) return;
  settling_ = true;
  loop_->add_timer(kSettleMs, [this, alive = alive_] {
    if (!*alive) return;
    settling_ = false;
    changed_();
  });
}

Result<void> clean_network(const std::string& path, const std::vector<int>& interfaces) {
  if (interfaces.empty()) return {};
  const UniqueFd here = TRY(current_network_namespace());
  const auto target = open_network_namespace(path);
  if (!target) return {};  // it has gone, and everything in it
  if (TRY(is_same_namespace(here.get(), target->get()))) return {};
  TRY(enter_network_namespace(target->get()));
  Result<void> outcome;
  if (const auto socket = open_netlink(); socket) {
    for (const int interface : interfaces) {
      if (auto done = unwire(socket->get(), interface); !done && outcome) outcome = std::move(done);
    }
  } else {
    outcome = tl::unexpected(socket.error());
  }
  TRY(enter_network_namespace(here.get()));
  return outcome;
}

}  // namespace kiln::runtime
