// SPDX-License-Identifier: Apache-2.0
#include "runtime/features.h"

#include <nlohmann/json.hpp>

#include "oci/features.h"

namespace kiln::runtime {

Json runtime_features() {
  oci::FeatureSupport support;
  support.net_devices = true;
  support.unsafe_annotations = {"io.kiln."};
  support.annotations = {{"io.kiln.version", KILN_VERSION}};
  return oci::features(support);
}

}  // namespace kiln::runtime
