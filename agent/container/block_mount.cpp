// SPDX-License-Identifier: Apache-2.0
#include "agent/container/block_mount.h"

#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string_view>

#include "agent/container/mount_calls.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

// What is of the file system and not of one mount of it (fsconfig(2) takes them by name).
constexpr std::pair<unsigned long, const char*> kSuperblockFlags[] = {
    {MS_SYNCHRONOUS, "sync"}, {MS_DIRSYNC, "dirsync"}, {MS_LAZYTIME, "lazytime"}};

Result<void> set_flag(int context, const std::string& key) {
  if (syscall(SYS_fsconfig, context, FSCONFIG_SET_FLAG, key.c_str(), nullptr, 0) != 0)
    return sys_error(fmt::format("option `{}`", key));
  return {};
}

Result<void> set_text(int context, const std::string& key, const std::string& value) {
  if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0) != 0)
    return sys_error(fmt::format("option `{}`", key));
  return {};
}

Result<void> set_options(int context, std::string_view data) {
  while (!data.empty()) {
    const size_t end = std::min(data.find(','), data.size());
    const std::string option(data.substr(0, end));
    data.remove_prefix(std::min(end + 1, data.size()));
    const size_t equals = option.find('=');
    // mount(8)'s words for a file that it makes a device of; here it is one already.
    if (option.empty() || option == "loop") continue;
    if (equals == std::string::npos) {
      TRY(set_flag(context, option));
    } else {
      TRY(set_text(context, option.substr(0, equals), option.substr(equals + 1)));
    }
  }
  return {};
}

}  // namespace

Result<UniqueFd> mount_block_device(const BlockSource& source, unsigned long flags,
                                    const std::string& data) {
  const UniqueFd context(
      static_cast<int>(syscall(SYS_fsopen, source.type.c_str(), FSOPEN_CLOEXEC)));
  if (!context && errno == ENODEV)
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("the guest's kernel has no file system `{}`", source.type));
  if (!context) return sys_error("open the file system type");
  TRY(set_text(context.get(), "source", source.device));
  if (source.read_only || (flags & MS_RDONLY) != 0) TRY(set_flag(context.get(), "ro"));
  for (const auto& [flag, name] : kSuperblockFlags)
    if ((flags & flag) != 0) TRY(set_flag(context.get(), name));
  TRY(set_options(context.get(), data));
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return sys_error(fmt::format("open the {} file system", source.type));
  const MountAttributes attributes = attributes_of_flags(flags, 0);
  UniqueFd made(static_cast<int>(
      syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, static_cast<unsigned>(attributes.set))));
  if (!made) return sys_error("mount the file system");
  return made;
}

}  // namespace kiln::agent
