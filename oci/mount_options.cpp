// SPDX-License-Identifier: Apache-2.0
#include "oci/mount_options.h"

#include <linux/mount.h>

#include <algorithm>
#include <string_view>

namespace kiln::oci {
namespace {

enum class Effect : uint8_t {
  kSet,
  kClear,
  kRecursiveSet,
  kRecursiveClear,
  kPropagation,
  kBind,
  kRemount,
  kCopyUp,
  kIdMap,
  kNothing,
};

struct Option {
  const char* name;
  Effect effect;
  uint64_t bits = 0;
};

using enum Effect;

// runtime-spec 1.2 config.md#linux-mount-options, sorted. MOUNT_ATTR_RELATIME is 0: the r…atime
// options are values of the field MOUNT_ATTR__ATIME, which apply() replaces as a whole.
constexpr Option kOptions[] = {
    {"acl", kSet, MS_POSIXACL},
    {"async", kClear, MS_SYNCHRONOUS},
    {"atime", kClear, MS_NOATIME},
    {"bind", kBind},
    {"defaults", kNothing},
    {"dev", kClear, MS_NODEV},
    {"diratime", kClear, MS_NODIRATIME},
    {"dirsync", kSet, MS_DIRSYNC},
    {"exec", kClear, MS_NOEXEC},
    {"idmap", kIdMap},
    {"iversion", kSet, MS_I_VERSION},
    {"lazytime", kSet, MS_LAZYTIME},
    {"loud", kClear, MS_SILENT},
    {"mand", kSet, MS_MANDLOCK},
    {"noacl", kClear, MS_POSIXACL},
    {"noatime", kSet, MS_NOATIME},
    {"nodev", kSet, MS_NODEV},
    {"nodiratime", kSet, MS_NODIRATIME},
    {"noexec", kSet, MS_NOEXEC},
    {"noiversion", kClear, MS_I_VERSION},
    {"nolazytime", kClear, MS_LAZYTIME},
    {"nomand", kClear, MS_MANDLOCK},
    {"norelatime", kClear, MS_RELATIME},
    {"nostrictatime", kClear, MS_STRICTATIME},
    {"nosuid", kSet, MS_NOSUID},
    {"nosymfollow", kSet, MS_NOSYMFOLLOW},
    {"private", kPropagation, MS_PRIVATE},
    {"ratime", kRecursiveClear, MOUNT_ATTR_NOATIME},
    {"rbind", kBind, MS_REC},
    {"rdev", kRecursiveClear, MOUNT_ATTR_NODEV},
    {"rdiratime", kRecursiveClear, MOUNT_ATTR_NODIRATIME},
    {"relatime", kSet, MS_RELATIME},
    {"remount", kRemount},
    {"rexec", kRecursiveClear, MOUNT_ATTR_NOEXEC},
    {"ridmap", kIdMap, MS_REC},
    {"rnoatime", kRecursiveSet, MOUNT_ATTR_NOATIME},
    {"rnodev", kRecursiveSet, MOUNT_ATTR_NODEV},
    {"rnodiratime", kRecursiveSet, MOUNT_ATTR_NODIRATIME},
    {"rnoexec", kRecursiveSet, MOUNT_ATTR_NOEXEC},
    {"rnorelatime", kRecursiveClear, MOUNT_ATTR_RELATIME},
    {"rnostrictatime", kRecursiveClear, MOUNT_ATTR_STRICTATIME},
    {"rnosuid", kRecursiveSet, MOUNT_ATTR_NOSUID},
    {"rnosymfollow", kRecursiveSet, MOUNT_ATTR_NOSYMFOLLOW},
    {"ro", kSet, MS_RDONLY},
    {"rprivate", kPropagation, MS_PRIVATE | MS_REC},
    {"rrelatime", kRecursiveSet, MOUNT_ATTR_RELATIME},
    {"rro", kRecursiveSet, MOUNT_ATTR_RDONLY},
    {"rrw", kRecursiveClear, MOUNT_ATTR_RDONLY},
    {"rshared", kPropagation, MS_SHARED | MS_REC},
    {"rslave", kPropagation, MS_SLAVE | MS_REC},
    {"rstrictatime", kRecursiveSet, MOUNT_ATTR_STRICTATIME},
    {"rsuid", kRecursiveClear, MOUNT_ATTR_NOSUID},
    {"rsymfollow", kRecursiveClear, MOUNT_ATTR_NOSYMFOLLOW},
    {"runbindable", kPropagation, MS_UNBINDABLE | MS_REC},
    {"rw", kClear, MS_RDONLY},
    {"shared", kPropagation, MS_SHARED},
    {"silent", kSet, MS_SILENT},
    {"slave", kPropagation, MS_SLAVE},
    {"strictatime", kSet, MS_STRICTATIME},
    {"suid", kClear, MS_NOSUID},
    {"symfollow", kClear, MS_NOSYMFOLLOW},
    {"sync", kSet, MS_SYNCHRONOUS},
    {"tmpcopyup", kCopyUp},
    {"unbindable", kPropagation, MS_UNBINDABLE},
};

const Option* find_option(std::string_view name) {
  const auto* found = std::lower_bound(
      std::begin(kOptions), std::end(kOptions), name,
      [](const Option& option, std::string_view key) { return option.name < key; });
  return found != std::end(kOptions) && found->name == name ? found : nullptr;
}

// The access time modes exclude each other.
constexpr unsigned long kAtimeModes = MS_NOATIME | MS_RELATIME | MS_STRICTATIME;

void set_flag(MountOptions& out, unsigned long flag) {
  if ((flag & kAtimeModes) != 0) out.set &= ~kAtimeModes;
  out.set |= flag;
  out.clear &= ~flag;
}

// mount_setattr(2): to change the atime field at all, all of MOUNT_ATTR__ATIME has to be in
// attr_clr. Its value is not a set of bits, so "off" means back to the kernel's default, relatime.
void set_recursive(MountOptions& out, uint64_t attribute, bool on) {
  const bool atime = attribute == MOUNT_ATTR_RELATIME || (attribute & MOUNT_ATTR__ATIME) != 0;
  if (atime) {
    out.recursive_clear |= MOUNT_ATTR__ATIME;
    out.recursive_set &= ~static_cast<uint64_t>(MOUNT_ATTR__ATIME);
    if (on) out.recursive_set |= attribute;
  } else if (on) {
    out.recursive_set |= attribute;
    out.recursive_clear &= ~attribute;
  } else {
    out.recursive_clear |= attribute;
    out.recursive_set &= ~attribute;
  }
}

void apply(MountOptions& out, const Option& option) {
  switch (option.effect) {
    case kSet:
      return set_flag(out, option.bits);
    case kClear:
      out.set &= ~option.bits;
      out.clear |= option.bits;
      return;
    case kRecursiveSet:
    case kRecursiveClear:
      return set_recursive(out, option.bits, option.effect == kRecursiveSet);
    case kPropagation:
      return out.propagation.push_back(option.bits);
    case kBind:
      out.bind = true;
      out.recursive_bind = out.recursive_bind || option.bits == MS_REC;
      return;
    case kRemount:
      out.remount = true;
      return;
    case kCopyUp:
      out.copy_up = true;
      return;
    case kIdMap:
      out.id_map = option.bits == MS_REC ? IdMapKind::kRecursive : IdMapKind::kMount;
      return;
    case kNothing:
      return;
  }
}

}  // namespace

tl::expected<MountOptions, MountOptionError> parse_mount_options(
    const std::vector<std::string>& options) {
  MountOptions out;
  for (size_t i = 0; i < options.size(); ++i) {
    const std::string& text = options[i];
    if (text.empty()) return tl::unexpected(MountOptionError{i, "must not be empty"});
    if (const Option* option = find_option(text)) {
      apply(out, *option);
      continue;
    }
    if (!out.data.empty()) out.data += ',';
    out.data += text;
    // mount(2) copies one page of data, the final NUL included.
    if (out.data.size() >= 4096)
      return tl::unexpected(
          MountOptionError{i, "makes the file system's own options longer than 4095 bytes"});
  }
  return out;
}

std::vector<std::string> mount_option_names() {
  std::vector<std::string> names;
  for (const Option& option : kOptions) names.emplace_back(option.name);
  return names;
}

}  // namespace kiln::oci
