// SPDX-License-Identifier: Apache-2.0
// Another process in a running container.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/event_loop.h"
#include "oci/spec.h"
#include "runtime/container_dir.h"
#include "runtime/process_io.h"
#include "runtime/rpc_client.h"
#include "shim/stdio.h"

namespace kiln::shim {

// Its streams are relayed here; the container's monitor passes the requests on. Used by the event
// loop's thread.
class Exec {
 public:
  using Done = std::function<void(Result<void>)>;

  Exec(EventLoop& loop, std::string id, oci::Process process)
      : loop_(loop), id_(std::move(id)), process_(std::move(process)) {}
  ~Exec() { *alive_ = false; }
  Exec(const Exec&) = delete;
  Exec& operator=(const Exec&) = delete;

  // `started` once the process runs and its streams are open. `on_exit` once, after that, when it
  // has ended and what it wrote has been passed on.
  void start(const runtime::ContainerDir& dir, OpenStdio stdio, Done started,
             std::function<void(int code)> on_exit);
  void kill(int signal, Done done);
  void resize(uint16_t rows, uint16_t columns, Done done);
  void close_stdin();

 private:
  Result<void> connect(const runtime::ContainerDir& dir);
  void ask(std::array<UniqueFd, 3> fds);
  void open_streams(const protocol::StdioRequest& wanted, std::array<UniqueFd, 3> fds);
  void opened(Result<void> outcome);
  void fail(Error error);
  void ended(int code);
  void finish();

  EventLoop& loop_;
  std::string id_;
  oci::Process process_;
  std::string container_;
  std::string vsock_path_;
  UniqueFd stdin_keeper_;
  std::unique_ptr<runtime::RpcClient> monitor_;
  std::unique_ptr<runtime::ProcessIo> io_;
  Done started_;
  std::function<void(int)> on_exit_;
  std::optional<int> code_;
  bool open_ = false;
  bool stdin_closed_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::shim
