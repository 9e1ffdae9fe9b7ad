// SPDX-License-Identifier: Apache-2.0
// The container that `kiln box` makes up.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "oci/spec.h"

namespace kiln::runtime {

struct BoxOptions {
  std::vector<std::string> command;
  std::string rootfs = "/";
  std::vector<std::string> rw;  // PATH[:DST]
  std::vector<std::string> ro;
  std::vector<std::string> env;  // KEY=value, or KEY to take the caller's
  std::string workdir;           // empty: the caller's directory, if it is in the box
  bool terminal = false;
};

// `caller_directory`: absolute. `environment`: the caller's, KEY=value.
Result<oci::Spec> box_spec(const BoxOptions& options, const std::string& caller_directory,
                           const std::vector<std::string>& environment);

// `512`, `512M`, `2g`, `1GiB` in MiB; a bare number counts MiB.
Result<uint64_t> parse_memory_mib(const std::string& text);

}  // namespace kiln::runtime
