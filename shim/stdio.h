// SPDX-License-Identifier: Apache-2.0
// A process's standard streams as containerd names them: fifos, file://, binary://.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/process.h"
#include "base/unique_fd.h"

namespace kiln::shim {

struct StdioPaths {
  std::string in;
  std::string out;
  std::string err;
  bool terminal = false;
  // How long a process waits for the reader of a fifo, at most: what it writes and nobody has
  // opened is gone when it ends.
  int64_t reader_wait_ms = 10'000;
  // Of those that are streams over the shim's own socket (streaming.h): the process's ends.
  std::array<std::shared_ptr<UniqueFd>, 3> streams = {};
};

struct OpenStdio {
  // Descriptors 0, 1 and 2 of the process; an invalid one is /dev/null.
  std::array<UniqueFd, 3> fds;
  // A terminal's input never ends: who has typed may come back. Otherwise the process sees the end
  // once the last writer has closed, as with runc.
  UniqueFd stdin_keeper;
  ChildProcess logger;  // of binary://; it ends when its pipes do
};

// May block, for a logger that does not say that it is ready or a fifo that nobody reads: not on
// the event loop's thread.
Result<OpenStdio> open_stdio(const StdioPaths& paths, const std::string& namespace_name,
                             const std::string& id);

// A logger that has ended is not to stay a zombie. Nothing where there is none.
void reap_at_end(EventLoop& loop, ChildProcess logger);

// The logger of `binary:///path?key=value`: its program and arguments.
struct LoggerCommand {
  std::string program;
  std::vector<std::string> arguments;
};
Result<LoggerCommand> parse_logger(const std::string& uri);

}  // namespace kiln::shim
