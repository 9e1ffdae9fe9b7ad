// SPDX-License-Identifier: Apache-2.0
#include "runtime/control_client.h"

#include "base/unix_socket.h"

namespace kiln::runtime {

Result<std::unique_ptr<RpcClient>> connect_monitor(EventLoop& loop, const ContainerDir& dir,
                                                   MonitorEvents events) {
  auto socket = connect_unix(dir.control_socket());
  if (!socket && (socket.error().sys_errno == ENOENT || socket.error().sys_errno == ECONNREFUSED))
    return make_error(ErrorKind::kFailedPrecondition, "container not running");
  RpcClient::Options options;
  options.peer = "monitor";
  options.on_event = std::move(events.on_event);
  options.on_closed = std::move(events.on_closed);
  return RpcClient::create(loop, TRY(std::move(socket)), std::move(options));
}

Result<Json> call_monitor(const ContainerDir& dir, const std::string& method, Json params,
                          int64_t timeout_ms) {
  const auto loop = TRY(EventLoop::create());
  const auto client = TRY(connect_monitor(*loop, dir));
  return client->call(method, std::move(params), timeout_ms);
}

}  // namespace kiln::runtime
