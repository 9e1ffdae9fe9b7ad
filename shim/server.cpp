// SPDX-License-Identifier: Apache-2.0
#include "shim/server.h"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "runtime/cgroup/hierarchies.h"
#include "shim/address.h"
#include "shim/sandbox_service.h"
#include "shim/task_options.h"
#include "shim/task_service.h"

namespace kiln::shim {
namespace {

constexpr int64_t kLastEventsMs = 2000;
constexpr int64_t kIdleCheckMs = 10'000;
constexpr int64_t kShrinkMs = 1000;
constexpr int kFailedCode = 1;

class Shim {
 public:
  Shim(EventLoop& loop, Workers& workers, const Arguments& arguments)
      : loop_(loop),
        publisher_(loop, containerd_address(), arguments.namespace_name),
        streaming_(loop),
        context_{loop, workers, publisher_, streaming_, arguments.namespace_name},
        tasks_(context_, [this] { shut_down(); }),
        sandbox_(context_, [this] { shut_down(); }) {}

  Result<void> start() {
    context_.options = read_options(".");
    context_.unified_cgroups = TRY(runtime::find_hierarchies()).unified();
    TRY(loop_.handle_signals({SIGTERM, SIGINT, SIGHUP},
                             [this](const ::signalfd_siginfo& info) { handle_signal(info); }));
    UniqueFd listener(kListenerFd);
    fcntl(listener.get(), F_SETFD, FD_CLOEXEC);
    fcntl(listener.get(), F_SETFL, O_NONBLOCK);
    std::vector<ttrpc::Server::Method> methods = tasks_.methods();
    for (auto& method : sandbox_.methods()) methods.push_back(std::move(method));
    methods.push_back(streaming_.method());
    server_ = TRY(ttrpc::Server::create(loop_, std::move(listener), std::move(methods)));
    look_for_idleness();
    shrink();
    return {};
  }

 private:
  static std::string containerd_address() {
    const char* address = std::getenv("TTRPC_ADDRESS");
    return address != nullptr ? address : "";
  }

  void handle_signal(const ::signalfd_siginfo& info) {
    if (empty()) return shut_down();
    log_warning("signal {}: there are containers, ignoring", info.ssi_signo);
  }

  bool empty() const { return tasks_.empty() && sandbox_.empty(); }

  // What was said to containerd gets there first.
  void shut_down() {
    if (!empty()) return;
    if (std::exchange(ending_, true)) return;
    publisher_.drain(kLastEventsMs, [this] { stop(); });
  }

  void stop() {
    if (!context_.workers.idle() || !empty()) {
      // A create has come meanwhile.
      ending_ = false;
      return;
    }
    loop_.stop();
  }

  // containerd may die between starting us and telling us what for.
  void look_for_idleness() {
    loop_.add_timer(kIdleCheckMs, [this] {
      const bool idle = empty() && context_.workers.idle() && server_->connections() == 0;
      if (idle && idle_) shut_down();
      idle_ = idle;
      look_for_idleness();
    });
  }

  void shrink() {
    loop_.add_timer(kShrinkMs, [] {
      malloc_trim(0);
      release_program_pages();
    });
  }

  EventLoop& loop_;
  Publisher publisher_;
  Streaming streaming_;
  ShimContext context_;
  TaskService tasks_;
  SandboxService sandbox_;
  std::unique_ptr<ttrpc::Server> server_;
  bool ending_ = false;
  bool idle_ = false;
};

// containerd reads the bundle's fifo `log`. Opened for both, so that neither its death nor its
// absence concerns us.
void open_log(bool debug) {
  UniqueFd log(open("log", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!log) log.reset(open("/dev/null", O_WRONLY | O_CLOEXEC));
  log_setup(debug ? LogLevel::kDebug : LogLevel::kInfo, LogFormat::kText, std::move(log));
}

}  // namespace

int serve(const Arguments& arguments) {
  signal(SIGPIPE, SIG_IGN);
  // One thread at a time needs much.
  mallopt(M_ARENA_MAX, 1);
  open_log(arguments.debug);
  const std::string address = socket_of(kListenerFd);
  auto loop = EventLoop::create();
  auto workers = loop ? Workers::create(**loop) : tl::unexpected(loop.error());
  if (!workers) {
    log_error("{}", workers.error().message);
    return kFailedCode;
  }
  int code = 0;
  {
    Shim shim(**loop, **workers, arguments);
    auto outcome = shim.start();
    if (outcome) outcome = (*loop)->run();
    if (!outcome) {
      log_error("{}", outcome.error().message);
      code = kFailedCode;
    }
  }
  if (!address.empty()) unlink(address.c_str());
  return code;
}

}  // namespace kiln::shim
