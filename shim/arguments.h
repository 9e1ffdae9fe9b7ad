// SPDX-License-Identifier: Apache-2.0
// The command line on which containerd starts a shim: flags as Go's `flag` package takes them.
#pragma once

#include <string>

#include "base/error.h"

namespace kiln::shim {

struct Arguments {
  std::string action;  // start, delete; empty: serve
  std::string id;
  std::string namespace_name;
  std::string address;         // containerd's gRPC socket
  std::string publish_binary;  // of no use: events go over ttrpc
  std::string bundle;
  std::string socket;
  bool debug = false;
  bool version = false;
  bool info = false;
};

// `-name value`, `-name=value`, also with two dashes; flags end at the first other word.
Result<Arguments> parse_arguments(int argc, char** argv);

}  // namespace kiln::shim
