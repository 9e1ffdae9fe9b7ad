// SPDX-License-Identifier: Apache-2.0
// Where on the host the sockets are that io.kiln.vsock-forward names by paths in the container.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"
#include "runtime/forward_list.h"
#include "runtime/shared_socket.h"
#include "runtime/shares.h"

namespace kiln::runtime {

// One that the host serves.
struct HostSocket {
  std::string path;             // in the container
  std::optional<size_t> mount;  // whose source it is; none: it lies in a shared directory
  UniqueFd file;                // O_PATH: whatever comes in its place is not it
  uint32_t mode = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
};
// One that the container serves.
struct ServedPath {
  Forward forward;
  SharedPlace place;
};
struct ForwardPlaces {
  std::vector<HostSocket> sockets;
  std::vector<ServedPath> served;
};

// Takes the sockets that are bind-mounted themselves out of `shares`; one that no forward names is
// an error, since nothing in the guest could connect to it. Errors name annotation and entry.
Result<ForwardPlaces> find_forwards(const std::vector<Forward>& forwards, const oci::Spec& spec,
                                    Shares& shares);

}  // namespace kiln::runtime
