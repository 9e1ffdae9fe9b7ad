// SPDX-License-Identifier: Apache-2.0
// containerd-shim-kiln-v2: containerd's runtime plugin io.containerd.kiln.v2.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "base/file.h"
#include "base/log.h"
#include "runtime/monitor.h"
#include "shim/arguments.h"
#include "shim/bootstrap.h"
#include "shim/server.h"

namespace kiln::shim {
namespace {

constexpr size_t kMaxInputBytes = size_t{10} << 20;
constexpr const char* kName = "containerd-shim-kiln-v2";

int print_version() {
  std::printf("%s:\n  Version:  %s\n\n", kName, KILN_VERSION);
  return 0;
}

Result<std::string> run_action(const Arguments& arguments) {
  if (arguments.info) return info(TRY(read_fd(STDIN_FILENO, kMaxInputBytes)));
  if (arguments.namespace_name.empty()) return invalid_argument("shim namespace cannot be empty");
  if (arguments.action == "start")
    return start(arguments, TRY(read_fd(STDIN_FILENO, kMaxInputBytes)));
  if (arguments.action == "delete") return clean_up(arguments);
  return invalid_argument("no such action: " + arguments.action);
}

int run(int argc, char** argv) {
  log_setup(LogLevel::kWarning, LogFormat::kText);
  const auto arguments = parse_arguments(argc, argv);
  if (arguments && arguments->version) return print_version();
  if (arguments && arguments->action.empty() && !arguments->info) {
    if (!arguments->namespace_name.empty() && fcntl(kListenerFd, F_GETFD) >= 0)
      return serve(*arguments);
    std::fprintf(stderr, "%s: containerd starts it, for runtime io.containerd.kiln.v2\n", kName);
    return 1;
  }
  auto output = arguments ? run_action(*arguments) : tl::unexpected(arguments.error());
  if (output) {
    if (const auto written = write_fully(STDOUT_FILENO, *output); written) return 0;
    output = make_error(ErrorKind::kDataLoss, "write standard output");
  }
  std::fprintf(stderr, "%s: %s", kName, output.error().message.c_str());
  return 1;
}

}  // namespace
}  // namespace kiln::shim

int main(int argc, char** argv) {
  if (kiln::runtime::is_monitor(argc, argv)) return kiln::runtime::run_monitor();
  for (int fd = 0; fd < 3; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) static_cast<void>(open("/dev/null", O_RDWR));
  }
  return kiln::shim::run(argc, argv);
}
