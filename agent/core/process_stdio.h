// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "agent/container/container.h"
#include "agent/protocol/messages.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// Our ends of one stream, non-blocking. With a terminal both are its master.
struct StreamEnds {
  UniqueFd to_process;
  UniqueFd from_process;
};

// Our ends of a process's standard streams until the host has dialled them. What the process writes
// before that waits in the pipes.
class ProcessStdio {
 public:
  // Makes the pipes; `theirs` receives the process's ends. With a terminal there are none.
  static Result<ProcessStdio> create(const protocol::StdioRequest& wanted, bool terminal,
                                     ProcessFds& theirs);

  Result<void> set_terminal(UniqueFd master);
  Result<void> resize(uint16_t rows, uint16_t columns);
  void close_terminal() { terminal_.reset(); }  // hangs up once the stream is closed too

  // `stream`: stdin, stdout, stderr or tty. Each once.
  Result<StreamEnds> take(const std::string& stream);
  bool all_taken() const { return !stdin_ && !stdout_ && !stderr_ && terminal_taken_; }

 private:
  UniqueFd stdin_;
  UniqueFd stdout_;
  UniqueFd stderr_;
  UniqueFd terminal_;
  bool terminal_taken_ = true;
  bool had_stdin_ = false;
  bool had_stdout_ = false;
  bool had_stderr_ = false;
  bool had_terminal_ = false;
};

}  // namespace kiln::agent
