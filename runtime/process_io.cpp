// SPDX-License-Identifier: Apache-2.0
#include "runtime/process_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"

namespace kiln::runtime {
namespace {

bool worth_a_stream(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return false;
  return !S_ISCHR(info.st_mode) || info.st_rdev != makedev(1, 3);
}

}  // namespace

protocol::StdioRequest stdio_in_use() {
  return {worth_a_stream(STDIN_FILENO), worth_a_stream(STDOUT_FILENO),
          worth_a_stream(STDERR_FILENO)};
}

Result<std::array<UniqueFd, 3>> take_stdio() {
  std::array<UniqueFd, 3> taken;
  const UniqueFd null = TRY(open_file("/dev/null", O_RDWR));
  for (int fd = 0; fd < 3; ++fd) {
    taken[static_cast<size_t>(fd)].reset(fcntl(fd, F_DUPFD_CLOEXEC, 3));  // -1: it was closed
    if (dup2(null.get(), fd) < 0) return sys_error("redirect a standard stream");
  }
  return taken;
}

ProcessIo::~ProcessIo() { *alive_ = false; }

void ProcessIo::open_pipes(const protocol::StdioRequest& wanted, std::array<UniqueFd, 3> fds,
                           Callback callback) {
  std::vector<Stream> streams;
  if (wanted.stdin_open) streams.push_back({"stdin", std::move(fds[0]), UniqueFd()});
  if (wanted.stdout_open) streams.push_back({"stdout", UniqueFd(), std::move(fds[1])});
  if (wanted.stderr_open) streams.push_back({"stderr", UniqueFd(), std::move(fds[2])});
  dial(std::move(streams), std::move(callback));
}

void ProcessIo::open_terminal(UniqueFd input, UniqueFd output, Callback callback) {
  std::vector<Stream> streams;
  streams.push_back({"tty", std::move(input), std::move(output)});
  dial(std::move(streams), std::move(callback));
}

void ProcessIo::dial(std::vector<Stream> streams, Callback callback) {
  streams_ = std::move(streams);
  add_passed();
  opened_ = std::move(callback);
  to_open_ = streams_.size();
  if (to_open_ == 0) {
    loop_.defer([this, alive = alive_] {
      if (*alive) all_open({});
    });
    return;
  }
  for (size_t i = 0; i < streams_.size(); ++i) {
    const protocol::StreamHeader header{options_.container_id, options_.process_id,
                                        streams_[i].name};
    auto dialer =
        StreamDialer::dial(loop_, options_.vsock_path, header, options_.dial_timeout_ms,
                           [this, i](Result<UniqueFd> socket) { opened(i, std::move(socket)); });
    if (dialer) {
      dialers_.push_back(std::move(*dialer));
      continue;
    }
    loop_.defer([this, alive = alive_, i, error = std::move(dialer.error())] {
      if (*alive) opened(i, tl::unexpected(error));
    });
  }
}

void ProcessIo::opened(size_t index, Result<UniqueFd> socket) {
  if (!opened_) return;  // another stream has failed already
  Result<void> outcome;
  if (!socket) {
    outcome = tl::unexpected(std::move(socket.error()));
  } else {
    outcome = relay(streams_[index], std::move(*socket));
  }
  if (outcome && --to_open_ > 0) return;
  all_open(std::move(outcome));
}

void ProcessIo::all_open(Result<void> outcome) {
  if (outcome) outcome = listen();
  const Callback callback = std::move(opened_);
  opened_ = nullptr;
  callback(std::move(outcome));
}

void ProcessIo::add_passed() {
  for (size_t i = 0; i < options_.passed.size(); ++i) {
    PassedStream& passed = options_.passed[i];
    if (passed.kind == protocol::Passed::kListener) continue;
    Stream stream{protocol::passed_stream(i), {}, {}, true};
    if (passed.kind == protocol::Passed::kReader) {
      stream.input = std::move(passed.fd);
    } else {
      if (passed.kind == protocol::Passed::kSocket)
        stream.input.reset(fcntl(passed.fd.get(), F_DUPFD_CLOEXEC, 3));
      stream.output = std::move(passed.fd);
    }
    streams_.push_back(std::move(stream));
  }
}

Result<void> ProcessIo::listen() {
  for (size_t i = 0; i < options_.passed.size(); ++i) {
    PassedStream& passed = options_.passed[i];
    if (passed.kind != protocol::Passed::kListener) continue;
    const protocol::StreamHeader header{options_.container_id, options_.process_id,
                                        protocol::passed_stream(i)};
    listeners_.push_back(TRY(PassedListener::create(
        loop_, std::move(passed.fd), {options_.vsock_path, header, options_.dial_timeout_ms})));
  }
  return {};
}

Result<void> ProcessIo::relay(Stream& stream, UniqueFd socket) {
  UniqueFd to_guest;
  if (stream.input && stream.output) {
    to_guest.reset(fcntl(socket.get(), F_DUPFD_CLOEXEC, 3));
    if (!to_guest) return sys_error("duplicate a stream");
  } else if (stream.input) {
    to_guest = std::move(socket);
  }
  if (stream.output)
    (stream.passed ? passed_outputs_ : outputs_)
        .push_back(TRY(Relay::create(loop_, std::move(socket), std::move(stream.output),
                                     [this] { check_drained(); })));
  if (stream.input) {
    inputs_.push_back(
        TRY(Relay::create(loop_, std::move(stream.input), std::move(to_guest), [] {})));
    if (stream.name == "stdin") stdin_ = inputs_.back().get();
    if (stdin_ != nullptr && stdin_closed_) stdin_->end_source();
  }
  return {};
}

bool ProcessIo::outputs_done() const {
  const auto done = [](const auto& relay) { return relay->done(); };
  return std::all_of(outputs_.begin(), outputs_.end(), done) &&
         std::all_of(passed_outputs_.begin(), passed_outputs_.end(), done);
}

uint64_t ProcessIo::bytes_out() const {
  uint64_t sum = 0;
  for (const auto& relay : outputs_) sum += relay->bytes_copied();
  for (const auto& relay : passed_outputs_) sum += relay->bytes_copied();
  return sum;
}

bool ProcessIo::blocked() const {
  return std::any_of(outputs_.begin(), outputs_.end(),
                     [](const auto& r) { return !r->done() && r->blocked(); });
}

void ProcessIo::close_stdin() {
  stdin_closed_ = true;
  if (stdin_ != nullptr) stdin_->end_source();
}

void ProcessIo::hold_listeners(bool held) {
  for (const auto& listener : listeners_) listener->hold(held);
}

void ProcessIo::drain(int64_t linger_ms, std::function<void()> callback) {
  for (const auto& listener : listeners_) listener->stop_accepting();
  drained_ = std::move(callback);
  linger_ms_ = linger_ms;
  loop_.defer([this, alive = alive_] {
    if (*alive) check_drained();
  });
  if (linger_ms_ > 0) linger();
}

void ProcessIo::linger() {
  bytes_seen_ = bytes_out();
  loop_.add_timer(linger_ms_, [this, alive = alive_] {
    if (!*alive || !drained_) return;
    if (bytes_out() != bytes_seen_ || blocked()) return linger();
    const auto callback = std::move(drained_);
    drained_ = nullptr;
    callback();
  });
}

void ProcessIo::check_drained() {
  if (!drained_ || !outputs_done()) return;
  const auto callback = std::move(drained_);
  drained_ = nullptr;
  callback();
}

}  // namespace kiln::runtime
