// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/tool.h"

#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/file.h"
#include "base/format.h"
#include "base/process.h"

namespace kiln::runtime {
namespace {

constexpr int kTickMs = 200;
constexpr size_t kMaxOutputBytes = size_t{64} << 20;
constexpr size_t kMaxComplaintBytes = 600;

constexpr int kInterrupts[] = {SIGINT, SIGTERM, SIGHUP};
volatile sig_atomic_t interrupted_by = 0;
void note_interrupt(int signal) { interrupted_by = signal; }

// The tool and all that it has started: they are one process group, whose number stays theirs until
// the tool is reaped. Asks first, so that they may clean up.
void end_tool(ChildProcess& child) {
  constexpr int kPatienceMs = 2000;
  kill(-child.pid, SIGTERM);
  pollfd ended{child.pidfd.get(), POLLIN, 0};
  static_cast<void>(poll(&ended, 1, kPatienceMs));
  kill(-child.pid, SIGKILL);
  kill_and_reap(child);
}

// Messages are read by people and by tests: in one language.
std::vector<std::string> tool_environment() {
  std::vector<std::string> out = {"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"};
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (!text.starts_with("LC_ALL=") && !text.starts_with("LANGUAGE=")) out.emplace_back(text);
  }
  return out;
}

Result<std::string> read_whole(int fd) {
  if (lseek(fd, 0, SEEK_SET) != 0) return sys_error("rewind a tool's output");
  return read_fd(fd, kMaxOutputBytes);
}

// The last lines, on one line.
std::string last_words(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (text.size() > kMaxComplaintBytes) text.erase(0, text.size() - kMaxComplaintBytes);
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

}  // namespace

Interruptible::Interruptible() {
  interrupted_by = 0;
  struct sigaction action {};
  action.sa_handler = note_interrupt;
  for (size_t i = 0; i < kSignals; ++i) {
    sigaction(kInterrupts[i], nullptr, &before_[i]);
    // nohup(1) and a shell's background jobs have reasons to ignore one.
    if (before_[i].sa_handler != SIG_IGN) sigaction(kInterrupts[i], &action, nullptr);
  }
}

Interruptible::~Interruptible() {
  for (size_t i = 0; i < kSignals; ++i) sigaction(kInterrupts[i], &before_[i], nullptr);
  interrupted_by = 0;
}

int Interruptible::signal_seen() { return interrupted_by; }

std::string find_tool(const std::string& name) {
  const char* path = getenv("PATH");
  std::string_view rest =
      path != nullptr && *path != '\0' ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(':'), rest.size());
    std::string candidate = fmt::format("{}/{}", rest.substr(0, end), name);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (candidate.front() == '/' && access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

Result<std::string> run_tool(const ToolRun& run) {
  const std::string& name = run.argv.front();
  SpawnOptions options;
  options.program = find_tool(name);
  if (options.program.empty())
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("run `{}`: there is no such program in PATH", name));
  options.argv = run.argv;
  options.environment = tool_environment();
  options.working_directory = run.directory;
  options.new_session = true;
  const UniqueFd output(memfd_create("tool-output", MFD_CLOEXEC));
  const UniqueFd complaints(memfd_create("tool-errors", MFD_CLOEXEC));
  if (!output || !complaints) return sys_error("create a memory file");
  options.fds = {{output.get(), 1}, {complaints.get(), 2}};
  ChildProcess child = TRY(wrap(spawn(options), fmt::format("run `{}`", name)));
  std::optional<ExitStatus> status;
  for (int waited = 0; !status; waited += kTickMs) {
    if (interrupted_by != 0) {
      end_tool(child);
      return make_error(ErrorKind::kCancelled, fmt::format("run `{}`: interrupted", name));
    }
    if (waited > run.timeout_ms) {
      end_tool(child);
      return make_error(ErrorKind::kDeadlineExceeded,
                        fmt::format("run `{}`: it did not end in time", name));
    }
    status = TRY(wait_child(child, kTickMs));
    if (!status && run.tick) run.tick();
  }
  if (status->shell_code() == 0) return read_whole(output.get());
  return make_error(
      ErrorKind::kAborted,
      fmt::format("run `{}`: it ended with code {}: {}", name, status->shell_code(),
                  last_words(read_whole(complaints.get()).value_or("its output is lost"))));
}

}  // namespace kiln::runtime
