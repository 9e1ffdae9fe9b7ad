// SPDX-License-Identifier: Apache-2.0
#include "runtime/plan.h"

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "oci/parse.h"

namespace kiln::runtime {

namespace {

Json join_to_json(const std::optional<JoinPlan>& join) {
  if (!join) return nullptr;
  return {{"owner", join->owner}, {"shared", join->shared}};
}

std::optional<JoinPlan> join_from_json(const Json& json) {
  if (json.is_null()) return std::nullopt;
  return JoinPlan{json.at("owner").get<std::string>(),
                  json.at("shared").get<std::map<std::string, std::string>>()};
}

Json forwards_to_json(const std::vector<Forward>& forwards) {
  Json out = Json::array();
  for (const Forward& forward : forwards)
    out.push_back({{"path", forward.path}, {"shared", forward.shared}});
  return out;
}

std::vector<Forward> forwards_from_json(const Json& json) {
  std::vector<Forward> out;
  for (const Json& forward : json)
    out.push_back({forward.at("path").get<std::string>(), forward.at("shared").get<std::string>()});
  return out;
}

}  // namespace

std::string encode_plan(const MonitorPlan& plan) {
  const vmm::VmConfig& vm = plan.vm;
  Json passed = Json::array();
  for (const protocol::Passed kind : plan.passed) passed.push_back(static_cast<int>(kind));
  return dump_json({
      {"id", plan.id},
      {"bundle", plan.bundle},
      {"spec", oci::to_json(plan.spec)},
      {"pod", plan.pod},
      {"rootLayers", plan.root_layers.lower},
      {"rootUpper", plan.root_layers.upper},
      {"overlay", plan.overlay},
      {"overlaySize", plan.overlay_size_bytes},
      {"join", join_to_json(plan.join)},
      {"vmmBinary", plan.vmm_binary},
      {"bootTimeout", plan.boot_timeout_ms},
      {"passed", std::move(passed)},
      {"listenFds", plan.listen_fds},
      {"notifySocket", plan.notify_socket},
      {"notifyPid", plan.notify_pid},
      {"forwards", forwards_to_json(plan.forwards)},
      {"endsWithCreator", plan.ends_with_creator},
      {"directTerminal", plan.direct_terminal},
      {"origin", plan.origin.directories},
      {"logLevel", plan.log_level},
      {"logFormat", plan.log_format},
      {"network", static_cast<int>(plan.network)},
      {"pasta", plan.pasta},
      {"hostResolvConf", plan.host_resolv_conf},
      {"spareInterfaces", plan.spare_interfaces},
      {"spareDrives", plan.spare_drives},
      {"vm",
       {{"backend", static_cast<int>(vm.backend)},
        {"vcpus", vm.machine.vcpu_count},
        {"memory", vm.machine.mem_size_mib},
        {"nested", vm.machine.nested},
        {"spareSlots", vm.machine.spare_slots},
        {"kernel", vm.boot_source.kernel_image_path},
        {"initrd", vm.boot_source.initrd_path},
        {"bootArgs", vm.boot_source.boot_args},
        {"qemuBinary", vm.qemu_binary},
        {"qemuAccel", vm.qemu_accel}}},
  });
}

// From our own command, over a socket that only it has.
Result<MonitorPlan> decode_plan(const std::string& text) {
  const Json json = TRY(parse_json(text));
  try {
    MonitorPlan plan;
    plan.id = json.at("id").get<std::string>();
    plan.bundle = json.at("bundle").get<std::string>();
    plan.spec = TRY(oci::parse_spec(json.at("spec")));
    plan.pod = json.at("pod").get<bool>();
    plan.root_layers.lower = json.at("rootLayers").get<std::vector<std::string>>();
    plan.root_layers.upper = json.at("rootUpper").get<std::string>();
    plan.overlay = json.at("overlay").get<bool>();
    plan.overlay_size_bytes = json.at("overlaySize").get<uint64_t>();
    plan.join = join_from_json(json.at("join"));
    plan.vmm_binary = json.at("vmmBinary").get<std::string>();
    plan.boot_timeout_ms = json.at("bootTimeout").get<int64_t>();
    for (const Json& kind : json.at("passed"))
      plan.passed.push_back(static_cast<protocol::Passed>(kind.get<int>()));
    plan.listen_fds = json.at("listenFds").get<size_t>();
    plan.notify_socket = json.at("notifySocket").get<std::string>();
    plan.notify_pid = json.at("notifyPid").get<pid_t>();
    plan.ends_with_creator = json.at("endsWithCreator").get<bool>();
    plan.direct_terminal = json.at("directTerminal").get<bool>();
    plan.origin.directories = json.at("origin").get<std::map<std::string, std::string>>();
    plan.forwards = forwards_from_json(json.at("forwards"));
    plan.log_level = json.at("logLevel").get<int>();
    plan.log_format = json.at("logFormat").get<int>();
    plan.network = static_cast<NetworkMode>(json.at("network").get<int>());
    plan.pasta = json.at("pasta").get<std::string>();
    plan.host_resolv_conf = json.at("hostResolvConf").get<bool>();
    plan.spare_interfaces = json.at("spareInterfaces").get<unsigned>();
    plan.spare_drives = json.at("spareDrives").get<unsigned>();
    const Json& vm = json.at("vm");
    plan.vm.backend = static_cast<vmm::Backend>(vm.at("backend").get<int>());
    plan.vm.machine.vcpu_count = vm.at("vcpus").get<unsigned>();
    plan.vm.machine.mem_size_mib = vm.at("memory").get<uint64_t>();
    plan.vm.machine.nested = vm.at("nested").get<bool>();
    plan.vm.machine.spare_slots = vm.at("spareSlots").get<unsigned>();
    plan.vm.boot_source.kernel_image_path = vm.at("kernel").get<std::string>();
    plan.vm.boot_source.initrd_path = vm.at("initrd").get<std::string>();
    plan.vm.boot_source.boot_args = vm.at("bootArgs").get<std::string>();
    plan.vm.qemu_binary = vm.at("qemuBinary").get<std::string>();
    plan.vm.qemu_accel = vm.at("qemuAccel").get<std::string>();
    return plan;
  } catch (const Json::exception& error) {
    return make_error(ErrorKind::kInternal, fmt::format("read the plan: {}", error.what()));
  }
}

std::string encode_outcome(const Result<void>& outcome) {
  if (outcome) return {};
  return dump_json({{"kind", static_cast<int>(outcome.error().kind)},
                    {"errno", outcome.error().sys_errno},
                    {"message", outcome.error().message}});
}

Result<void> decode_outcome(const std::string& text) {
  if (text.empty()) return {};
  const Json json = TRY(parse_json(text));
  try {
    return tl::unexpected(Error{static_cast<ErrorKind>(json.at("kind").get<int>()),
                                json.at("errno").get<int>(),
                                json.at("message").get<std::string>()});
  } catch (const Json::exception& error) {
    return make_error(ErrorKind::kInternal, fmt::format("read the outcome: {}", error.what()));
  }
}

}  // namespace kiln::runtime
