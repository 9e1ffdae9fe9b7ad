// SPDX-License-Identifier: Apache-2.0
#include "oci/features.h"

#include <cstdio>

#include <nlohmann/json.hpp>

#include "runtime/cli/command.h"

namespace kiln::runtime {

void add_features(const Command& app, Globals& globals) {
  const Command command = app.subcommand("features", "show the enabled features");
  command.on_run([&globals] {
    oci::FeatureSupport support;
    support.net_devices = true;
    support.unsafe_annotations = {"io.kiln."};
    support.annotations = {{"io.kiln.version", KILN_VERSION}};
    std::puts(dump_json(oci::features(support), 4).c_str());
    globals.exit_code = 0;
  });
}

}  // namespace kiln::runtime
