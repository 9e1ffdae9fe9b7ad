// SPDX-License-Identifier: Apache-2.0
// What the commands need of CLI11. Its header costs ten seconds of compiling wherever it is
// included, so command_line.cpp and main.cpp alone include it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace kiln::runtime {

class CommandOption {
 public:
  explicit CommandOption(CLI::Option* option) : option_(option) {}
  CommandOption& required();
  CommandOption& show_default();
  CommandOption& between(int least, int most);

 private:
  CLI::Option* option_;
};

// A command, or the whole program: cheap to copy, valid as long as the CLI::App. Variables that
// are named must live until the command has run.
class Command {
 public:
  explicit Command(CLI::App& app) : app_(&app) {}

  Command subcommand(const char* name, const char* help) const;
  void require_subcommand() const;

  // `names`: "-b,--bundle", or a word for an argument by position.
  CommandOption option(const char* names, std::string& value, const char* help) const;
  CommandOption option(const char* names, int& value, const char* help) const;
  CommandOption option(const char* names, unsigned& value, const char* help) const;
  CommandOption option(const char* names, double& value, const char* help) const;
  // May be repeated; each time it takes one value.
  CommandOption option(const char* names, std::vector<std::string>& values, const char* help) const;
  CommandOption option(const char* names, std::vector<uint32_t>& values, const char* help) const;
  void flag(const char* names, bool& value, const char* help) const;

  // What follows the first word that is no option is left alone, for rest().
  void take_rest() const;
  std::vector<std::string> rest() const;
  std::string version() const;

  void on_run(std::function<void()> run) const;

 private:
  CLI::App* app_;
};

}  // namespace kiln::runtime
