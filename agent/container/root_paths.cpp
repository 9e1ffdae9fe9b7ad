// SPDX-License-Identifier: Apache-2.0
#include "agent/container/root_paths.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <deque>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr int kMaxLinks = 40;  // the kernel's MAXSYMLINKS
constexpr mode_t kDirectoryMode = 0755;
constexpr mode_t kFileMode = 0755;  // an empty mount point for what may be a program

// Walks one component at a time over descriptors. `..` goes back on the walker's own list, so that
// a directory which is moved meanwhile cannot lead out of the root.
class Walker {
 public:
  static Result<Walker> create(int root_fd, const std::string& path) {
    Walker walker;
    walker.root_ = UniqueFd(fcntl(root_fd, F_DUPFD_CLOEXEC, 3));
    if (!walker.root_) return sys_error("duplicate the root");
    walker.prepend(path);
    return walker;
  }

  Result<UniqueFd> walk(bool directory_at_end) {
    while (!rest_.empty()) {
      const std::string name = std::move(rest_.front());
      rest_.pop_front();
      if (name == "..") {
        if (!stack_.empty()) stack_.pop_back();
        continue;
      }
      TRY(wrap(step(name, !rest_.empty() || directory_at_end), fmt::format("`{}`", name)));
    }
    if (!stack_.empty()) return std::move(stack_.back());
    return std::move(root_);
  }

 private:
  int here() const { return stack_.empty() ? root_.get() : stack_.back().get(); }

  void prepend(std::string_view path) {
    auto components = path_components(path);
    rest_.insert(rest_.begin(), std::make_move_iterator(components.begin()),
                 std::make_move_iterator(components.end()));
  }

  Result<void> step(const std::string& name, bool directory) {
    UniqueFd next(openat(here(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!next && errno == ENOENT) {
      TRY(make(name, directory));
      next.reset(openat(here(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    }
    if (!next) return sys_error("open");
    struct stat status {};
    if (fstat(next.get(), &status) != 0) return sys_error("stat");
    if (S_ISLNK(status.st_mode)) return follow(next.get());
    stack_.push_back(std::move(next));
    return {};
  }

  Result<void> make(const std::string& name, bool directory) {
    if (directory) {
      if (mkdirat(here(), name.c_str(), kDirectoryMode) != 0 && errno != EEXIST)
        return sys_error("create the directory");
      return {};
    }
    const UniqueFd made(openat(here(), name.c_str(),
                               O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kFileMode));
    if (!made && errno != EEXIST) return sys_error("create the file");
    return {};
  }

  Result<void> follow(int link_fd) {
    if (++links_ > kMaxLinks) return sys_error("follow the symbolic link", ELOOP);
    std::array<char, PATH_MAX> target{};
    const ssize_t size = readlinkat(link_fd, "", target.data(), target.size());
    if (size < 0) return sys_error("read the symbolic link");
    const std::string_view text(target.data(), static_cast<size_t>(size));
    if (text.starts_with('/')) stack_.clear();
    prepend(text);
    return {};
  }

  UniqueFd root_;
  std::vector<UniqueFd> stack_;  // directories below the root, the last one is where we are
  std::deque<std::string> rest_;
  int links_ = 0;
};

Result<UniqueFd> open_or_make(int root_fd, const std::string& path, bool directory) {
  auto existing = open_in_root(root_fd, path, O_PATH);
  if (existing || existing.error().sys_errno != ENOENT) return existing;
  auto walker = TRY(Walker::create(root_fd, path));
  return wrap(walker.walk(directory), fmt::format("make `{}`", path));
}

}  // namespace

Result<UniqueFd> open_in_root(int root_fd, const std::string& path, int flags) {
  return open_beneath(root_fd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

Result<UniqueFd> open_without_links(int root_fd, const std::string& path, int flags) {
  return open_beneath(root_fd, path, flags,
                      RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS);
}

Result<UniqueFd> make_directory_in_root(int root_fd, const std::string& path) {
  return open_or_make(root_fd, path, true);
}

Result<UniqueFd> make_file_in_root(int root_fd, const std::string& path) {
  return open_or_make(root_fd, path, false);
}

std::vector<std::string> path_components(std::string_view path) {
  std::vector<std::string> out;
  while (!path.empty()) {
    const size_t end = std::min(path.find('/'), path.size());
    const std::string_view name = path.substr(0, end);
    if (!name.empty() && name != ".") out.emplace_back(name);
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return out;
}

std::string clean_path(std::string_view path) {
  std::vector<std::string> kept;
  for (std::string& name : path_components(path)) {
    if (name != "..") {
      kept.push_back(std::move(name));
    } else if (!kept.empty()) {
      kept.pop_back();
    }
  }
  std::string out;
  for (const std::string& name : kept) out += "/" + name;
  return out.empty() ? "/" : out;
}

}  // namespace kiln::agent
