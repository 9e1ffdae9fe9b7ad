// SPDX-License-Identifier: Apache-2.0
// The sandbox's virtio-fs server as its owner sees it: a `kiln-vmm fs` process, its control socket
// and the vhost-user socket that goes into VmConfig::fs.
#pragma once

#include <memory>
#include <string>

#include "base/process.h"

namespace kiln::vmm {

enum class FsCache {
  kNone,    // every attribute and lookup is asked for again; no page cache kept across opens
  kAuto,    // 1 s for names and attributes; the page cache is dropped at open when the file has
            // changed
  kAlways,  // the share is this guest's alone
};

struct FsEntryOptions {
  bool read_only = false;
  FsCache cache = FsCache::kAuto;
};

// Owned by one thread; the server process dies with it.
class FsServer {
 public:
  static Result<std::unique_ptr<FsServer>> launch(const std::string& vmm_binary, int log_fd);
  ~FsServer();

  pid_t pid() const;
  int pidfd() const;
  // Once pidfd() is readable: how it ended, in words for a person. Reaps.
  std::string end();
  int vhost_user_fd() const;
  void close_vhost_user();  // once the VMM has it

  // Adds `name` (one path component) to the synthetic root. `fd`: an O_PATH descriptor or a
  // detached mount (open_tree) of a directory or any other file; borrowed. kAlreadyExists,
  // kInvalidArgument. Waits for the answer.
  Result<void> add_entry(const std::string& name, int fd, const FsEntryOptions& options);
  // New lookups fail from now on; what the guest holds open stays until it lets go.
  Result<void> remove_entry(const std::string& name);

 private:
  struct Impl;
  explicit FsServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kiln::vmm
