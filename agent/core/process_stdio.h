// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "agent/container/container.h"
#include "agent/core/passed_fds.h"
#include "agent/core/stream_ends.h"
#include "agent/protocol/messages.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// Our ends of a process's standard streams until the host has dialled them. What the process writes
// before that waits in the pipes.
class ProcessStdio {
 public:
  // Makes the pipes and what stands for passed descriptors; `theirs` receives the process's ends.
  // With a terminal there are no pipes.
  static Result<ProcessStdio> create(const protocol::StdioRequest& wanted, bool terminal,
                                     ProcessFds& theirs);

  Result<void> set_terminal(UniqueFd master);
  Result<void> resize(uint16_t rows, uint16_t columns);
  void close_terminal() { terminal_.reset(); }  // hangs up once the stream is closed too

  // `stream`: stdin, stdout, stderr, tty or fd:N. Each once, but for a listener's.
  Result<StreamEnds> take(const std::string& stream);
  bool all_taken() const {
    return !stdin_ && !stdout_ && !stderr_ && terminal_taken_ && passed_.all_taken();
  }

 private:
  UniqueFd stdin_;
  UniqueFd stdout_;
  UniqueFd stderr_;
  PassedFds passed_;
  UniqueFd terminal_;
  bool terminal_taken_ = true;
  bool had_stdin_ = false;
  bool had_stdout_ = false;
  bool had_stderr_ = false;
  bool had_terminal_ = false;
};

}  // namespace kiln::agent
