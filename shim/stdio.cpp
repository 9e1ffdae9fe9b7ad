// SPDX-License-Identifier: Apache-2.0
#include "shim/stdio.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"

namespace kiln::shim {
namespace {

constexpr std::string_view kFileScheme = "file://";
constexpr std::string_view kBinaryScheme = "binary://";
constexpr std::string_view kFifoScheme = "fifo://";
constexpr int kLoggerReadyMs = 10'000;  // as containerd's own shim

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// RFC 3986 §2.1; `plus`: of a query, where + is a space.
Result<std::string> percent_decoded(std::string_view text, bool plus) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+' && plus) {
      out += ' ';
    } else if (text[i] != '%') {
      out += text[i];
    } else {
      const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
      if (high < 0 || low < 0) return invalid_argument(fmt::format("bad escape in `{}`", text));
      out += static_cast<char>(high << 4 | low);
      i += 2;
    }
  }
  return out;
}

Result<std::string> file_path(std::string_view uri, std::string_view scheme) {
  std::string path = TRY(percent_decoded(uri.substr(scheme.size()), false));
  if (!path.starts_with('/'))
    return invalid_argument(fmt::format("stdio `{}`: must have an absolute path", uri));
  return path;
}

bool is_fifo(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode);
}

Result<void> open_input(const std::string& uri, bool terminal, OpenStdio& out) {
  if (uri.empty()) return {};
  const std::string path =
      uri.starts_with(kFifoScheme) ? TRY(file_path(uri, kFifoScheme)) : std::string(uri);
  out.fds[0] = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
  if (terminal && is_fifo(path)) out.stdin_keeper = TRY(open_file(path, O_WRONLY | O_NONBLOCK));
  return {};
}

// fifo(7): a writer that does not block is refused while there is no reader. Nothing tells of its
// coming, so that it is tried again. The writer is to stay until there is another one: without any
// the reader would see the end. None: nobody has come.
Result<UniqueFd> await_reader(const std::string& path, int64_t wait_ms) {
  constexpr int64_t kStepMs = 2;
  for (int64_t waited = 0; waited <= wait_ms; waited += kStepMs) {
    auto writer = open_file(path, O_WRONLY | O_NONBLOCK);
    if (writer || writer.error().sys_errno != ENXIO) return writer;
    std::this_thread::sleep_for(std::chrono::milliseconds(kStepMs));
  }
  log_warning("nobody has opened `{}` within {} ms, ignoring", path, wait_ms);
  return UniqueFd();
}

Result<UniqueFd> open_output(const std::string& uri, int64_t reader_wait_ms) {
  if (uri.empty()) return UniqueFd();
  if (uri.starts_with(kFileScheme)) {
    const std::string path = TRY(file_path(uri, kFileScheme));
    TRY(make_directories(std::filesystem::path(path).parent_path().native(), 0755));
    return open_file(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  }
  const std::string path =
      uri.starts_with(kFifoScheme) ? TRY(file_path(uri, kFifoScheme)) : std::string(uri);
  if (!path.starts_with('/'))
    return make_error(
        ErrorKind::kUnimplemented,
        fmt::format("stdio `{}`: neither a path nor fifo://, file:// or binary://", uri));
  // For reading too: while containerd is away the process waits, instead of losing its output.
  if (is_fifo(path)) {
    const UniqueFd writer = TRY(await_reader(path, reader_wait_ms));
    return open_file(path, O_RDWR | O_NONBLOCK);
  }
  return open_file(path, O_WRONLY | O_APPEND);
}

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

Result<Pipe> make_pipe() {
  std::array<int, 2> fds{};
  if (pipe2(fds.data(), O_CLOEXEC) != 0) return sys_error("create a pipe");
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// The logger reads descriptors 3 and 4, and closes 5 when it is ready.
Result<void> start_logger(const std::string& uri, const std::string& namespace_name,
                          const std::string& id, bool terminal, OpenStdio& out) {
  const LoggerCommand command = TRY(parse_logger(uri));
  Pipe output = TRY(make_pipe());
  Pipe errors = TRY(make_pipe());
  Pipe ready = TRY(make_pipe());
  SpawnOptions options;
  options.program = command.program;
  options.argv = {command.program};
  options.argv.insert(options.argv.end(), command.arguments.begin(), command.arguments.end());
  options.environment = {fmt::format("CONTAINER_ID={}", id),
                         fmt::format("CONTAINER_NAMESPACE={}", namespace_name)};
  options.fds = {
      {output.read_end.get(), 3}, {errors.read_end.get(), 4}, {ready.write_end.get(), 5}};
  options.parent_death_signal = 0;  // it is to write what there still is
  options.new_session = true;
  out.logger = TRY(wrap(spawn(options), fmt::format("start the logger `{}`", command.program)));
  ready.write_end.reset();
  pollfd event{ready.read_end.get(), POLLIN, 0};
  if (retry_eintr([&] { return poll(&event, 1, kLoggerReadyMs); }) <= 0) {
    kill_and_reap(out.logger);
    out.logger = {};
    return make_error(ErrorKind::kDeadlineExceeded,
                      fmt::format("the logger `{}` is not ready within {} s", command.program,
                                  kLoggerReadyMs / 1000));
  }
  out.fds[1] = std::move(output.write_end);
  if (!terminal) out.fds[2] = std::move(errors.write_end);
  return {};
}

}  // namespace

Result<LoggerCommand> parse_logger(const std::string& uri) {
  std::string_view rest = std::string_view(uri).substr(kBinaryScheme.size());
  const size_t question = rest.find('?');
  LoggerCommand out;
  out.program = TRY(percent_decoded(rest.substr(0, question), false));
  if (!out.program.starts_with('/'))
    return invalid_argument(fmt::format("stdio `{}`: must have an absolute path", uri));
  rest = question == std::string_view::npos ? "" : rest.substr(question + 1);
  while (!rest.empty()) {
    const size_t end = rest.find('&');
    const std::string_view pair = rest.substr(0, end);
    rest = end == std::string_view::npos ? "" : rest.substr(end + 1);
    if (pair.empty()) continue;
    const size_t equals = pair.find('=');
    out.arguments.push_back(TRY(percent_decoded(pair.substr(0, equals), true)));
    // A key alone has an empty value, as in containerd's own shim.
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1);
    out.arguments.push_back(TRY(percent_decoded(value, true)));
  }
  return out;
}

Result<OpenStdio> open_stdio(const StdioPaths& paths, const std::string& namespace_name,
                             const std::string& id) {
  OpenStdio out;
  for (size_t i = 0; i < paths.streams.size(); ++i)
    if (paths.streams[i]) out.fds[i] = std::move(*paths.streams[i]);
  if (!paths.streams[0])
    TRY(wrap(open_input(paths.in, paths.terminal, out), "open standard input"));
  if (paths.out.starts_with(kBinaryScheme)) {
    TRY(start_logger(paths.out, namespace_name, id, paths.terminal, out));
    return out;
  }
  if (!paths.streams[1])
    out.fds[1] = TRY(wrap(open_output(paths.out, paths.reader_wait_ms), "open standard output"));
  if (!paths.terminal && !paths.streams[2])
    out.fds[2] = TRY(wrap(open_output(paths.err, paths.reader_wait_ms), "open standard error"));
  return out;
}

void reap_at_end(EventLoop& loop, ChildProcess logger) {
  if (!logger.pidfd) return;
  const auto kept = std::make_shared<ChildProcess>(std::move(logger));
  const auto added = loop.add_fd(kept->pidfd.get(), EPOLLIN, [&loop, kept](uint32_t) {
    loop.remove_fd(kept->pidfd.get());
    static_cast<void>(wait_child(*kept, 0));
  });
  if (!added) log_warning("{}, ignoring", added.error().message);
}

}  // namespace kiln::shim
