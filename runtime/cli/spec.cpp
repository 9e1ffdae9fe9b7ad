// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "oci/parse.h"
#include "runtime/cli/command.h"

namespace kiln::runtime {
namespace {

Result<void> spec(const std::string& bundle, bool rootless) {
  const std::string path = bundle.empty() ? "config.json" : bundle + "/config.json";
  auto file = open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
  if (!file && file.error().sys_errno == EEXIST)
    return make_error(ErrorKind::kAlreadyExists, "File config.json exists. Remove it first");
  const UniqueFd created = TRY(std::move(file));
  return write_fully(created.get(), dump_json(oci::to_json(oci::default_spec(rootless)), 4) + "\n");
}

}  // namespace

void add_spec(const Command& app, Globals& globals) {
  struct Flags {
    std::string bundle;
    bool rootless = false;
  };
  const Command command = app.subcommand("spec", "create a new specification file");
  const auto flags = std::make_shared<Flags>();
  command.option("-b,--bundle", flags->bundle, "path to the root of the bundle directory");
  command.flag("--rootless", flags->rootless, "for a container of an unprivileged user");
  command.on_run([&globals, flags] {
    globals.exit_code = report(globals, spec(flags->bundle, flags->rootless));
  });
}

}  // namespace kiln::runtime
