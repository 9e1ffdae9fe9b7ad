// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/vm.h"

#include <poll.h>
#include <sys/socket.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/unix_socket.h"
#include "vmm/api/confined_process.h"
#include "vmm/api/control.h"

namespace kiln::vmm {
namespace {

constexpr int kAnswerTimeoutMs = 10'000;
// A busy or emulated host takes its time to load QEMU.
constexpr int kStartTimeoutMs = 60'000;

Result<Json> parse_object(const std::string& frame) {
  Json message = TRY(parse_json(frame));
  if (!message.is_object()) return invalid_argument("kiln-vmm sent something else than an object");
  return message;
}

Error error_in(const Json& message) {
  Error error;
  error.message = "it failed without saying why";
  const Json& said = message["error"];
  if (!said.is_object()) return error;
  if (said.contains("message") && said["message"].is_string())
    error.message = said["message"].get<std::string>();
  if (said.contains("kind") && said["kind"].is_number_integer()) {
    const int kind = said["kind"].get<int>();
    if (kind >= 1 && kind <= 15) error.kind = static_cast<ErrorKind>(kind);
  }
  return error;
}

}  // namespace

struct Vm::Impl {
  ChildProcess process;
  UniqueFd control;
  int next_id = 1;
  std::optional<VmExit> exit;
  std::string last_console;
  Json last_metrics;
  std::string uds_path;  // that a confined kiln-vmm cannot unlink
  bool said_goodbye = false;

  // Waits for the answer to `id`; an exit message on the way is kept.
  Result<Json> wait_for_answer(int id, int timeout_ms);
  Result<Json> call(const char* method, Json params = Json(), std::span<const int> fds = {});
  void take_goodbye(const Json& message);
  // What is still in the socket of a process that has ended.
  void drain();
};

void Vm::Impl::take_goodbye(const Json& message) {
  const Json& said = message["exit"];
  if (!said.is_object()) return;
  VmExit parsed;
  if (said.contains("reason") && said["reason"].is_string()) {
    const auto reason = parse_exit_reason(said["reason"].get<std::string>());
    if (reason) parsed.reason = *reason;
  }
  if (said.contains("detail") && said["detail"].is_string())
    parsed.detail = said["detail"].get<std::string>();
  if (said.contains("console") && said["console"].is_string())
    last_console = said["console"].get<std::string>();
  if (said.contains("metrics")) last_metrics = said["metrics"];
  exit = std::move(parsed);
  said_goodbye = true;
}

Result<Json> Vm::Impl::wait_for_answer(int id, int timeout_ms) {
  while (true) {
    pollfd polled{control.get(), POLLIN, 0};
    const int ready = retry_eintr([&] { return poll(&polled, 1, timeout_ms); });
    if (ready < 0) return sys_error("wait for kiln-vmm");
    if (ready == 0)
      return make_error(ErrorKind::kDeadlineExceeded,
                        fmt::format("kiln-vmm did not answer within {} s", timeout_ms / 1000));
    auto frame = receive_frame(control.get(), kMaxControlFrameBytes);
    if (!frame) {
      if (said_goodbye) return make_error(ErrorKind::kUnavailable, exit->detail);
      return make_error(ErrorKind::kUnavailable, "kiln-vmm has ended");
    }
    Json message = TRY(parse_object(*frame));
    if (message.contains("exit")) {
      take_goodbye(message);
      continue;
    }
    if (!message.contains("id") || message["id"] != id) continue;
    if (message.contains("error")) return tl::unexpected(error_in(message));
    return message.contains("result") ? message["result"] : Json::object();
  }
}

Result<Json> Vm::Impl::call(const char* method, Json params, std::span<const int> fds) {
  const int id = next_id++;
  Json request{{"id", id}, {"method", method}};
  if (!params.is_null()) request["params"] = std::move(params);
  const auto sent = send_frame(control.get(), dump_json(request), fds);
  if (!sent) drain();
  if (!sent && said_goodbye) return make_error(ErrorKind::kUnavailable, exit->detail);
  if (!sent) return make_error(ErrorKind::kUnavailable, "kiln-vmm has ended");
  return wait_for_answer(id, kAnswerTimeoutMs);
}

void Vm::Impl::drain() {
  while (!said_goodbye && control) {
    pollfd polled{control.get(), POLLIN, 0};
    if (retry_eintr([&] { return poll(&polled, 1, 0); }) <= 0) return;
    const auto frame = receive_frame(control.get(), kMaxControlFrameBytes);
    if (!frame) return;
    const auto message = parse_object(*frame);
    if (message && message->contains("exit")) take_goodbye(*message);
  }
}

Vm::Vm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Vm::~Vm() {
  kill_and_reap(impl_->process);
  if (!impl_->uds_path.empty()) unlink(impl_->uds_path.c_str());
}

Result<std::unique_ptr<Vm>> Vm::launch(const std::string& vmm_binary, const VmConfig& config,
                                       int log_fd) {
  auto [ours, theirs] = TRY(socket_pair(SOCK_STREAM));
  // A peer that stops in the middle of a frame must not hold us for ever.
  const timeval patience{kAnswerTimeoutMs / 1000, 0};
  setsockopt(ours.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(ours.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const BackendChoice choice = TRY(choose_backend(config.backend, config.qemu_accel));
  SpawnOptions options;
  options.program = vmm_binary;
  options.argv = {"kiln-vmm", "run"};
  // QEMU is a process of its own below kiln-vmm, which is then not confined.
  if (choice.backend == Backend::kKvm) {
    options.namespaces = vmm_namespaces();
    options.environment = std::vector<std::string>{};
    options.working_directory = std::string("/");  // GCC bug 105651 with a literal
  }
  options.fds = {{log_fd >= 0 ? log_fd : STDERR_FILENO, STDERR_FILENO},
                 {theirs.get(), kVmControlFd}};
  int next_fd = kVmFirstFsFd;
  for (const int fd : boot_descriptors(config)) options.fds.emplace_back(fd, next_fd++);
  auto impl = std::make_unique<Impl>();
  impl->process = TRY(spawn(options));
  impl->control = std::move(ours);
  impl->uds_path = config.vsock.uds_path;
  theirs.reset();
  std::unique_ptr<Vm> vm(new Vm(std::move(impl)));
  VmConfig chosen = config;
  chosen.backend = choice.backend;
  chosen.qemu_accel = choice.qemu_accel;
  TRY(send_frame(vm->impl_->control.get(), dump_json(boot_document(chosen))));
  TRY(vm->impl_->wait_for_answer(0, kStartTimeoutMs));
  return vm;
}

pid_t Vm::pid() const { return impl_->process.pid; }
int Vm::pidfd() const { return impl_->process.pidfd.get(); }

Result<std::optional<VmExit>> Vm::exit() {
  if (impl_->process.pid < 0) return impl_->exit;
  const auto status = TRY(wait_child(impl_->process, 0));
  if (!status) return std::optional<VmExit>();
  impl_->process.pid = -1;
  impl_->process.pidfd.reset();
  impl_->drain();
  if (!impl_->exit) {
    VmExit crashed;
    crashed.detail = describe_end("kiln-vmm", *status);
    impl_->exit = std::move(crashed);
  }
  return impl_->exit;
}

Result<void> Vm::start() {
  TRY(impl_->call("start"));
  return {};
}

Result<void> Vm::pause() {
  TRY(impl_->call("pause"));
  return {};
}

Result<void> Vm::resume() {
  TRY(impl_->call("resume"));
  return {};
}

Result<void> Vm::stop() {
  if (impl_->process.pid < 0) return {};
  const auto answer = impl_->call("stop");
  // An answer that does not come: there is nothing left to be polite to.
  if (!answer && !impl_->said_goodbye) {
    kill_and_reap(impl_->process);
    impl_->exit = VmExit{VmExit::Reason::kStopped, "it was killed"};
    return {};
  }
  const auto status = TRY(wait_child(impl_->process, kAnswerTimeoutMs));
  if (!status) kill_and_reap(impl_->process);
  impl_->drain();
  impl_->process.pid = -1;
  impl_->process.pidfd.reset();
  if (!impl_->exit) impl_->exit = VmExit{VmExit::Reason::kStopped, "it was stopped"};
  return {};
}

Result<std::string> Vm::console() {
  if (!impl_->said_goodbye && impl_->process.pid >= 0) {
    const auto answer = impl_->call("console");
    if (answer && answer->is_string()) return answer->get<std::string>();
  }
  impl_->drain();
  return impl_->last_console;
}

Result<Json> Vm::metrics() { return impl_->call("metrics"); }

const Json& Vm::last_metrics() const { return impl_->last_metrics; }

Result<void> Vm::attach_drive(const DriveConfig& drive) {
  TRY(impl_->call("attach-drive", drive_json(drive), std::span(&drive.fd, 1)));
  return {};
}

Result<void> Vm::attach_network_interface(const NetworkInterfaceConfig& interface) {
  TRY(impl_->call("attach-network-interface", network_interface_json(interface),
                  std::span(&interface.tap_fd, 1)));
  return {};
}

Result<void> Vm::detach(const std::string& id) {
  TRY(impl_->call("detach", {{"id", id}}));
  return {};
}

Result<void> Vm::set_balloon(uint32_t amount_mib) {
  TRY(impl_->call("balloon", {{"amount_mib", amount_mib}}));
  return {};
}

}  // namespace kiln::vmm
