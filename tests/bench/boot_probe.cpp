// SPDX-License-Identifier: Apache-2.0
// How long a machine takes from its program's start to its guest's first program, whose only deed
// the kernel announces on the serial port (boot_init.c). For kiln-vmm, and for any other monitor
// that puts the port on its standard output. Prints one JSON object; times are microseconds of
// CLOCK_MONOTONIC.
//   boot_probe kiln KILN_VMM KERNEL INITRAMFS
//   boot_probe container KILN ARGUMENT…   (of its run command; stages are the debug log's)
//   boot_probe other PROGRAM ARGUMENT…
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/format.h"
#include "base/json.h"
#include "base/process.h"
#include "vmm/api/confined_process.h"
#include "vmm/api/vm.h"

namespace {

using namespace kiln;  // NOLINT(google-build-using-namespace): a program of one file

constexpr int kTimeoutMs = 120'000;

int64_t now_us() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
}

Result<Json> probe_kiln(const std::vector<std::string>& arguments) {
  vmm::VmConfig config;
  config.backend = vmm::Backend::kKvm;
  config.machine.mem_size_mib = 128;
  config.boot_source = {arguments.at(1), arguments.at(2), ""};
  config.vsock.uds_path = fmt::format("/tmp/boot-probe-{}.sock", getpid());
  const int64_t start = now_us();
  auto vm = TRY(vmm::Vm::launch(arguments.at(0), config, STDERR_FILENO));
  const int64_t answered = now_us();
  pollfd ended{vm->pidfd(), POLLIN, 0};
  if (poll(&ended, 1, kTimeoutMs) != 1)
    return make_error(ErrorKind::kDeadlineExceeded, "the guest does not end");
  const int64_t end = now_us();
  const auto exit = TRY(vm->exit());
  const Json& metrics = vm->last_metrics();
  const int64_t main_start = metrics.value("start_monotonic_us", int64_t{0});
  Json stages = Json::object();
  stages["program"] = main_start - start;
  for (const auto& [name, reached] : metrics.at("stages_us").items())
    stages[name] = reached.get<int64_t>() + main_start - start;
  return Json{{"end", exit ? exit->detail : ""},
              {"answered_us", answered - start},
              {"init_us", stages.value("first console output", int64_t{-1})},
              {"end_us", end - start},
              {"stages_us", stages},
              {"exits", metrics.at("exits")},
              {"exits_to_init", metrics.at("exits_before_first_console_output")},
              {"devices", metrics.at("devices")},
              {"kernel_bytes", metrics.at("kernel_bytes")}};
}

Result<Json> probe_other(const std::vector<std::string>& arguments) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return sys_error("create a pipe");
  const UniqueFd here(ends[0]);
  UniqueFd there(ends[1]);
  SpawnOptions options;
  options.program = arguments.at(0);
  options.argv = arguments;
  options.fds = {{there.get(), STDOUT_FILENO}, {STDERR_FILENO, STDERR_FILENO}};
  const int64_t start = now_us();
  ChildProcess child = TRY(spawn(options));
  there.reset();
  std::string heard;
  std::array<char, 4096> buffer{};
  pollfd readable{here.get(), POLLIN, 0};
  // What the kernel may have to say before is not it.
  while (heard.find("reboot:") == std::string::npos && poll(&readable, 1, kTimeoutMs) == 1) {
    const ssize_t got = read(here.get(), buffer.data(), buffer.size());
    if (got <= 0) break;
    heard.append(buffer.data(), static_cast<size_t>(got));
  }
  const bool said = heard.find("reboot:") != std::string::npos;
  const int64_t first = now_us();
  const auto status = TRY(wait_child(child, said ? kTimeoutMs : 0));
  if (!status) kill_and_reap(child);
  const int64_t end = now_us();
  return Json{{"init_us", said ? first - start : -1}, {"end_us", end - start}};
}

// "…msg="stage `agent ready` at 12.345678 s"": the stage and microseconds.
Json read_stages(const std::string& log, int64_t start) {
  Json stages = Json::object();
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    const size_t name = line.find("stage `");
    const size_t at = line.find("` at ", name);
    if (name == std::string::npos || at == std::string::npos) continue;
    stages[line.substr(name + 7, at - name - 7)] =
        std::llround(std::strtod(line.c_str() + at + 5, nullptr) * 1e6) - start;
  }
  return stages;
}

Result<Json> probe_container(const std::vector<std::string>& arguments) {
  const std::string log = fmt::format("/tmp/boot-probe-{}.log", getpid());
  SpawnOptions options;
  options.program = arguments.at(0);
  options.argv = {"kiln", "--debug", "--log", log};
  options.argv.insert(options.argv.end(), arguments.begin() + 1, arguments.end());
  options.fds = {{STDERR_FILENO, STDOUT_FILENO}, {STDERR_FILENO, STDERR_FILENO}};
  const int64_t start = now_us();
  ChildProcess child = TRY(spawn(options));
  const auto status = TRY(wait_child(child, kTimeoutMs));
  const int64_t end = now_us();
  if (!status || status->code != 0)
    return make_error(
        ErrorKind::kUnavailable,
        fmt::format("{}\n{}", status ? vmm::describe_end("kiln", *status) : "kiln hangs",
                    read_file(log, 1 << 20).value_or("")));
  const Json stages = read_stages(TRY(read_file(log, 1 << 20)), start);
  unlink(log.c_str());
  return Json{{"stages_us", stages}, {"end_us", end - start}};
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + std::min(argc, 2), argv + argc);
  const std::string mode = argc > 1 ? argv[1] : "";
  Result<Json> outcome = invalid_argument("boot_probe kiln|container|other …");
  if (mode == "kiln" && arguments.size() == 3) outcome = probe_kiln(arguments);
  if (mode == "container" && !arguments.empty()) outcome = probe_container(arguments);
  if (mode == "other" && !arguments.empty()) outcome = probe_other(arguments);
  if (!outcome) {
    std::fprintf(stderr, "boot_probe: %s\n", outcome.error().message.c_str());
    return 1;
  }
  std::printf("%s\n", outcome->dump().c_str());
  return 0;
}
