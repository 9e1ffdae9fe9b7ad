// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/fs/credentials.h"

#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>

namespace kiln::vmm {
namespace {

using Capabilities = std::array<__user_cap_data_struct, 2>;

bool get(Capabilities& capabilities) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  return syscall(SYS_capget, &header, capabilities.data()) == 0;
}

bool set(const Capabilities& capabilities) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  return syscall(SYS_capset, &header, capabilities.data()) == 0;
}

}  // namespace

CreateAs::CreateAs(uid_t uid, gid_t gid) : uid_(uid), gid_(gid) {
  // setfsuid(2) reports no error; what it has done is asked of it by an impossible id.
  if (gid_ != 0) {
    setfsgid(gid_);
    ok_ = static_cast<gid_t>(setfsgid(static_cast<gid_t>(-1))) == gid_;
  }
  if (ok_ && uid_ != 0) {
    setfsuid(uid_);
    ok_ = static_cast<uid_t>(setfsuid(static_cast<uid_t>(-1))) == uid_;
  }
}

CreateAs::~CreateAs() {
  if (uid_ != 0) setfsuid(geteuid());
  if (gid_ != 0) setfsgid(getegid());
}

WithoutFsetid::WithoutFsetid(bool wanted) {
  Capabilities capabilities{};
  if (!wanted || !get(capabilities)) return;
  constexpr uint32_t kBit = 1U << CAP_FSETID;
  if ((capabilities[0].effective & kBit) == 0) return;
  capabilities[0].effective &= ~kBit;
  dropped_ = set(capabilities);
}

WithoutFsetid::~WithoutFsetid() {
  Capabilities capabilities{};
  if (!dropped_ || !get(capabilities)) return;
  capabilities[0].effective |= 1U << CAP_FSETID;
  set(capabilities);
}

}  // namespace kiln::vmm
