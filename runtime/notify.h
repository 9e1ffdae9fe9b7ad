// SPDX-License-Identifier: Apache-2.0
// sd_notify(3) from inside a container to the host's service manager: READY=1 and its like.
#pragma once

#include <sys/types.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "oci/spec.h"

namespace kiln::runtime {

// Where the container's notifications come from and go to.
struct NotifyRoute {
  size_t mount = 0;         // of spec.mounts: a directory with the socket in it
  std::string name;         // of the socket there
  std::string host_socket;  // a path, or an abstract name with `@` in front
  bool adds_main_pid = false;
};

// As runc: with a `notify_socket` of the host's (NOTIFY_SOCKET) the spec gets a mount at
// /run/notify and the variable. As podman and conmon have it: a spec whose process has the variable
// and a bind mount at its directory already, whose socket conmon listens on. nullopt: neither.
std::optional<NotifyRoute> route_notifications(oci::Spec& spec, const std::string& notify_socket,
                                               const std::string& bundle);

// Tells the host what the guest said. Used by the loop's thread. A service manager that does not
// read its socket loses what it is told, but not readiness as long as the container lives.
class NotifyRelay {
 public:
  // `main_pid`: what the service manager is to watch from READY=1 on; in whose name it is told,
  // where that is allowed (unix(7), SCM_CREDENTIALS).
  static Result<std::unique_ptr<NotifyRelay>> create(EventLoop& loop, NotifyRoute route,
                                                     pid_t main_pid);
  ~NotifyRelay();
  NotifyRelay(const NotifyRelay&) = delete;
  NotifyRelay& operator=(const NotifyRelay&) = delete;

  // guest-controlled: what would give the guest power over the service (MAINPID, FDSTORE,
  // NOTIFYACCESS and what is unknown) is left out, and floods are cut.
  Result<void> tell(const std::vector<std::string>& lines);
  bool ready() const { return ready_; }
  const NotifyRoute& route() const { return route_; }

 private:
  NotifyRelay(EventLoop& loop, NotifyRoute route, pid_t main_pid, UniqueFd socket);
  Result<void> send(const std::string& text);
  Result<void> send_surely(std::string text);
  void go_on();

  EventLoop& loop_;
  NotifyRoute route_;
  pid_t main_pid_;
  UniqueFd socket_;
  RateLimit limit_;
  bool ready_ = false;
  std::deque<std::string> waiting_;  // for room in the manager's queue: two at most
};

}  // namespace kiln::runtime
