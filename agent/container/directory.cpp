// SPDX-License-Identifier: Apache-2.0
#include "agent/container/directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "base/format.h"

namespace kiln::agent {
namespace {

struct CloseDir {
  void operator()(DIR* stream) const { closedir(stream); }
};

void remove_contents_on(int directory_fd, dev_t device, ino_t kept) {
  const auto names = directory_names(directory_fd);
  if (!names) return;
  for (const std::string& name : *names) {
    struct stat status {};
    if (fstatat(directory_fd, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (status.st_dev != device || status.st_ino == kept) continue;
    const bool directory = S_ISDIR(status.st_mode);
    if (directory) {
      if (const auto child = open_directory(directory_fd, name))
        remove_contents_on(child->get(), device, kept);
    }
    unlinkat(directory_fd, name.c_str(), directory ? AT_REMOVEDIR : 0);
  }
}

}  // namespace

Result<UniqueFd> open_directory(int parent_fd, const std::string& name) {
  UniqueFd fd(openat(parent_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return sys_error(fmt::format("open directory `{}`", name));
  return fd;
}

Result<std::vector<std::string>> directory_names(int directory_fd) {
  UniqueFd fd = TRY(open_directory(directory_fd, "."));
  const std::unique_ptr<DIR, CloseDir> stream(fdopendir(fd.get()));
  if (!stream) return sys_error("read a directory");
  fd.release();  // the stream's now
  std::vector<std::string> names;
  while (const dirent* entry = readdir(stream.get())) names.emplace_back(entry->d_name);
  std::erase_if(names, [](const std::string& name) { return name == "." || name == ".."; });
  return names;
}

void remove_contents(int directory_fd, ino_t kept) {
  struct stat status {};
  if (fstat(directory_fd, &status) == 0) remove_contents_on(directory_fd, status.st_dev, kept);
}

}  // namespace kiln::agent
