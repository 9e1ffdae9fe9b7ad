// SPDX-License-Identifier: Apache-2.0
#include "runtime/network/pasta.h"

#include <fcntl.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kLookMs = 5;
constexpr size_t kMaxMessageBytes = 512;
constexpr int kReapMs = 1000;

std::vector<std::string> arguments(const NamespaceHolder& holder) {
  std::vector<std::string> out{
      "pasta", "--foreground", "--quiet", "--config-net", "--ns-ifname", Pasta::kInterface,
      "--userns", holder.path("user"), "--netns", holder.path("net"), "--no-netns-quit",
      // The interface has everything already.
      "--no-dhcp", "--no-dhcpv6", "--no-ra",
      // Neither are ports of one side bound on the other, nor is the host's loopback interface in
      // reach: services there often ask nobody who he is.
      "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
      "--no-map-gw"};
  // Root stays who it is, without capabilities on the host: a change of user would undo the
  // parent-death signal (prctl(2)).
  if (geteuid() == 0) out.insert(out.end(), {"--runas", "0:0"});
  return out;
}

// The last line that is not about the system's log, which pasta writes to as well.
std::string last_line(std::string text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    if (!line.empty() && line.find("to syslog") == std::string::npos) out = line;
    at = end + 1;
  }
  std::erase_if(out, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  return out;
}

std::string describe(const Result<std::optional<ExitStatus>>& status) {
  if (!status || !*status) return "its exit status is lost";
  if ((*status)->signal != 0) return fmt::format("it was killed by signal {}", (*status)->signal);
  return fmt::format("it ended with code {}", (*status)->code);
}

}  // namespace

Result<std::unique_ptr<Pasta>> Pasta::start(EventLoop& loop, const Options& options,
                                            NamespaceHolder holder, EndedCallback on_ended) {
  std::array<int, 2> pipe_fds{};
  if (pipe2(pipe_fds.data(), O_CLOEXEC | O_NONBLOCK) != 0) return sys_error("create a pipe");
  std::unique_ptr<Pasta> pasta(new Pasta(loop, std::move(holder), std::move(on_ended)));
  Pasta* self = pasta.get();
  self->messages_.reset(pipe_fds[0]);
  const UniqueFd theirs(pipe_fds[1]);
  SpawnOptions spawned;
  spawned.program = options.program;
  spawned.argv = arguments(*self->holder_);
  spawned.environment.emplace();
  spawned.fds = {{theirs.get(), 2}};
  spawned.working_directory = std::string("/");  // GCC bug 105651 with a literal
  spawned.new_session = true;
  spawned.network_namespace = options.host_namespace;
  self->process_ = TRY(spawn(spawned));
  TRY(loop.add_fd(self->process_.pidfd.get(), EPOLLIN, [self](uint32_t) { self->ended(); }));
  TRY(loop.add_fd(self->messages_.get(), EPOLLIN, [self](uint32_t) { self->read_messages(); }));
  self->look_for_interface();
  return pasta;
}

Pasta::~Pasta() {
  loop_.cancel_timer(timer_);
  stop_reading();
  if (!process_.pidfd) return;
  loop_.remove_fd(process_.pidfd.get());
  kill_and_reap(process_);
}

void Pasta::look_for_interface() {
  ready_ = if_nametoindex(kInterface) != 0;
  if (ready_) {
    holder_.reset();
    return;
  }
  timer_ = loop_.add_timer(kLookMs, [this] { look_for_interface(); });
}

void Pasta::stop_reading() {
  if (!messages_) return;
  loop_.remove_fd(messages_.get());
  messages_.reset();
}

void Pasta::read_messages() {
  std::array<char, kMaxMessageBytes> buffer;
  const ssize_t got =
      retry_eintr([&] { return read(messages_.get(), buffer.data(), buffer.size()); });
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) return stop_reading();
  last_message_.append(buffer.data(), static_cast<size_t>(got));
  if (last_message_.size() > 2 * kMaxMessageBytes)
    last_message_.erase(0, last_message_.size() - 2 * kMaxMessageBytes);
}

void Pasta::ended() {
  loop_.cancel_timer(timer_);
  loop_.remove_fd(process_.pidfd.get());
  const auto status = wait_child(process_, kReapMs);
  process_ = ChildProcess();
  // What it said last may still be in the pipe.
  while (messages_) {
    const size_t before = last_message_.size();
    read_messages();
    if (last_message_.size() == before) break;
  }
  stop_reading();
  // Of one that was killed it explains nothing.
  const bool failed = status && *status && (*status)->signal == 0;
  const std::string said = failed ? last_line(last_message_) : std::string();
  const EndedCallback on_ended = std::move(on_ended_);
  on_ended(make_error(ErrorKind::kUnavailable,
                      fmt::format("the container's network has ended with pasta: {}{}{}",
                                  describe(status), said.empty() ? "" : ": ", said))
               .value());
}

}  // namespace kiln::runtime
