// SPDX-License-Identifier: Apache-2.0
// As whom the server touches files.
#pragma once

#include <sys/types.h>

namespace kiln::vmm {

// The thread's capabilities stay, whatever its file-system uid is (vmm/confine sees to it), so that
// CreateAs decides about ownership alone. What a caller may do, the guest's kernel has decided:
// virtio-fs mounts have default_permissions.

// Files made during its life belong to the guest's caller.
class CreateAs {
 public:
  CreateAs(uid_t uid, gid_t gid);
  ~CreateAs();
  CreateAs(const CreateAs&) = delete;
  CreateAs& operator=(const CreateAs&) = delete;
  bool ok() const { return ok_; }

 private:
  const uid_t uid_;
  const gid_t gid_;
  bool ok_ = true;
};

// While it lives, changing a file's content takes its set-uid and set-gid bits away, as for any
// unprivileged writer.
class WithoutFsetid {
 public:
  explicit WithoutFsetid(bool wanted);
  ~WithoutFsetid();
  WithoutFsetid(const WithoutFsetid&) = delete;
  WithoutFsetid& operator=(const WithoutFsetid&) = delete;

 private:
  bool dropped_ = false;
};

}  // namespace kiln::vmm
