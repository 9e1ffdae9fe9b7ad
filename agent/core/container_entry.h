// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "agent/core/container_dial.h"
#include "agent/core/forward_socket.h"
#include "agent/core/guest.h"
#include "agent/core/guest_container.h"
#include "agent/core/notify_socket.h"
#include "agent/core/process_stdio.h"
#include "agent/core/reaper.h"
#include "agent/core/stream_ends.h"
#include "base/event_loop.h"

namespace kiln::agent {

// One container of the process table: its processes by the host's ids ("" is init), from create to
// delete, and the order in which their ends are told.
//
// The end of init is told last: after its start has been answered, every other process has been
// killed and reaped, and what they wrote to the share has reached the host.
class ContainerEntry {
 public:
  struct Context {
    EventLoop& loop;
    Reaper& reaper;
    Guest& guest;
    std::function<void(const protocol::ExitEvent&)> on_exit;
    std::function<void(const protocol::OomEvent&)> on_oom;
  };
  using StreamCallback = std::function<void(Result<StreamEnds>)>;
  using StartCallback = std::function<void(Result<void>)>;

  static Result<std::unique_ptr<ContainerEntry>> create(const Context& context,
                                                        const ContainerFactory& factory,
                                                        const ContainerSetup& setup,
                                                        const protocol::StdioRequest& stdio);
  ~ContainerEntry();
  ContainerEntry(const ContainerEntry&) = delete;
  ContainerEntry& operator=(const ContainerEntry&) = delete;

  pid_t init_pid() const { return init_pid_; }
  // For the namespaces that it is in; -1 once it has ended.
  int init_pidfd() const;
  // For as long as the container lasts.
  void keep(std::shared_ptr<NotifySocket> socket) { notify_socket_ = std::move(socket); }
  void keep(std::vector<std::unique_ptr<ForwardSocket>> sockets) {
    forward_sockets_ = std::move(sockets);
  }
  // Paths in it, to which the host may connect.
  void serve(std::vector<std::string> paths) { served_ = std::move(paths); }
  // `started` once exec has happened or failed; not called when this returns an error.
  Result<void> start(StartCallback started);
  // The new process's pid.
  Result<pid_t> exec(const std::string& process_id, const oci::Process& process,
                     const protocol::StdioRequest& stdio);
  Result<void> signal(const protocol::SignalRequest& request);
  Result<void> resize(const protocol::ResizeRequest& request);
  Result<void> freeze(bool frozen);
  Result<void> update(const oci::Resources& resources);
  Result<void> refresh(size_t mount, const std::string& version);
  Result<protocol::StatsReply> stats() const;
  Result<protocol::ProcessesReply> processes() const;
  // Calls back at once, but for a stream to a socket that the container serves.
  void take_stream(const protocol::StreamHeader& header, StreamCallback opened);
  // The host has closed it, or the process.
  void stream_ended(const protocol::StreamHeader& header);

  // Its init's end has been told.
  bool ended() const { return told_; }
  // It has happened, and has not been told yet.
  bool ending() const { return init_exit_ && !told_; }
  Result<void> kill_all();
  Result<void> destroy();  // when ended(), or when the guest goes down

 private:
  struct Process {
    StartedProcess started;
    ProcessStdio stdio;
    bool ended = false;
  };

  ContainerEntry(Context context, std::string id);
  Result<void> adopt(const std::string& process_id, Process process);
  Result<Process*> find(const std::string& process_id);
  Result<StreamEnds> take_stdio(const protocol::StreamHeader& header);
  Result<void> dial_served(size_t index, const StreamCallback& opened);
  void settle_forwards(int64_t left_ms, uint64_t seen);
  void forget_if_done(const std::string& process_id);
  void finish_starting();
  void process_ended(const std::string& process_id, const ExitStatus& status);
  bool others_ended() const;
  void kill_others();
  void sync_share();
  void tell_if_complete();
  void read_oom_kills();
  Result<void> watch_oom();
  void unwatch_oom();

  Context context_;
  std::string id_;
  std::unique_ptr<GuestContainer> container_;
  std::map<std::string, Process> processes_;
  std::shared_ptr<NotifySocket> notify_socket_;
  std::vector<std::unique_ptr<ForwardSocket>> forward_sockets_;
  std::vector<std::string> served_;
  std::map<uint64_t, std::unique_ptr<ContainerDial>> dials_;
  uint64_t next_dial_ = 1;
  EventLoop::TimerId settle_timer_ = 0;
  pid_t init_pid_ = -1;
  bool start_called_ = false;
  StartCallback started_;  // set while a start is under way
  bool frozen_ = false;
  uint64_t oom_kills_ = 0;
  bool watching_oom_ = false;
  std::optional<protocol::ExitEvent> init_exit_;
  int64_t kill_wait_ms_ = 0;
  int64_t killing_since_ms_ = 0;
  EventLoop::TimerId kill_timer_ = 0;
  pid_t sync_pid_ = -1;
  bool synced_ = false;
  bool settled_ = false;  // what its processes sent through forwards has gone to the host
  bool told_ = false;
};

}  // namespace kiln::agent
