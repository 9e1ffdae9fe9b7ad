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

constexpr int kUnknownCommand = 3;  // as runc

using AddCommand = void (*)(const Command&, Globals&);

// In the order of the help text.
constexpr AddCommand kCommands[] = {
    add_box,     add_checkpoint, add_create, add_delete, add_events,  add_exec,    add_features,
    add_install, add_kill,       add_list,   add_pause,  add_ps,      add_restore, add_run,
    add_spec,    add_start,      add_state,  add_update, add_version, add_check,   add_guest,
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
  app.add_option("--criu", globals.criu, "accepted; nothing of kiln's uses it");
  app.add_option("--config", globals.config_path, "configuration file")->capture_default_str();
}

// Last word first, as CLI11 wants them.
std::vector<std::string> words_of(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const auto dashes = std::find(words.begin(), words.end(), "--");
  if (dashes != words.end() && std::find(words.begin(), dashes, "box") != dashes) *dashes = kDashes;
  std::reverse(words.begin(), words.end());
  return words;
}

struct UsageError {
  std::string message;
  int exit_code = 1;
};

// What runc says of a command line that it does not take, in one line instead of its whole help.
UsageError usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<const CLI::App*> given =
      app.get_subcommands([](const CLI::App* command) { return command->parsed(); });
  const std::vector<std::string> extras = app.remaining(true);
  const auto unknown = std::find_if(extras.begin(), extras.end(), [](const std::string& word) {
    return word.size() > 1 && word.starts_with('-');
  });
  if (unknown != extras.end()) {
    const std::string name = unknown->substr(unknown->find_first_not_of('-') - 1);
    return {fmt::format("flag provided but not defined: {}", name)};
  }
  if (given.empty() && !extras.empty())
    return {fmt::format("No help topic for '{}'", extras.front()), kUnknownCommand};
  const bool miscounted = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError) ||
                          error.get_exit_code() == static_cast<int>(CLI::ExitCodes::RequiredError);
  if (given.empty() || !miscounted || given.front()->get_option_no_throw("container-id") == nullptr)
    return {error.what()};
  const bool optional_too = given.front()->get_option_no_throw("signal") != nullptr;
  if (optional_too && !extras.empty()) return {error.what()};
  return {fmt::format("kiln: \"{}\" requires {} argument(s)", given.front()->get_name(),
                      optional_too ? "a minimum of 1" : "exactly 1")};
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
    const UsageError usage = usage_error(app, error);
    log_failure(globals, invalid_argument(usage.message).value());
    return app.got_subcommand("box") ? kBoxFailed : usage.exit_code;
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

Result<void> check_words(const char* command, const std::vector<std::string>& words) {
  if (words.empty())
    return invalid_argument(
        fmt::format("kiln: \"{}\" requires a minimum of 1 argument(s)", command));
  const std::string& first = words.front();
  if (first.size() > 1 && first.starts_with('-'))
    return invalid_argument(fmt::format("flag provided but not defined: {}",
                                        first.substr(first.starts_with("--") ? 1 : 0)));
  return {};
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
