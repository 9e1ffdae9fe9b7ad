// SPDX-License-Identifier: Apache-2.0
#include "vmm/confine/capabilities.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace kiln::vmm {
namespace {

using Sets = std::array<__user_cap_data_struct, 2>;

Result<Sets> read_sets() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  Sets sets{};
  if (syscall(SYS_capget, &header, sets.data()) != 0) return sys_error("read the capabilities");
  return sets;
}

uint64_t permitted_of(const Sets& sets) {
  return sets[0].permitted | (uint64_t{sets[1].permitted} << 32);
}

Result<void> set_sets(uint64_t capabilities) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  Sets sets{};
  for (size_t half = 0; half < sets.size(); ++half) {
    sets[half].permitted = static_cast<uint32_t>(capabilities >> (32 * half));
    sets[half].effective = sets[half].permitted;
  }
  if (syscall(SYS_capset, &header, sets.data()) != 0) return sys_error("drop the capabilities");
  return {};
}

Result<void> empty_bounding_set() {
  // Past the last one that this kernel knows, PR_CAPBSET_READ says EINVAL.
  for (int number = 0; prctl(PR_CAPBSET_READ, number) >= 0; ++number) {
    if (prctl(PR_CAPBSET_DROP, number) != 0) return sys_error("empty the bounding set");
  }
  return {};
}

}  // namespace

bool has_capability(unsigned number) {
  const auto sets = read_sets();
  return sets && ((*sets)[number / 32].effective & (1U << (number % 32))) != 0;
}

Result<void> keep_capabilities_across_setuid() {
  if (!has_capability(CAP_SETPCAP)) return {};
  const int bits = prctl(PR_GET_SECUREBITS);
  if (bits < 0) return sys_error("read the secure bits");
  if (prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP) != 0)
    return sys_error("set the secure bits");
  return {};
}

Result<void> drop_capabilities(uint64_t kept) {
  const Sets sets = TRY(read_sets());
  if (has_capability(CAP_SETPCAP)) {
    TRY(empty_bounding_set());
    // NO_SETUID_FIXUP is what keeps them while the fs server acts for a file's owner.
    constexpr unsigned long kOff =
        SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_CAP_AMBIENT_RAISE;
    constexpr unsigned long kLocked = SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP_LOCKED |
                                      SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    if (prctl(PR_SET_SECUREBITS, kOff | kLocked) != 0) return sys_error("lock the secure bits");
  } else if (permitted_of(sets) != 0) {
    return make_error(ErrorKind::kPermissionDenied,
                      "drop the capabilities: CAP_SETPCAP is not among them");
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return sys_error("clear the ambient capabilities");
  return set_sets(permitted_of(sets) & kept);
}

}  // namespace kiln::vmm
