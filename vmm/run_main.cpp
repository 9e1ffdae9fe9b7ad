// SPDX-License-Identifier: Apache-2.0
#include "vmm/run_main.h"

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/event_loop.h"
#include "base/format.h"
#include "base/frame_connection.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "vmm/api/control.h"
#include "vmm/machine.h"
#include "vmm/qemu/qemu_machine.h"

namespace kiln::vmm {
namespace {

Json error_json(const Error& error) {
  return {{"kind", static_cast<int>(error.kind)}, {"message", error.message}};
}

class Runner {
 public:
  Runner(EventLoop& loop, const TscSample& started) : loop_(loop), started_(started) {}

  Result<void> listen(UniqueFd control) {
    owner_ = TRY(FrameConnection::create(
        loop_, std::move(control), kMaxControlFrameBytes,
        [this](const std::string& frame) { take_frame(frame); },
        [this](const Error&) { owner_left(); }));
    return {};
  }

  int exit_code() const { return exit_code_; }

 private:
  void take_frame(const std::string& frame) {
    const auto message = parse_json(frame);
    if (!message || !message->is_object()) return fail_boot(invalid_argument("not JSON").value());
    if (!booted_) return boot(*message);
    handle(*message);
  }

  void boot(const Json& document) {
    booted_ = true;
    if (auto outcome = try_boot(document); !outcome) fail_boot(outcome.error());
  }

  Result<void> try_boot(const Json& document) {
    const VmConfig config = TRY(parse_boot_document(document));
    const BackendChoice choice = TRY(choose_backend(config.backend, config.qemu_accel));
    if (config.backend == Backend::kAuto && choice.qemu_accel == "tcg")
      log_warning("{}", choice.reason);
    Machine::Callbacks callbacks;
    callbacks.on_started = [this] {
      started_machine_ = true;
      answer(0, Json());
    };
    callbacks.on_exit = [this](const VmExit& exit) { machine_ended(exit); };
    machine_ = TRY(start_qemu(loop_, config, choice.qemu_accel, started_, std::move(callbacks)));
    // QEMU has them now; the fs server must see its end when QEMU ends.
    for (const FsConfig& share : config.fs) close(share.vhost_user_fd);
    return {};
  }

  void fail_boot(const Error& error) {
    send({{"id", 0}, {"error", error_json(error)}});
    finish(1);
  }

  void machine_ended(const VmExit& exit) {
    if (!started_machine_) {
      send({{"id", 0}, {"error", error_json(Error{ErrorKind::kUnavailable, 0, exit.detail})}});
    }
    Json goodbye;
    goodbye["exit"] = {{"reason", name_of(exit.reason)},
                       {"detail", exit.detail},
                       {"console", machine_ ? machine_->console() : ""}};
    send(goodbye);
    finish(0);
  }

  void handle(const Json& request) {
    if (!request.contains("id") || !request["id"].is_number_integer() ||
        !request.contains("method") || !request["method"].is_string())
      return;
    const int id = request["id"].get<int>();
    const auto method = request["method"].get<std::string>();
    if (!machine_) return refuse(id, Error{ErrorKind::kUnavailable, 0, "the machine has ended"});
    const auto done = [this, id](const Result<void>& outcome) {
      outcome ? answer(id, Json()) : refuse(id, outcome.error());
    };
    if (method == "pause") return machine_->pause(done);
    if (method == "resume") return machine_->resume(done);
    if (method == "stop") return machine_->stop();  // the exit message is the answer
    if (method == "console") return answer(id, machine_->console());
    if (method == "metrics") return answer(id, machine_->metrics());
    refuse(id, Error{ErrorKind::kUnimplemented, 0, fmt::format("no method `{}`", method)});
  }

  void answer(int id, const Json& result) {
    Json message{{"id", id}};
    if (!result.is_null()) message["result"] = result;
    send(message);
  }
  void refuse(int id, const Error& error) { send({{"id", id}, {"error", error_json(error)}}); }

  void send(const Json& message) {
    if (owner_) owner_->send(dump_json(message));
  }

  void owner_left() {
    // Nobody is left who would want this machine.
    loop_.defer([this] {
      owner_.reset();
      if (machine_) return machine_->stop();
      loop_.stop();
    });
    owner_gone_ = true;
  }

  void finish(int code) {
    exit_code_ = code;
    if (!owner_ || owner_gone_ || owner_->sent_everything()) return loop_.stop();
    loop_.add_timer(kFlushStepMs, [this, code] { finish(code); });
  }

  static constexpr int64_t kFlushStepMs = 5;

  EventLoop& loop_;
  const TscSample started_;
  std::unique_ptr<FrameConnection> owner_;
  std::unique_ptr<Machine> machine_;
  bool booted_ = false;
  bool started_machine_ = false;
  bool owner_gone_ = false;
  int exit_code_ = 1;
};

Result<int> run() {
  const TscSample started = sample_tsc();
  const auto loop = TRY(EventLoop::create());
  Runner runner(*loop, started);
  TRY(runner.listen(UniqueFd(kVmControlFd)));
  TRY(loop->run());
  return runner.exit_code();
}

}  // namespace

int run_main() {
  signal(SIGPIPE, SIG_IGN);
  // No core dump of a process that has the guest's memory mapped.
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  const auto code = run();
  if (code) return *code;
  log_error("{}", code.error().message);
  return 1;
}

}  // namespace kiln::vmm
