// SPDX-License-Identifier: Apache-2.0
// The monitor's state; for the files monitor*.cpp alone.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "runtime/console.h"
#include "runtime/container_dir.h"
#include "runtime/control_server.h"
#include "runtime/disks.h"
#include "runtime/forwards.h"
#include "runtime/hooks.h"
#include "runtime/joined_sandbox.h"
#include "runtime/main_thread.h"
#include "runtime/members.h"
#include "runtime/network/net_devices.h"
#include "runtime/network/pasta.h"
#include "runtime/network/sandbox_network.h"
#include "runtime/notify.h"
#include "runtime/plan.h"
#include "runtime/pod_ports.h"
#include "runtime/process_io.h"
#include "runtime/resolv_conf.h"
#include "runtime/resolver_relay.h"
#include "runtime/sandbox.h"
#include "runtime/written_volumes.h"

namespace kiln::runtime {

// In the container's resolv.conf it stands for a name server that resolver_relay.h knows.
constexpr const char* kRelayedNameServer = "127.0.0.11";  // protocol::kResolverAddress

// For an answer of the agent while a container is created, on a loaded host without KVM.
constexpr int64_t kCreateTimeoutMs = 60'000;

// One event loop, on a thread of its own (main_thread.h). Nothing here waits outside of the loop,
// except for answers of kiln-vmm, which has deadlines of its own: a guest that hangs stalls nobody.
class Monitor {
 public:
  Monitor(EventLoop& loop, MainThread& main_thread);

  // Everything up to "created": reads the plan, boots, creates. On failure all is undone except
  // for the directory itself.
  Result<void> create();
  // Tells the creator. False: it has gone away.
  bool announce();
  // Serves commands until the container has ended; its exit code.
  int serve();
  // Undoes a create whose creator has gone away, poststop hooks and directory included.
  void abandon();
  bool creator_is_gone() const { return creator_is_gone_; }

 private:
  using Reply = ControlServer::Reply;

  // -- creation (monitor_create.cpp)
  Result<void> create_container(MonitorPlan& plan);
  Result<void> add_shares(Shares& shares);
  // From a machine that boots to a guest that can be asked for containers.
  Result<void> await_guest(const MonitorPlan& plan);
  Result<void> prepare(const MonitorPlan& plan);
  SandboxCallbacks sandbox_callbacks();
  Result<void> launch_sandbox(const MonitorPlan& plan);
  Result<void> join_sandbox(const MonitorPlan& plan, Disks& disks);
  Result<void> boot_machine(const MonitorPlan& plan, const Disks& disks);
  void watch_connections();
  Result<void> run_create_hooks(const oci::Hooks& hooks);
  Result<void> send_identity();
  Result<void> send_container(const MonitorPlan& plan, const Shares& shares, const Disks& disks,
                              const protocol::StdioRequest& stdio);
  Result<void> open_streams(const MonitorPlan& plan, const protocol::StdioRequest& stdio,
                            std::array<UniqueFd, 3> host_fds);
  Result<void> open_console(const oci::Process& process);
  Result<void> take_passed(MonitorPlan& plan);
  Result<void> set_up_notify(MonitorPlan& plan);
  Result<void> open_forwards(const MonitorPlan& plan, Shares& shares);
  Result<void> watch_creator(bool for_life);
  // Runs the loop until `done` holds; fails when something has gone wrong meanwhile.
  Result<void> wait_until(const std::function<bool()>& done, int64_t timeout_ms,
                          const std::string& what);
  Result<Json> ask_agent(const std::string& method, Json params, int64_t timeout_ms);
  std::string with_console(std::string message) const;
  // A stage of the container's way, in the debug log with the system's uptime, for measurements.
  static void note_stage(const char* stage);

  // -- a pod's sandbox (monitor_pod.cpp)
  Result<void> create_pod(const MonitorPlan& plan);
  void open_pod_ports();
  // False: it is answered as a container's is.
  bool handle_pod_request(const protocol::Request& request, const Reply& reply);
  void freeze_pod(bool freeze, const Reply& reply);
  void signal_pod(int signal);
  // The guest's other containers end, and what they wrote reaches the host.
  void end_pod(int exit_code, int64_t grace_ms);

  // -- its network (monitor_network.cpp)
  Result<void> enter_network(const MonitorPlan& plan);
  Result<void> move_net_devices(const MonitorPlan& plan);
  Result<void> enter_passt(const MonitorPlan& plan);
  // With passt: what stands for a name server on the host's loopback interface in the container's
  // resolv.conf.
  Result<void> prepare_names(MonitorPlan& plan);
  Result<void> plug_in_network(const MonitorPlan& plan, vmm::VmConfig& vm);
  void network_is_started(const MonitorPlan& plan);
  // Before a container is created: the guest has what the namespace has.
  Result<void> bring_up_network();
  // What has come and gone since; `done` once the guest has it too, at once without a change.
  void update_network(const std::function<void()>& done);
  Result<bool> refresh_network();
  // Listens for the guest's queries if the container's resolv.conf names the namespace's own name
  // server. True: from now on, and the agent is to be told.
  Result<bool> open_resolver();
  void update_resolver();
  // Back to the host's namespace, with nothing of ours left behind.
  void leave_network();
  int host_network() const { return network_ ? network_->host_namespace() : -1; }

  // -- what happens to it (monitor.cpp)
  void handle_signal(const ::signalfd_siginfo& info);
  void handle_exit(const protocol::ExitEvent& event);
  void handle_lost(Error reason);
  void handle_oom(const protocol::OomEvent& event);
  void note_oom();
  void tell_oom();
  void handle_notify(const protocol::NotifyEvent& event);
  void answer_start();
  void interrupt(Error reason);
  void begin_end(int exit_code);
  void drain_forwards();
  void finish_in_order();
  void finish();
  void resize_from_pty();
  bool ending() const { return exit_code_.has_value(); }
  Result<void> save_status(const std::string& status);
  std::string hook_state(const std::string& status) const;

  // -- what commands ask for (monitor_requests.cpp)
  void shrink_later();
  void handle_request(ControlServer::ConnectionId connection, const protocol::Request& request,
                      const Reply& reply);
  void handle_start(const Json& params, Reply reply);
  void start_process(const Reply& reply);
  void process_started(const Reply& reply);
  void run_poststart(const Reply& reply);
  void handle_kill(const Json& params, const Reply& reply);
  void handle_destroy(const Reply& reply);
  void handle_resize(const Json& params, const Reply& reply);
  void handle_processes(const Reply& reply);
  void handle_update(const Json& params, const Reply& reply);
  void save_resources(const oci::Resources& merged, const Reply& reply);
  void handle_stats(const Reply& reply);
  void handle_network(const Json& params, const Reply& reply);
  void signal_container(int signal, bool all, const std::string& process_id, const Reply& reply);
  void start_is_over();
  // The agent had its chance: after `grace_ms` the machine itself goes.
  void expect_end(int64_t grace_ms);

  // -- `kiln exec`, pause and resume (monitor_exec.cpp)
  struct PendingExec {
    ControlServer::ConnectionId connection = 0;
    protocol::ExecRequest request;
    Reply reply;
  };
  void handle_exec(ControlServer::ConnectionId connection, const Json& params, const Reply& reply);
  void start_exec(const PendingExec& exec);
  void exec_is_open(const std::string& process_id);
  bool signal_waiting_exec(const std::string& process_id, int signal, const Reply& reply);
  void refuse_execs(const Error& reason);
  void forget_execs_of(ControlServer::ConnectionId connection);
  void handle_freeze(bool freeze, const Reply& reply);
  void send_freeze(bool freeze, const Reply& reply);
  void set_frozen(bool frozen);

  EventLoop& loop_;
  MainThread& main_thread_;
  ContainerDir dir_;
  ContainerRecord record_;
  UniqueFd sync_;
  HostCgroup origin_;  // the cgroups that we were born in
  bool creating_ = true;
  bool pod_ = false;  // a pod's sandbox: nothing of it runs in the guest
  bool creator_is_gone_ = false;
  bool ready_ = false;
  bool ends_with_creator_ = false;
  std::optional<Error> failure_;

  std::unique_ptr<SandboxNetwork> network_;
  std::optional<NetDevices> net_devices_;  // that we have moved there
  std::unique_ptr<Pasta> pasta_;
  ResolvConf resolv_conf_;
  std::optional<uint32_t> loopback_name_server_;  // of the host, with passt; relayed to the guest
  std::unique_ptr<ResolverRelay> resolver_;
  std::unique_ptr<SandboxLink> sandbox_;
  // What is in sandbox_: one of the two.
  Sandbox* machine_ = nullptr;
  JoinedSandbox* joined_ = nullptr;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<Members> members_;  // of our machine
  std::unique_ptr<ProcessIo> io_;
  UniqueFd pty_slave_;
  std::vector<PassedStream> passed_;  // until the streams are open
  std::unique_ptr<NotifyRelay> notify_;
  std::optional<EventLoop::TimerId> shrink_timer_;
  std::unique_ptr<Forwards> forwards_;
  std::unique_ptr<PodPorts> pod_ports_;
  std::unique_ptr<WrittenVolumes> volumes_;  // until the container ends
  std::function<void()> awaiting_ready_;     // answers a start
  std::vector<oci::Hook> poststart_;
  std::unique_ptr<HookRunner> hooks_;
  // By the process's id.
  std::map<std::string, ControlServer::ConnectionId> exec_connections_;
  std::map<std::string, ControlServer::ConnectionId> opening_execs_;  // that dial their streams
  std::map<std::string, PendingExec> waiting_execs_;                  // for a resume
  std::vector<std::function<void()>> waiting_freezes_;                // for opening_execs_
  bool frozen_ = false;                                               // or about to be
  std::vector<ControlServer::ConnectionId> watchers_;                 // `kiln events`
  bool starting_ = false;  // until the poststart hooks have run
  bool finished_ = false;
  bool drained_ = false;
  bool leaving_ = false;
  bool started_ = false;
  std::optional<int> exit_code_;
};

}  // namespace kiln::runtime
