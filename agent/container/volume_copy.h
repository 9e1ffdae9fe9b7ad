// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <set>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// A volume that the kubelet writes anew while a container uses it, in the guest's own memory: of
// what changes in a share this kernel tells nobody, and inotify watches of the container's would
// hear nothing.
//
// Its layout is the kubelet's (AtomicWriter of k8s.io/kubernetes/pkg/volume/util): a directory for
// each version, the link `..data` to the newest, and for each name in there a link that leads
// through `..data`. Owned by the container, used by the agent's thread.
class VolumeCopy {
 public:
  // `source`: the shared volume. `parent`: a directory in memory. `version`: of the source; empty:
  // there is none yet.
  static Result<std::unique_ptr<VolumeCopy>> create(const std::string& source,
                                                    const std::string& parent,
                                                    const std::string& version);
  ~VolumeCopy();
  VolumeCopy(const VolumeCopy&) = delete;
  VolumeCopy& operator=(const VolumeCopy&) = delete;

  const std::string& path() const { return path_; }

  // Goes over to another version, in the kubelet's order: whoever looks sees the old or the new
  // one. ENOENT: the source has gone on already. On failure the old one stays.
  Result<void> update(const std::string& version);

 private:
  explicit VolumeCopy(std::string source) : source_(std::move(source)) {}
  Result<void> copy_mount_points(int source_fd);
  Result<void> copy_version(int source_fd, const std::string& version);
  Result<void> swap_to(const std::string& version);
  Result<void> update_links(const std::string& version);
  void remove_version(const std::string& version);
  void forget_outdated(int source_fd);

  std::string source_;
  std::string path_;
  UniqueFd directory_;
  std::string version_;
  std::set<std::string> outdated_;  // that the share may still be thought to have
};

}  // namespace kiln::agent
