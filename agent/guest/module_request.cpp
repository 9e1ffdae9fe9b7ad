// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/module_request.h"

#include <unistd.h>

#include "agent/guest/boot.h"
#include "agent/guest/modules.h"
#include "base/file.h"
#include "base/log.h"

namespace kiln::agent {
namespace {

// This program has no name any more: its file went with the initramfs.
constexpr const char* kThisProgram = "/proc/1/exe";
constexpr const char* kProgramOfTheKernel = "/proc/sys/kernel/modprobe";

}  // namespace

Result<void> take_module_requests() {
  if (access(kOptionalModuleDirectory, F_OK) != 0) return {};
  return write_file(kProgramOfTheKernel, kThisProgram);
}

std::optional<std::string_view> requested_module(std::span<char* const> arguments) {
  constexpr std::string_view kBefore[] = {kThisProgram, "-q", "--"};
  if (arguments.size() != std::size(kBefore) + 1) return std::nullopt;
  for (size_t i = 0; i < std::size(kBefore); ++i) {
    if (kBefore[i] != arguments[i]) return std::nullopt;
  }
  return arguments.back();
}

int answer_module_request(std::string_view name) {
  log_setup(LogLevel::kInfo, open_early_log());
  const auto loaded = OptionalModules().load(name);
  if (!loaded) log_error("{}, ignoring", loaded.error().message);
  return loaded ? 0 : 1;
}

}  // namespace kiln::agent
