// SPDX-License-Identifier: Apache-2.0
// kiln-agent: PID 1 of the guest, and /init of its initramfs.
#include <fcntl.h>
#include <sys/reboot.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "agent/container_factory.h"
#include "agent/core/server.h"
#include "agent/guest/boot.h"
#include "agent/guest/booted_guest.h"
#include "agent/guest/module_request.h"
#include "agent/guest/modules.h"
#include "agent/guest/vsock.h"
#include "base/file.h"
#include "base/log.h"

namespace {

using kiln::Result;
namespace agent = kiln::agent;

constexpr const char* kModuleList = "/lib/modules/load";
constexpr int kFirstRetryMs = 5;
constexpr int kLongestRetryMs = 200;
constexpr int kComplaintMs = 5000;

void sleep_ms(int milliseconds) {
  const timespec time{milliseconds / 1000, milliseconds % 1000 * 1'000'000L};
  nanosleep(&time, nullptr);
}

// The host listens before it starts the machine; what takes time is the device.
kiln::UniqueFd connect_to_host() {
  int waited = 0;
  for (int retry = kFirstRetryMs;; retry = std::min(retry * 2, kLongestRetryMs)) {
    auto connection = agent::dial_host(kiln::protocol::kControlPort);
    if (connection) return std::move(*connection);
    if (waited / kComplaintMs != (waited + retry) / kComplaintMs || waited == 0)
      kiln::log_info("{}, trying again", connection.error().message);
    waited += retry;
    sleep_ms(retry);
  }
}

bool debug_wanted() {
  const auto command_line = kiln::read_file("/proc/cmdline", 8192);
  return command_line && command_line->find("kiln.debug") != std::string::npos;
}

void log_memory() {
  const auto status = kiln::read_file("/proc/self/status", 8192);
  if (!status) return;
  for (const char* key : {"VmHWM:", "VmRSS:"}) {
    const size_t begin = std::min(status->find(key), status->size());
    kiln::log_debug("{}", status->substr(begin, status->find('\n', begin) - begin));
  }
}

Result<void> boot() {
  kiln::log_setup(kiln::LogLevel::kInfo, agent::open_early_log());
  const auto loaded = agent::load_modules(kModuleList);
  TRY(agent::leave_initramfs());
  TRY(agent::mount_system());
  const kiln::LogFormat format = TRY(agent::open_console());
  kiln::log_setup(debug_wanted() ? kiln::LogLevel::kDebug : kiln::LogLevel::kInfo, format);
  if (!loaded) kiln::log_error("{}, ignoring", loaded.error().message);
  return agent::configure_kernel();
}

Result<void> serve() {
  const auto loop = TRY(kiln::EventLoop::create());
  agent::BootedGuest guest;
  agent::Server::Options options;
  // Before hello: the host may dial a stream as soon as it has heard of us.
  options.streams = TRY(agent::listen_to_host(kiln::protocol::kStreamPort));
  options.control = connect_to_host();
  options.factory = agent::real_containers();
  options.pod_factory = agent::real_pods();
  options.guest = &guest;
  const auto server = TRY(agent::Server::create(*loop, std::move(options)));
  log_memory();
  return loop->run();
}

}  // namespace

int main(int argc, char** argv) {
  if (getpid() != 1) {
    if (const auto module = agent::requested_module({argv, static_cast<size_t>(argc)}))
      return agent::answer_module_request(*module);
    std::fputs("kiln-agent: runs as PID 1 of a kiln guest only\n", stderr);
    return 1;
  }
  Result<void> outcome = boot();
  if (outcome) outcome = serve();
  if (!outcome) kiln::log_error("{}, giving up", outcome.error().message);
  agent::BootedGuest().power_off();
  return 1;
}
