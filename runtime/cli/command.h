// SPDX-License-Identifier: Apache-2.0
// What the commands share. Each lives in the file of its name and registers itself with
// add_<name>(), which main.cpp's table calls.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/cli/command_line.h"
#include "runtime/container_dir.h"
#include "runtime/container_plan.h"

namespace kiln::runtime {

struct Globals : PlanOptions {
  std::string log_format = "text";
  bool debug = false;
  std::string criu;
  int exit_code = 0;  // set by the command's callback
};

// The exit status of a command: its own, or 1 with the error logged as runc does it.
int report(const Globals& globals, const Result<int>& outcome);
int report(const Globals& globals, const Result<void>& outcome);
void log_failure(const Globals& globals, const Error& error);

// box's own failures, so that they are not taken for its command's: as docker, env and timeout have
// it.
constexpr int kBoxFailed = 125;

// What follows a command's own options, as the user wrote it: `--` and all.
std::vector<std::string> command_words(const Command& command);
// Of a command whose first word is the container: that there is one, and no flag that is unknown.
Result<void> check_words(const char* command, const std::vector<std::string>& words);
// What main() puts in the place of the first `--` after `box`: CLI11 would take the words behind a
// `--` for arguments of the parent when the command has no named positional left.
constexpr const char* kDashes = "\x01--";

// The container that an argument names.
Result<ContainerDir> open_container(const Globals& globals, const std::string& id);

void add_box(const Command& app, Globals& globals);
void add_check(const Command& app, Globals& globals);
void add_checkpoint(const Command& app, Globals& globals);
void add_create(const Command& app, Globals& globals);
void add_delete(const Command& app, Globals& globals);
void add_events(const Command& app, Globals& globals);
void add_exec(const Command& app, Globals& globals);
void add_features(const Command& app, Globals& globals);
void add_guest(const Command& app, Globals& globals);
void add_install(const Command& app, Globals& globals);  // and uninstall
void add_kill(const Command& app, Globals& globals);
void add_list(const Command& app, Globals& globals);
void add_pause(const Command& app, Globals& globals);  // and resume
void add_ps(const Command& app, Globals& globals);
void add_restore(const Command& app, Globals& globals);
void add_run(const Command& app, Globals& globals);
void add_spec(const Command& app, Globals& globals);
void add_start(const Command& app, Globals& globals);
void add_state(const Command& app, Globals& globals);
void add_update(const Command& app, Globals& globals);
void add_version(const Command& app, Globals& globals);

}  // namespace kiln::runtime
