// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/bundle.h"

#include <cstdlib>

#include "base/log.h"
#include "base/unix_socket.h"
#include "runtime/container_delete.h"
#include "runtime/passed_fds.h"
#include "runtime/pidfd_socket.h"

namespace kiln::runtime {

void add_create_flags(const Command& command, CreateFlags& flags) {
  command.option("container-id", flags.id, "the container's name, unique on this host").required();
  command.option("-b,--bundle", flags.bundle,
                 "directory with config.json; the current one by default");
  command.option("--pid-file", flags.pid_file, "file to write the process id to");
  command.option("--console-socket", flags.console_socket,
                 "AF_UNIX socket that receives the terminal's master");
  command.option("--pidfd-socket", flags.pidfd_socket,
                 "AF_UNIX socket that receives a pidfd of the container's process");
  command.flag("--no-pivot", flags.no_pivot, "accepted; the guest decides how it enters a rootfs");
  command.flag("--no-new-keyring", flags.no_new_keyring,
               "accepted; the guest has keyrings of its own");
  command.option("--preserve-fds", flags.preserve_fds,
                 "so many descriptors behind LISTEN_FDS go to the container: sockets and pipes");
}

Result<NewContainer> prepare_container(const Globals& globals, const CreateFlags& flags) {
  TRY(check_container_id(flags.id));
  if (flags.preserve_fds < 0) return invalid_argument("--preserve-fds: must not be negative");
  const size_t listening = TRY(listen_fds());
  const auto preserved = static_cast<size_t>(flags.preserve_fds);
  std::vector<protocol::Passed> passed = TRY(passed_kinds(listening + preserved, preserved));
  const std::string bundle =
      TRY(absolute_path(flags.bundle.empty() ? "." : flags.bundle, "bundle"));
  oci::Spec spec = TRY(load_spec(bundle));
  NewContainer out =
      TRY(prepare_from_spec(globals, flags.id, bundle, std::move(spec), MachineWishes()));
  out.plan.passed = std::move(passed);
  out.plan.listen_fds = listening;
  for (size_t i = 0; i < out.plan.passed.size(); ++i)
    out.passed.emplace_back(protocol::kFirstPassedFd + static_cast<int>(i));
  const char* notify_socket = std::getenv("NOTIFY_SOCKET");
  if (notify_socket != nullptr) out.plan.notify_socket = notify_socket;
  return out;
}

void remove_quietly(const Globals& globals, const std::string& id) {
  if (auto removed = delete_container(globals.root, id, true); !removed)
    log_warning("delete container {}: {}, ignoring", id, removed.error().message);
}

Result<UniqueFd> connect_pidfd_socket(const CreateFlags& flags) {
  if (flags.pidfd_socket.empty()) return UniqueFd();
  return connect_unix(flags.pidfd_socket);
}

Result<void> announce_container(const Globals& globals, const CreateFlags& flags,
                                const UniqueFd& pidfd_socket, const CreatedContainer& created) {
  Result<void> told;
  if (pidfd_socket) told = send_pidfd(pidfd_socket.get(), "standard", created.monitor.pidfd.get());
  if (told && !flags.pid_file.empty()) told = write_pid_file(flags.pid_file, created.pid());
  if (!told) remove_quietly(globals, flags.id);
  return told;
}

}  // namespace kiln::runtime
