// SPDX-License-Identifier: Apache-2.0
#include "agent/container/volume_copy.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <set>
#include <utility>

#include "agent/container/copy_tree.h"
#include "agent/container/directory.h"
#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr const char* kData = "..data";
constexpr const char* kNewData = "..data_tmp";
constexpr CopyLimits kLimits{protocol::kMaxVolumeBytes, protocol::kMaxVolumeNames};

// What users of the volume see: names that begin with two dots are the kubelet's own.
Result<std::set<std::string>> visible_names(int directory_fd) {
  std::set<std::string> names;
  for (std::string& name : TRY(directory_names(directory_fd)))
    if (!name.starts_with("..")) names.insert(std::move(name));
  return names;
}

}  // namespace

Result<std::unique_ptr<VolumeCopy>> VolumeCopy::create(const std::string& source,
                                                       const std::string& parent,
                                                       const std::string& version) {
  std::unique_ptr<VolumeCopy> copy(new VolumeCopy(source));
  std::string path = parent + "/kiln-volume-XXXXXX";
  if (mkdtemp(path.data()) == nullptr)
    return sys_error(fmt::format("create a directory in `{}`", parent));
  copy->path_ = path;
  copy->directory_ = TRY(open_directory(AT_FDCWD, path));
  const UniqueFd from = TRY(open_directory(AT_FDCWD, source));
  TRY(copy_attributes(from.get(), copy->directory_.get()));
  TRY(copy->copy_mount_points(from.get()));
  if (!version.empty()) TRY(copy->update(version));
  return copy;
}

VolumeCopy::~VolumeCopy() {
  if (path_.empty()) return;
  remove_contents(directory_.get());
  rmdir(path_.c_str());
}

// Where other volumes of the container are to be mounted in this one, the kubelet makes directories
// beside its own.
Result<void> VolumeCopy::copy_mount_points(int source_fd) {
  for (const std::string& name : TRY(visible_names(source_fd))) {
    const auto from = open_directory(source_fd, name);
    if (!from) continue;  // a link
    if (mkdirat(directory_.get(), name.c_str(), 0700) != 0)
      return sys_error(fmt::format("create `{}`", name));
    const UniqueFd to = TRY(open_directory(directory_.get(), name));
    TRY(copy_tree(from->get(), to.get(), kLimits));
    TRY(copy_attributes(from->get(), to.get()));
  }
  return {};
}

Result<void> VolumeCopy::update(const std::string& version) {
  if (version == version_) return {};
  const UniqueFd source = TRY(open_directory(AT_FDCWD, source_));
  if (auto copied = copy_version(source.get(), version); !copied) {
    remove_version(version);
    return copied;
  }
  TRY(swap_to(version));
  const std::string old = std::exchange(version_, version);
  TRY(update_links(version));
  if (old.empty()) return {};
  remove_version(old);
  outdated_.insert(old);
  forget_outdated(source.get());
  return {};
}

// The source has none of these names any more. To hear so from the host's file server, which may
// take a second, makes this kernel forget their files, and that server close them.
void VolumeCopy::forget_outdated(int source_fd) {
  std::erase_if(outdated_, [source_fd](const std::string& version) {
    struct stat status {};
    return fstatat(source_fd, version.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0;
  });
}

Result<void> VolumeCopy::copy_version(int source_fd, const std::string& version) {
  const UniqueFd from = TRY(open_directory(source_fd, version));
  if (mkdirat(directory_.get(), version.c_str(), 0700) != 0)
    return sys_error(fmt::format("create `{}`", version));
  const UniqueFd to = TRY(open_directory(directory_.get(), version));
  TRY(copy_tree(from.get(), to.get(), kLimits));
  return copy_attributes(from.get(), to.get());
}

Result<void> VolumeCopy::swap_to(const std::string& version) {
  const int fd = directory_.get();
  unlinkat(fd, kNewData, 0);
  if (symlinkat(version.c_str(), fd, kNewData) != 0 || renameat(fd, kNewData, fd, kData) != 0)
    return sys_error(fmt::format("make `{}` the newest version", version));
  return {};
}

Result<void> VolumeCopy::update_links(const std::string& version) {
  const UniqueFd newest = TRY(open_directory(directory_.get(), version));
  const std::set<std::string> names = TRY(visible_names(newest.get()));
  for (const std::string& name : names) {
    const std::string target = fmt::format("{}/{}", kData, name);
    if (symlinkat(target.c_str(), directory_.get(), name.c_str()) != 0 && errno != EEXIST)
      return sys_error(fmt::format("create the link `{}`", name));
  }
  for (const std::string& name : TRY(visible_names(directory_.get())))
    if (!names.contains(name)) unlinkat(directory_.get(), name.c_str(), 0);  // but no directory
  return {};
}

void VolumeCopy::remove_version(const std::string& version) {
  const auto fd = open_directory(directory_.get(), version);
  if (!fd) return;
  remove_contents(fd->get());
  unlinkat(directory_.get(), version.c_str(), AT_REMOVEDIR);
}

}  // namespace kiln::agent
