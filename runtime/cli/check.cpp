// SPDX-License-Identifier: Apache-2.0
// `kiln check`: what this host can run.
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/json.h"
#include "runtime/cli/command.h"
#include "runtime/host_check/host_check.h"

namespace kiln::runtime {
namespace {

using Level = Finding::Level;

std::vector<Finding> all_findings(const Globals& globals) {
  const auto config = load_config(globals.config_path, globals.config_given);
  std::vector<Finding> findings;
  if (config) {
    findings = check_host(*config);
  } else {
    findings = check_host(Config());
    findings.insert(findings.begin(),
                    {Level::kProblem, "config", config.error().message, "correct the file"});
  }
  return findings;
}

// On a terminal the eye finds what is wrong first.
const char* color_of(Level level) {
  constexpr const char* kColors[] = {"\x1b[32m", "\x1b[33m", "\x1b[31m"};
  return kColors[static_cast<size_t>(level)];
}

void print_lines(const std::vector<Finding>& findings) {
  const bool colors = isatty(STDOUT_FILENO) == 1;
  for (const Finding& finding : findings) {
    std::puts(fmt::format("{}{:<8}{} {:<14} {}{}{}", colors ? color_of(finding.level) : "",
                          level_name(finding.level), colors ? "\x1b[0m" : "", finding.subject,
                          finding.text, finding.advice.empty() ? "" : " -> ", finding.advice)
                  .c_str());
  }
}

void print_json(const std::vector<Finding>& findings, bool usable) {
  Json list = Json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"level", level_name(finding.level)},
                    {"subject", finding.subject},
                    {"text", finding.text},
                    {"advice", finding.advice}});
  }
  std::puts(dump_json({{"usable", usable}, {"findings", std::move(list)}}, 2).c_str());
}

}  // namespace

void add_check(const Command& app, Globals& globals) {
  const Command command = app.subcommand("check", "say what this host can run, and why not");
  const auto json = std::make_shared<bool>(false);
  command.flag("--json", *json, "print JSON");
  command.on_run([&globals, json] {
    const std::vector<Finding> findings = all_findings(globals);
    const bool usable = std::none_of(findings.begin(), findings.end(), [](const Finding& finding) {
      return finding.level == Level::kProblem;
    });
    if (*json) {
      print_json(findings, usable);
    } else {
      print_lines(findings);
    }
    globals.exit_code = usable ? 0 : 1;
  });
}

}  // namespace kiln::runtime
