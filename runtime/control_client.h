// SPDX-License-Identifier: Apache-2.0
// A command's connection to a container's monitor.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "runtime/container_dir.h"
#include "runtime/rpc_client.h"

namespace kiln::runtime {

struct MonitorEvents {
  std::function<Result<void>(const protocol::Event&)> on_event;
  std::function<void(const Error&)> on_closed;
};
// `container not running` when nobody listens.
Result<std::unique_ptr<RpcClient>> connect_monitor(EventLoop& loop, const ContainerDir& dir,
                                                   MonitorEvents events = {});

// One request on a connection of its own. `timeout_ms` 0: none.
Result<Json> call_monitor(const ContainerDir& dir, const std::string& method, Json params,
                          int64_t timeout_ms);

}  // namespace kiln::runtime
