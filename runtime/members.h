// SPDX-License-Identifier: Apache-2.0
// The other containers in a monitor's sandbox: a pod's, for instance. Each has a monitor of its own
// (joined_sandbox.h), which stands for it towards its engine.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "runtime/control_server.h"
#include "runtime/sandbox.h"

namespace kiln::runtime {

// Owned by the monitor that made the machine, used by its only thread. A member whose monitor goes
// away is killed and removed from the guest.
class Members {
 public:
  Members(Sandbox& sandbox, ControlServer& server) : sandbox_(sandbox), server_(server) {}
  ~Members() { *alive_ = false; }
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;

  // False: it is no request of a member's monitor ("join", "share", "drive", "agent", "leave").
  bool handle(ControlServer::ConnectionId connection, const protocol::Request& request,
              const ControlServer::Reply& reply);
  // False: no member's.
  bool handle_exit(const protocol::ExitEvent& event);
  bool handle_oom(const protocol::OomEvent& event);
  bool handle_notify(const protocol::NotifyEvent& event);
  void connection_closed(ControlServer::ConnectionId connection);

 private:
  struct Member {
    ControlServer::ConnectionId connection = 0;
    std::string prefix;
    std::vector<std::string> entries;  // of the file-system server
    std::vector<std::string> drives;   // of the machine
    bool in_guest = false;             // it has been asked for
    bool exited = false;
    bool abandoned = false;  // its monitor has gone
    // What waits for the name to be free again.
    std::function<void()> next;
    ControlServer::Reply left;  // to "leave", if it has been asked
  };
  using Found = std::map<std::string, Member>::iterator;

  void join(ControlServer::ConnectionId connection, const std::string& id,
            const ControlServer::Reply& reply);
  void share(ControlServer::ConnectionId connection, const Json& params,
             const ControlServer::Reply& reply);
  // A disk of the container's goes into the machine, for as long as the container is there.
  void drive(ControlServer::ConnectionId connection, const Json& params,
             const ControlServer::Reply& reply);
  // Of a container that has ended: answered once nothing of it is in the machine.
  void leave(ControlServer::ConnectionId connection, const Json& params,
             const ControlServer::Reply& reply);
  void ask_agent(ControlServer::ConnectionId connection, const Json& params,
                 const ControlServer::Reply& reply);
  void remove(const std::string& id);
  // Its drives' slots, which the guest gives up first.
  void release_drives(const std::string& id);
  void forget(const std::string& id);

  Sandbox& sandbox_;
  ControlServer& server_;
  std::map<std::string, Member> members_;  // by container id
  unsigned next_prefix_ = 1;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::runtime
