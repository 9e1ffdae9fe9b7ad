// SPDX-License-Identifier: Apache-2.0
// The guest around the containers, and the way to the host. One implementation for a booted guest
// (agent/guest), one in the tests.
#pragma once

#include <sys/types.h>

#include "agent/protocol/messages.h"
#include "agent/protocol/network.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"

namespace kiln::agent {

class Guest {
 public:
  virtual ~Guest() = default;
  // Hostname, clock, entropy, share. After a failure it may be called again.
  virtual Result<void> adopt(const protocol::SandboxRequest& request) = 0;
  // The host's CLOCK_REALTIME, which the guest's follows where it has gone wrong.
  virtual Result<void> correct_clock(int64_t realtime_ns) = 0;
  // The interfaces that it is to have; what can be done is done, whatever else fails.
  virtual Result<void> configure_network(const protocol::NetworkRequest& request) = 0;
  // The block device that is a drive of the machine, once the drivers of device and file system are
  // there.
  virtual Result<std::string> prepare_drive(const protocol::Drive& drive) = 0;
  // Of one that came while the machine ran and is used no more: its slot is empty afterwards.
  // kNotFound: there is none.
  virtual Result<void> release_drive(const std::string& id) = 0;
  // Makes sure that there is a driver for a character device; refuses one that this guest cannot
  // have.
  virtual Result<void> prepare_device(const oci::Device& device) = 0;
  // A child that writes what is dirty on the share to the host and ends; -1: nothing to do.
  virtual Result<pid_t> begin_sync() = 0;
  virtual Result<void> unmount_share() = 0;
  // A connection to the host's vsock port that is being made: non-blocking, writable once it is
  // there (getsockopt SO_ERROR).
  virtual Result<UniqueFd> dial(uint32_t port) = 0;
  // Does not return in a guest.
  virtual void power_off() = 0;
};

// Streams that the host opens to us.
class StreamListener {
 public:
  virtual ~StreamListener() = default;
  virtual int fd() const = 0;  // readable when somebody waits
  // A non-blocking connection; an invalid descriptor if nobody waits or it was not the host.
  virtual Result<UniqueFd> accept() = 0;
};

}  // namespace kiln::agent
