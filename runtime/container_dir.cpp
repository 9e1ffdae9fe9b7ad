// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_dir.h"

#include <dirent.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "agent/protocol/messages.h"
#include "base/file.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxRecordBytes = size_t{8} << 20;

tl::unexpected<Error> does_not_exist() {
  return make_error(ErrorKind::kNotFound, "container does not exist");
}

}  // namespace

Result<void> check_container_id(const std::string& id) {
  if (id.empty()) return invalid_argument("container id cannot be empty");
  const bool all_known = std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '+' || c == '-' || c == '.';
  });
  // The id is a directory's name on the host, and part of messages to the guest.
  if (!all_known || id == "." || id == ".." || id.size() > 255)
    return invalid_argument("invalid container ID format");
  return {};
}

Result<ContainerDir> ContainerDir::create(const std::string& root, const std::string& id) {
  TRY(check_container_id(id));
  TRY(make_directories(root, 0711));
  const std::string path = root + "/" + id;
  if (mkdir(path.c_str(), 0700) != 0) {
    if (errno == EEXIST)
      return make_error(ErrorKind::kAlreadyExists, "container with given ID already exists");
    return sys_error(fmt::format("create directory `{}`", path));
  }
  ContainerDir dir(path, TRY(open_file(path, O_RDONLY | O_DIRECTORY)));
  // A `delete` may have come between mkdir and here.
  if (!TRY(dir.try_lock()) || !dir.still_there())
    return make_error(ErrorKind::kAborted, "container was deleted while it was being created");
  return dir;
}

Result<ContainerDir> ContainerDir::open(const std::string& root, const std::string& id) {
  TRY(check_container_id(id));
  const std::string path = root + "/" + id;
  auto fd = open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!fd && fd.error().sys_errno == ENOENT) return does_not_exist();
  return ContainerDir(path, TRY(std::move(fd)));
}

std::string ContainerDir::id() const { return path_.substr(path_.rfind('/') + 1); }

std::string ContainerDir::sibling(const std::string& id) const {
  return path_.substr(0, path_.rfind('/') + 1) + id;
}

Result<bool> ContainerDir::try_lock() {
  if (retry_eintr([&] { return flock(fd_.get(), LOCK_EX | LOCK_NB); }) == 0) return true;
  if (errno == EWOULDBLOCK) return false;
  return sys_error(fmt::format("lock `{}`", path_));
}

void ContainerDir::unlock() { flock(fd_.get(), LOCK_UN); }

bool ContainerDir::still_there() const {
  struct stat here {
  }, there{};
  return fstat(fd_.get(), &here) == 0 && stat(path_.c_str(), &there) == 0 &&
         here.st_ino == there.st_ino && here.st_dev == there.st_dev;
}

Result<ContainerRecord> ContainerDir::read_record() const {
  auto text = read_file(file("state.json"), kMaxRecordBytes);
  if (!text && text.error().sys_errno == ENOENT) return does_not_exist();
  return wrap(decode_record(TRY(std::move(text))), fmt::format("read `{}`", file("state.json")));
}

Result<void> ContainerDir::write_record(const ContainerRecord& record) const {
  return write_file_atomic(file("state.json"), encode_record(record), 0600);
}

Result<ContainerRecord> ContainerDir::current_record() const {
  ContainerRecord record = TRY(read_record());
  if (record.state.status == "stopped" || record.state.pid == 0 || is_alive(record.monitor())) {
    // Its creator has not started a monitor yet, or died before it could: the lock tells.
    const bool orphan = record.state.status == "creating" && record.state.pid == 0;
    if (orphan) {
      ContainerDir probe(path_, TRY(open_file(path_, O_RDONLY | O_DIRECTORY)));
      if (TRY(probe.try_lock())) record.state.status = "stopped";
    }
  } else {
    record.state.status = "stopped";
  }
  if (record.state.status == "stopped") {
    // The monitor says "stopped" a moment before it ends; only its end is what engines wait for.
    if (record.state.pid != 0 && is_alive(record.monitor())) {
      record.state.status = "running";
    } else {
      record.state.pid = 0;
    }
  }
  return record;
}

Result<void> ContainerDir::remove() {
  std::error_code failed;
  std::filesystem::remove_all(path_, failed);
  if (failed) return sys_error(fmt::format("remove `{}`", path_), failed.value());
  return {};
}

Result<std::vector<std::string>> list_containers(const std::string& root) {
  std::vector<std::string> ids;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(root.c_str()), closedir);
  if (!directory) {
    if (errno == ENOENT) return ids;
    return sys_error(fmt::format("open `{}`", root));
  }
  while (const dirent* entry = readdir(directory.get())) {
    if (check_container_id(entry->d_name)) ids.emplace_back(entry->d_name);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace kiln::runtime
