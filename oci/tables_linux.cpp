// SPDX-License-Identifier: Apache-2.0
// runtime-spec 1.2 config-linux.md, but for `resources` and `seccomp`.
#include <linux/if.h>

#include "base/format.h"
#include "oci/enums.h"
#include "oci/rules.h"
#include "oci/tables.h"

namespace kiln::oci {
namespace {

using enum Presence;

const char* const kDeviceTypes[] = {"c", "b", "u", "p", nullptr};
const char* const kClocks[] = {"monotonic", "boottime", nullptr};

// Names below /proc/sys, separated by dots or slashes. It becomes a path: `..` must not leave it.
bool is_sysctl(std::string_view text) {
  while (true) {
    const size_t end = text.find_first_of("./");
    const std::string_view name = text.substr(0, end);
    if (name.empty()) return false;  // also each part of `..`
    if (end == std::string_view::npos) return true;
    text.remove_prefix(end + 1);
  }
}

// dev_valid_name() of the kernel.
bool is_interface_name(std::string_view text) {
  if (text.empty()) return true;  // only for `name`, where it means unchanged
  return text.size() < IFNAMSIZ && text != "." && text != ".." &&
         text.find_first_of("/: \t\n\v\f\r") == std::string_view::npos;
}

bool is_interface_key(std::string_view text) { return !text.empty() && is_interface_name(text); }

// A directory name in resctrl.
bool is_clos_id(std::string_view text) {
  return text != "." && text != ".." && text.find('/') == std::string_view::npos;
}

constexpr Rule kNamespaceType{.values = kNamespaceTypes};
constexpr Rule kDeviceType{.values = kDeviceTypes};
constexpr Rule kAtLeastOne{.min = 1};
constexpr Rule kNotNegative{.min = 0, .max = 0xffffffff};
constexpr Rule kPropagation{.values = kPropagations};
constexpr Rule kDomain{.values = kPersonalityDomains};
constexpr Rule kSysctlKey{.text = "must be a name such as net.ipv4.ip_forward",
                          .accepts = is_sysctl};
constexpr Rule kSysctl{.keys = &kSysctlKey};
constexpr Rule kInterface{.text = "must be a name of a network interface",
                          .accepts = is_interface_name};
constexpr Rule kInterfaceKey{.text = "must be a name of a network interface",
                             .accepts = is_interface_key};
constexpr Rule kNetDevices{.keys = &kInterfaceKey};
constexpr Rule kClosId{.text = "must be a file name without slashes", .accepts = is_clos_id};
constexpr Rule kClock{.values = kClocks};
constexpr Rule kTimeOffsets{.keys = &kClock};
constexpr Rule kNanoseconds{.min = 0, .max = 999999999};

constexpr Field kIdMappingFields[] = {
    field<&IdMapping::container_id>("containerID", kRequired),
    field<&IdMapping::host_id>("hostID", kRequired),
    field<&IdMapping::size>("size", kRequired, &kAtLeastOne),
};

// user_namespaces(7): a range must not wrap around, and 4294967295 is not an id.
bool check_id_mapping(Reader& reader, void* object) {
  const auto& mapping = *static_cast<const IdMapping*>(object);
  const uint32_t start = std::max(mapping.container_id, mapping.host_id);
  if (uint64_t{start} + mapping.size <= 0xffffffff) return true;
  return reader.fail_value("/size", "must not reach beyond the id 4294967294",
                           fmt::format("{}", mapping.size));
}

constexpr Field kNamespaceFields[] = {
    field<&Namespace::type>("type", kRequired, &kNamespaceType),
    field<&Namespace::path>("path"),
};

// An empty path is how Go's encoder writes an absent one.
bool check_namespace(Reader& reader, void* object) {
  const auto& entry = *static_cast<const Namespace*>(object);
  if (entry.path.empty() || is_absolute_path(entry.path)) return true;
  return reader.fail_value("/path", "must be an absolute path", entry.path);
}

constexpr Field kDeviceFields[] = {
    field<&Device::type>("type", kRequired, &kDeviceType),
    field<&Device::path>("path", kRequired, &kAbsolutePath),
    field<&Device::major>("major", kWritten, &kNotNegative),
    field<&Device::minor>("minor", kWritten, &kNotNegative),
    field<&Device::file_mode>("fileMode"),
    field<&Device::uid>("uid"),
    field<&Device::gid>("gid"),
};

constexpr Field kNetDeviceFields[] = {
    field<&NetDevice::name>("name", kOptional, &kInterface),
};

constexpr Field kPersonalityFields[] = {
    field<&Personality::domain>("domain", kRequired, &kDomain),
    field<&Personality::flags>("flags"),
};

bool check_personality(Reader& reader, void* object) {
  const auto& personality = *static_cast<const Personality*>(object);
  // config-linux.md#personality: no flag values are supported at this time.
  if (personality.flags.empty()) return true;
  return reader.fail_value("/flags/0", "must not be given: the spec defines no flags",
                           personality.flags[0]);
}

constexpr Field kIntelRdtFields[] = {
    field<&IntelRdt::clos_id>("closID", kOptional, &kClosId),
    field<&IntelRdt::schemata>("schemata"),
    field<&IntelRdt::l3_cache_schema>("l3CacheSchema"),
    field<&IntelRdt::mem_bw_schema>("memBwSchema"),
    field<&IntelRdt::enable_cmt>("enableCMT"),
    field<&IntelRdt::enable_mbm>("enableMBM"),
};

constexpr Field kTimeOffsetFields[] = {
    field<&TimeOffset::secs>("secs"),
    field<&TimeOffset::nanosecs>("nanosecs", kOptional, &kNanoseconds),
};

constexpr Field kLinuxFields[] = {
    field<&Linux::namespaces>("namespaces"),
    field<&Linux::uid_mappings>("uidMappings"),
    field<&Linux::gid_mappings>("gidMappings"),
    field<&Linux::devices>("devices"),
    field<&Linux::net_devices>("netDevices", kOptional, &kNetDevices),
    field<&Linux::cgroups_path>("cgroupsPath"),
    field<&Linux::resources>("resources"),
    field<&Linux::rootfs_propagation>("rootfsPropagation", kOptional, &kPropagation),
    field<&Linux::masked_paths>("maskedPaths", kOptional, &kAbsolutePath),
    field<&Linux::readonly_paths>("readonlyPaths", kOptional, &kAbsolutePath),
    field<&Linux::personality>("personality"),
    field<&Linux::mount_label>("mountLabel"),
    field<&Linux::seccomp>("seccomp"),
    field<&Linux::sysctl>("sysctl", kOptional, &kSysctl),
    field<&Linux::intel_rdt>("intelRdt"),
    field<&Linux::time_offsets>("timeOffsets", kOptional, &kTimeOffsets),
};

bool check_user_namespace(Reader& reader, const Linux& config) {
  const Namespace* user = find_namespace(config, "user");
  if (user == nullptr) {
    if (config.uid_mappings.empty() && config.gid_mappings.empty()) return true;
    return reader.fail(config.uid_mappings.empty() ? "/gidMappings" : "/uidMappings",
                       "needs a user namespace in /linux/namespaces");
  }
  if (!user->path.empty()) return true;  // it has its mappings already
  if (config.uid_mappings.empty())
    return reader.fail("/uidMappings", "is required for a new user namespace");
  if (config.gid_mappings.empty())
    return reader.fail("/gidMappings", "is required for a new user namespace");
  return true;
}

bool check_linux(Reader& reader, void* object) {
  const auto& config = *static_cast<const Linux*>(object);
  // config-linux.md#namespaces: a duplicate is an error.
  for (size_t i = 0; i < config.namespaces.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (config.namespaces[i].type == config.namespaces[j].type)
        return reader.fail_value(fmt::format("/namespaces/{}/type", i), "must not be given twice",
                                 config.namespaces[i].type);
  if (!check_user_namespace(reader, config)) return false;
  if (!config.time_offsets.empty()) {
    const Namespace* time = find_namespace(config, "time");
    if (time == nullptr)
      return reader.fail("/timeOffsets", "needs a time namespace in /linux/namespaces");
    if (!time->path.empty())
      return reader.fail("/timeOffsets", "cannot be set on a time namespace given by path");
  }
  if (!config.net_devices.empty() && find_namespace(config, "network") == nullptr)
    return reader.fail("/netDevices", "needs a network namespace in /linux/namespaces");
  return true;
}

}  // namespace

bool allows_all_devices(const Linux& config) {
  bool all = false;
  if (!config.resources) return all;
  for (const DeviceRule& rule : config.resources->devices) {
    const bool every = (rule.type.empty() || rule.type == "a") && rule.major.value_or(-1) == -1 &&
                       rule.minor.value_or(-1) == -1;
    if (every) all = rule.allow && rule.access.find('w') != std::string::npos;
  }
  return all;
}

const Namespace* find_namespace(const Linux& config, const std::string& type) {
  for (const Namespace& entry : config.namespaces)
    if (entry.type == type) return &entry;
  return nullptr;
}

constinit const Type TypeOf<IdMapping>::kType = struct_type(kIdMappingFields, check_id_mapping);
constinit const Type TypeOf<Namespace>::kType = struct_type(kNamespaceFields, check_namespace);
constinit const Type TypeOf<Device>::kType = struct_type(kDeviceFields);
constinit const Type TypeOf<NetDevice>::kType = struct_type(kNetDeviceFields);
constinit const Type TypeOf<Personality>::kType =
    struct_type(kPersonalityFields, check_personality);
constinit const Type TypeOf<IntelRdt>::kType = struct_type(kIntelRdtFields);
constinit const Type TypeOf<TimeOffset>::kType = struct_type(kTimeOffsetFields);
constinit const Type TypeOf<Linux>::kType = struct_type(kLinuxFields, check_linux);

}  // namespace kiln::oci
