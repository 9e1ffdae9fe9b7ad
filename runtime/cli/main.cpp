// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include <CLI/CLI.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "oci/version.h"
#include "runtime/cli/command.h"
#include "runtime/monitor.h"
#include "runtime/plan.h"

namespace kiln::runtime {
namespace {

using AddCommand = void (*)(const Command&, Globals&);

// In the order of the help text.
constexpr AddCommand kCommands[] = {
    add_box,   add_create, add_delete, add_events,  add_exec,  add_features,
    add_kill,  add_list,   add_pause,  add_ps,      add_run,   add_spec,
    add_start, add_state,  add_update, add_version, add_check, add_guest,
};

LogFormat format_of(const Globals& globals) {
  return globals.log_format == "json" ? LogFormat::kJson : LogFormat::kText;
}

Result<void> set_up_log(const Globals& globals) {
  const LogLevel level = globals.debug ? LogLevel::kDebug : LogLevel::kInfo;
  if (globals.log_format != "text" && globals.log_format != "json")
    return invalid_argument(fmt::format("invalid log-format: {}", globals.log_format));
  UniqueFd file;
  if (!globals.log.empty()) file = TRY(open_file(globals.log, O_WRONLY | O_CREAT | O_APPEND, 0644));
  log_setup(level, format_of(globals), std::move(file));
  return {};
}

void add_globals(CLI::App& app, Globals& globals) {
  app.add_option("--root", globals.root, "directory for the state of containers, on a tmpfs")
      ->capture_default_str();
  app.add_option("--log", globals.log, "file to write logs to (default: standard error)");
  app.add_option("--log-format", globals.log_format, "text or json")->capture_default_str();
  app.add_flag("--debug", globals.debug, "log more");
  app.add_flag("--systemd-cgroup", globals.systemd_cgroup,
               "let systemd make the container's cgroup: cgroupsPath is slice:prefix:name");
  app.add_option("--rootless", globals.rootless,
                 "do without a cgroup where none can be made: true, false or auto");
  app.add_option("--config", globals.config_path, "configuration file")->capture_default_str();
}

// Internal: what create starts. It goes around the parser, because it stays in memory for as long
// as the container runs.
bool is_monitor(int argc, char** argv) {
  return argc == 5 && std::string_view(argv[1]) == "--root" &&
         std::string_view(argv[3]) == "monitor" && fcntl(kSyncFd, F_GETFD) >= 0 &&
         fcntl(kDirFd, F_GETFD) >= 0 && fcntl(kLogFd, F_GETFD) >= 0;
}

// Last word first, as CLI11 wants them.
std::vector<std::string> words_of(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const auto dashes = std::find(words.begin(), words.end(), "--");
  if (dashes != words.end() && std::find(words.begin(), dashes, "box") != dashes) *dashes = kDashes;
  std::reverse(words.begin(), words.end());
  return words;
}

int run_command_line(int argc, char** argv) {
  Globals globals;
  CLI::App app("kiln runs OCI containers in microVMs", "kiln");
  app.set_version_flag("-v,--version",
                       fmt::format("kiln version {}\nspec: {}", KILN_VERSION, oci::kSpecVersion));
  app.require_subcommand(1);
  add_globals(app, globals);
  for (const AddCommand add : kCommands) add(Command(app), globals);
  log_setup(LogLevel::kInfo, LogFormat::kText);
  // Before the command's own callback, which runs at the end of the parse.
  app.parse_complete_callback([&app, &globals] {
    globals.config_given = app.count("--config") > 0;
    if (const auto ready = set_up_log(globals); !ready)
      throw CLI::ValidationError(ready.error().message);
  });
  try {
    app.parse(words_of(argc, argv));
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    log_failure(globals, invalid_argument(error.what()).value());
    return app.got_subcommand("box") ? kBoxFailed : 1;
  }
  return globals.exit_code;
}

}  // namespace

void log_failure(const Globals& globals, const Error& error) {
  log_error("{}", error.message);
  // As runc does: engines read the log file, people the terminal.
  if (!globals.log.empty()) std::fprintf(stderr, "%s\n", error.message.c_str());
}

int report(const Globals& globals, const Result<int>& outcome) {
  if (outcome) return *outcome;
  log_failure(globals, outcome.error());
  return 1;
}

int report(const Globals& globals, const Result<void>& outcome) {
  if (outcome) return 0;
  log_failure(globals, outcome.error());
  return 1;
}

std::vector<std::string> command_words(const Command& command) {
  std::vector<std::string> words = command.rest();
  std::replace(words.begin(), words.end(), std::string(kDashes), std::string("--"));
  return words;
}

Result<ContainerDir> open_container(const Globals& globals, const std::string& id) {
  return ContainerDir::open(globals.root, id);
}

}  // namespace kiln::runtime

int main(int argc, char** argv) {
  if (kiln::runtime::is_monitor(argc, argv)) return kiln::runtime::run_monitor();
  // The descriptors 0, 1 and 2 stay what they are meant to be, whatever is opened later.
  for (int fd = 0; fd < 3; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) static_cast<void>(open("/dev/null", O_RDWR));
  }
  return kiln::runtime::run_command_line(argc, argv);
}
