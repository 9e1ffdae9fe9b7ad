// SPDX-License-Identifier: Apache-2.0
#include "oci/features.h"

#include <nlohmann/json.hpp>

#include "oci/enums.h"
#include "oci/mount_options.h"
#include "oci/version.h"

namespace kiln::oci {
namespace {

Json list(const char* const* values) {
  Json out = Json::array();
  for (; *values != nullptr; ++values) out.push_back(*values);
  return out;
}

Json enabled(bool value) { return Json{{"enabled", value}}; }

// How cgroups of the host are managed; containers meet the guest's v2 only, whatever the host has.
Json cgroup(const FeatureSupport& support) {
  return Json{
      {"v1", true}, {"v2", true}, {"systemd", true}, {"systemdUser", true}, {"rdma", support.rdma}};
}

// The flag that is missing needs a listener, which would be outside of the guest.
const char* const kSupportedFlags[] = {"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                                       "SECCOMP_FILTER_FLAG_TSYNC", nullptr};

Json seccomp() {
  return Json{{"enabled", true},
              {"actions", list(kSeccompActions)},
              {"operators", list(kSeccompOperators)},
              {"archs", list(kSeccompArchitectures)},
              {"knownFlags", list(kSeccompFlags)},
              {"supportedFlags", list(kSupportedFlags)}};
}

}  // namespace

Json features(const FeatureSupport& support) {
  Json out = Json::object();
  out["ociVersionMin"] = kOldestSpecVersion;
  out["ociVersionMax"] = kSpecVersion;
  out["hooks"] = list(kHookNames);
  out["mountOptions"] = mount_option_names();
  Json& config = out["linux"];
  config["namespaces"] = list(kNamespaceTypes);
  config["capabilities"] = list(kCapabilities);
  config["cgroup"] = cgroup(support);
  config["seccomp"] = seccomp();
  config["apparmor"] = enabled(support.apparmor);
  config["selinux"] = enabled(support.selinux);
  config["intelRdt"] = enabled(support.intel_rdt);
  config["mountExtensions"]["idmap"] = enabled(support.idmap_mounts);
  config["netDevices"] = enabled(support.net_devices);
  if (!support.unsafe_annotations.empty())
    out["potentiallyUnsafeConfigAnnotations"] = support.unsafe_annotations;
  if (!support.annotations.empty()) out["annotations"] = support.annotations;
  return out;
}

}  // namespace kiln::oci
