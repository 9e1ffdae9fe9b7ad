// SPDX-License-Identifier: Apache-2.0
// A socket of the monitor's in a directory that is shared with the guest.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// Where it is to be.
struct SharedPlace {
  UniqueFd directory;  // that it is in
  std::string share;   // for the record: the path of the directory that is shared,
  std::string below;   // the way from there to `directory`; `.`: itself
  std::string name;
};

// To find the file again after a crash, and to know it from whatever else may be in its place.
struct SharedSocketRecord {
  std::string share;
  std::string below;
  std::string name;
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t birth_ns = 0;  // an inode number is used again; 0: the file system does not know
};

// The guest, too, can write to the directory. Nothing here follows a symbolic link, and what is not
// the file that was made here stays as it is.
class SharedSocket {
 public:
  // Listens. The file belongs to the owner and the group of the directory, and the group may
  // connect if it may write there. kAlreadyExists if there is a file.
  static Result<SharedSocket> listen(SharedPlace place);
  ~SharedSocket();  // removes the file
  SharedSocket(SharedSocket&& other) noexcept = default;
  SharedSocket& operator=(SharedSocket&&) = delete;

  UniqueFd take_listener() { return std::move(listener_); }
  const SharedSocketRecord& record() const { return record_; }

 private:
  SharedSocket(UniqueFd directory, UniqueFd listener)
      : directory_(std::move(directory)), listener_(std::move(listener)) {}

  UniqueFd directory_;
  UniqueFd listener_;
  UniqueFd file_;  // while it is open, its inode number is no other file's
  SharedSocketRecord record_;
};

// What a monitor that was killed has left. Success too when it is gone, or another file is there.
Result<void> remove_shared_socket(const SharedSocketRecord& record);

}  // namespace kiln::runtime
