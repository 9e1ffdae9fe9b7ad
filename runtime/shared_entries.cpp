// SPDX-License-Identifier: Apache-2.0
#include "runtime/shared_entries.h"

#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/format.h"

namespace kiln::runtime {

Result<SharedEntries::Key> SharedEntries::key_of(const Share& share) {
  struct stat file {};
  struct statfs mount {};
  if (fstat(share.fd.get(), &file) != 0 || fstatfs(share.fd.get(), &mount) != 0)
    return sys_error(fmt::format("stat `{}`", share.source));
  return Key{share.source, file.st_dev, file.st_ino, mount.f_flags, share.read_only};
}

Result<std::optional<std::string>> SharedEntries::join(const Share& share) {
  if (!share.same_for_all) return std::nullopt;
  const auto found = entries_.find(TRY(key_of(share)));
  if (found == entries_.end()) return std::nullopt;
  ++users_[found->second];
  return found->second;
}

Result<void> SharedEntries::add(const Share& share) {
  users_[share.entry] = 1;
  if (share.same_for_all) entries_[TRY(key_of(share))] = share.entry;
  return {};
}

bool SharedEntries::leave(const std::string& entry) {
  const auto found = users_.find(entry);
  if (found == users_.end()) return true;
  if (--found->second > 0) return false;
  users_.erase(found);
  std::erase_if(entries_, [&](const auto& item) { return item.second == entry; });
  return true;
}

}  // namespace kiln::runtime
