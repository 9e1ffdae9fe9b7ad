// SPDX-License-Identifier: Apache-2.0
#include "runtime/hooks.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr off_t kMaxQuotedBytes = 1024;  // of what a failed hook wrote to standard error

Result<UniqueFd> memory_file(const char* name, std::string_view content) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd) return sys_error("create a file in memory");
  TRY(write_fully(fd.get(), content));
  if (lseek(fd.get(), 0, SEEK_SET) < 0) return sys_error("rewind a file in memory");
  return fd;
}

}  // namespace

std::unique_ptr<HookRunner> HookRunner::start(EventLoop& loop, HookList list, Callback callback) {
  std::unique_ptr<HookRunner> runner(new HookRunner(loop, std::move(list), std::move(callback)));
  loop.defer([self = runner.get(), alive = runner->alive_] {
    if (*alive) self->next();
  });
  return runner;
}

HookRunner::~HookRunner() {
  *alive_ = false;
  kill_current();
}

void HookRunner::kill_current() {
  if (!child_.pidfd) return;
  loop_.remove_fd(child_.pidfd.get());
  loop_.cancel_timer(timer_);
  kill(-child_.pid, SIGKILL);  // it leads a session of its own
  kill_and_reap(child_);
}

void HookRunner::next() {
  const bool stop = list_.on_failure == HookFailure::kStop && !failures_.empty();
  if (index_ >= list_.hooks.size() || stop) {
    const Callback callback = std::move(callback_);
    return callback(std::move(failures_));
  }
  if (auto launched = launch(list_.hooks[index_]); !launched) fail(std::move(launched.error()));
}

Result<void> HookRunner::launch(const oci::Hook& hook) {
  const UniqueFd input = TRY(memory_file("state", list_.state));
  stderr_file_ = TRY(memory_file("stderr", ""));
  SpawnOptions options;
  options.program = hook.path;
  options.argv = hook.args.empty() ? std::vector<std::string>{hook.path} : hook.args;
  options.environment = hook.env;
  options.fds = {{input.get(), 0}, {stderr_file_.get(), 2}};
  options.working_directory = list_.working_directory;
  options.new_session = true;
  options.network_namespace = list_.network_namespace;
  child_ = TRY(spawn(options));
  timed_out_ = false;
  TRY(loop_.add_fd(child_.pidfd.get(), EPOLLIN, [this](uint32_t) { ended(); }));
  if (hook.timeout) {
    timer_ = loop_.add_timer(int64_t{*hook.timeout} * 1000, [this] {
      timed_out_ = true;
      kill(-child_.pid, SIGKILL);
    });
  }
  return {};
}

std::string HookRunner::what_it_said() const {
  const off_t size = lseek(stderr_file_.get(), 0, SEEK_END);
  const off_t from = std::max<off_t>(size - kMaxQuotedBytes, 0);
  if (size <= 0 || lseek(stderr_file_.get(), from, SEEK_SET) < 0) return {};
  std::string text(static_cast<size_t>(size - from), '\0');
  const auto got = read_fully(stderr_file_.get(), text.data(), text.size());
  text.resize(got.value_or(0));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.empty() ? text : ": " + text;
}

void HookRunner::ended() {
  loop_.remove_fd(child_.pidfd.get());
  loop_.cancel_timer(timer_);
  const auto status = wait_child(child_);
  child_ = ChildProcess();
  std::string failure;
  if (!status || !*status) {
    failure = "its exit status is lost";
  } else if (timed_out_) {
    failure = fmt::format("killed after its timeout of {} s", *list_.hooks[index_].timeout);
  } else if ((*status)->signal != 0) {
    failure = fmt::format("killed by signal {}", (*status)->signal);
  } else if ((*status)->code != 0) {
    failure = fmt::format("exit status {}", (*status)->code);
  }
  if (!failure.empty())
    return fail(make_error(ErrorKind::kFailedPrecondition, failure + what_it_said()).value());
  ++index_;
  next();
}

void HookRunner::fail(Error error) {
  failures_.push_back(std::move(error).wrap(
      fmt::format("{} hook #{} `{}`", list_.kind, index_, list_.hooks[index_].path)));
  ++index_;
  next();
}

Result<std::vector<Error>> run_hooks(HookList list) {
  if (list.hooks.empty()) return std::vector<Error>();
  const auto loop = TRY(EventLoop::create());
  std::vector<Error> out;
  const auto runner = HookRunner::start(*loop, std::move(list), [&](std::vector<Error> failures) {
    out = std::move(failures);
    loop->stop();
  });
  TRY(loop->run());
  return out;
}

}  // namespace kiln::runtime
