// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/command_line.h"

#include <CLI/CLI.hpp>

namespace kiln::runtime {

CommandOption& CommandOption::required() {
  option_->required();
  return *this;
}

CommandOption& CommandOption::show_default() {
  option_->capture_default_str();
  return *this;
}

CommandOption& CommandOption::between(int least, int most) {
  option_->check(CLI::Range(least, most));
  return *this;
}

Command Command::subcommand(const char* name, const char* help) const {
  return Command(*app_->add_subcommand(name, help));
}

void Command::require_subcommand() const { app_->require_subcommand(1); }

CommandOption Command::option(const char* names, std::string& value, const char* help) const {
  return CommandOption(app_->add_option(names, value, help));
}

CommandOption Command::option(const char* names, int& value, const char* help) const {
  return CommandOption(app_->add_option(names, value, help));
}

CommandOption Command::option(const char* names, unsigned& value, const char* help) const {
  return CommandOption(app_->add_option(names, value, help));
}

CommandOption Command::option(const char* names, double& value, const char* help) const {
  return CommandOption(app_->add_option(names, value, help));
}

CommandOption Command::option(const char* names, std::vector<std::string>& values,
                              const char* help) const {
  return CommandOption(app_->add_option(names, values, help)->allow_extra_args(false));
}

CommandOption Command::option(const char* names, std::vector<uint32_t>& values,
                              const char* help) const {
  return CommandOption(app_->add_option(names, values, help)->allow_extra_args(false));
}

void Command::flag(const char* names, bool& value, const char* help) const {
  app_->add_flag(names, value, help);
}

void Command::take_rest() const { app_->prefix_command(); }

std::vector<std::string> Command::rest() const { return app_->remaining(); }

std::string Command::version() const { return app_->version(); }

void Command::on_run(std::function<void()> run) const { app_->callback(std::move(run)); }

}  // namespace kiln::runtime
