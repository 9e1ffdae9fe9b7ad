// SPDX-License-Identifier: Apache-2.0
// Shares that several containers of a machine have in common: a volume of a pod, its /dev/shm.
#pragma once

#include <sys/types.h>

#include <compare>
#include <map>
#include <optional>
#include <string>

#include "base/error.h"
#include "runtime/shares.h"

namespace kiln::runtime {

// To a guest each entry of the file-system server is a tree of its own: files that are in two of
// them have two page caches and two sets of locks. What is the same for all users is hence one
// entry, for as long as it has users. Of one machine; used by its monitor's only thread.
class SharedEntries {
 public:
  // The entry that has the same already; the share is now one of its users.
  Result<std::optional<std::string>> join(const Share& share);
  // The server has a new entry for it.
  Result<void> add(const Share& share);
  // True: that was the last user, and the server's entry can go.
  bool leave(const std::string& entry);

 private:
  // What decides what is to be seen behind a source, and how: two mounts of one directory may
  // differ in what they permit.
  struct Key {
    std::string source;
    dev_t device = 0;
    ino_t number = 0;
    int64_t mount_flags = 0;
    bool read_only = false;
    auto operator<=>(const Key&) const = default;
  };
  static Result<Key> key_of(const Share& share);

  std::map<Key, std::string> entries_;
  std::map<std::string, unsigned> users_;  // by entry
};

}  // namespace kiln::runtime
