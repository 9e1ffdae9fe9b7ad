// SPDX-License-Identifier: Apache-2.0
// What `kiln features` prints: runtime-spec 1.2 features.md and features-linux.md.
#pragma once

#include "base/json.h"
#include "oci/spec.h"

namespace kiln::oci {

// The parts of the answer that lie outside this folder. False is an honest "no".
struct FeatureSupport {
  bool idmap_mounts = false;
  bool net_devices = false;
  bool apparmor = false;
  bool selinux = false;
  bool intel_rdt = false;
  bool rdma = false;
  // Prefixes of annotations in config.json that change how the runtime itself behaves; engines must
  // not let their users set them (features.md#unsafe-annotations-in-configjson).
  Strings unsafe_annotations;
  StringMap annotations;  // versions, such as org.opencontainers.runc.version in runc's own answer
};

Json features(const FeatureSupport& support);

}  // namespace kiln::oci
