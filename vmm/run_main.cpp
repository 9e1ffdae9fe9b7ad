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
#include "vmm/api/document_reader.h"
#include "vmm/kvm/assembly.h"
#include "vmm/machine.h"
#include "vmm/qemu/qemu_machine.h"

namespace kiln::vmm {
namespace {

Json error_json(const Error& error) {
  return {{"kind", static_cast<int>(error.kind)}, {"message", error.message}};
}

class Runner {
 public:
  Runner(EventLoop& loop, const TscSample& started, const TimePoint& process_start)
      : loop_(loop), started_(started), process_start_(process_start) {}

  Result<void> listen(UniqueFd control) {
    owner_ = TRY(FrameConnection::create(
        loop_, std::move(control), kMaxControlFrameBytes,
        [this](const std::string& frame) { take_frame(frame); },
        [this](const Error&) { owner_left(); }));
    owner_->accept_fds();
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
    if (config.backend == Backend::kAuto) return invalid_argument("the owner chooses the backend");
    Machine::Callbacks callbacks;
    callbacks.on_started = [this] {
      started_machine_ = true;
      answer(start_id_, Json());
    };
    callbacks.on_exit = [this](const VmExit& exit) { machine_ended(exit); };
    if (config.backend == Backend::kKvm) return boot_kvm(config, std::move(callbacks));
    TRY(check_for_qemu(config));
    machine_ = TRY(start_qemu(loop_, config, config.qemu_accel, started_, std::move(callbacks)));
    // QEMU has them now; the fs server must see its end when QEMU ends.
    for (const FsConfig& share : config.fs) close(share.vhost_user_fd);
    for (const DriveConfig& drive : config.drives) close(drive.fd);
    return {};
  }

  Result<void> boot_kvm(const VmConfig& config, Machine::Callbacks callbacks) {
    auto machine = TRY(assemble_kvm(loop_, config, process_start_, std::move(callbacks)));
    kvm_ = machine.get();
    machine_ = std::move(machine);
    if (config.start) return kvm_->start();
    answer(0, Json());
    return {};
  }

  // A device that is asked for and not there would be a silent surprise.
  static Result<void> check_for_qemu(const VmConfig& config) {
    const auto limits = [](const RateLimiterConfig& limiter) {
      return limiter.bandwidth.size != 0 || limiter.ops.size != 0;
    };
    const bool limited =
        std::any_of(config.drives.begin(), config.drives.end(),
                    [&](const DriveConfig& drive) { return limits(drive.rate_limiter); }) ||
        std::any_of(config.network_interfaces.begin(), config.network_interfaces.end(),
                    [&](const NetworkInterfaceConfig& interface) {
                      return limits(interface.rx_rate_limiter) || limits(interface.tx_rate_limiter);
                    });
    if (!limited && !config.balloon.present && !config.entropy.present &&
        !config.machine.huge_pages && config.machine.spare_slots == 0 && config.start)
      return {};
    return make_error(ErrorKind::kUnimplemented,
                      "limits of drives and network interfaces, balloon, entropy, huge pages, "
                      "spare slots and a later start are the kvm backend's alone");
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
                       {"metrics", machine_ ? machine_->metrics() : Json()}};
    std::string console = machine_ ? machine_->console() : "";
    goodbye["exit"]["console"] = console;
    while (dump_json(goodbye).size() > kMaxGoodbye && !console.empty()) {
      console.erase(0, console.size() / 2 + 1);
      goodbye["exit"]["console"] = console;
    }
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
    if (kvm_ == nullptr)
      return refuse(id, Error{ErrorKind::kUnimplemented, 0,
                              fmt::format("no method `{}` on this backend", method)});
    if (method == "start") return start_kvm(id);
    done(change_kvm(method, request.contains("params") ? request["params"] : Json::object()));
  }

  void start_kvm(int id) {
    start_id_ = id;
    if (const auto started = kvm_->start(); !started) refuse(id, started.error());
  }

  Result<void> change_kvm(const std::string& method, const Json& params) {
    std::vector<UniqueFd> fds = owner_->take_fds();
    if (method == "attach-drive" || method == "attach-network-interface") {
      if (fds.size() != 1) return invalid_argument("exactly one descriptor is wanted");
      if (method == "attach-drive") {
        DriveConfig drive = TRY(parse_drive(params));
        drive.fd = fds[0].release();
        return attach_drive(*kvm_, drive);
      }
      NetworkInterfaceConfig interface = TRY(parse_network_interface(params));
      interface.tap_fd = fds[0].release();
      return attach_network_interface(*kvm_, interface);
    }
    if (method == "detach") return kvm_->detach(TRY(DocumentReader(params).text("/id")));
    if (method == "balloon") {
      const auto amount = TRY(DocumentReader(params).number("/amount_mib", 0, 1U << 24));
      return set_balloon(*kvm_, static_cast<uint32_t>(amount));
    }
    return make_error(ErrorKind::kUnimplemented, fmt::format("no method `{}`", method));
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
  // What a socket takes at once: an owner may wait for our end before it reads. A console of plain
  // text fits; one of control characters, six bytes each in JSON, is cut.
  static constexpr size_t kMaxGoodbye = 96U << 10;

  EventLoop& loop_;
  const TscSample started_;
  const TimePoint process_start_;
  std::unique_ptr<FrameConnection> owner_;
  std::unique_ptr<Machine> machine_;
  KvmMachine* kvm_ = nullptr;  // machine_, where it is one
  int start_id_ = 0;           // the request that on_started answers
  bool booted_ = false;
  bool started_machine_ = false;
  bool owner_gone_ = false;
  int exit_code_ = 1;
};

Result<int> run() {
  const TscSample started = sample_tsc();
  const auto loop = TRY(EventLoop::create());
  Runner runner(*loop, started, TimePoint::now());
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
