// SPDX-License-Identifier: Apache-2.0
#include "runtime/written_volumes.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

constexpr const char* kData = "..data";
// Between the first sign of a new version and the question for it: what the kubelet does in a row
// is one change, it sets owners after the fact (until 1.26), and by then the old version is gone.
constexpr int64_t kSettleMs = 100;
constexpr int64_t kPollMs = 1000;
constexpr int64_t kRefreshTimeoutMs = 60'000;
constexpr uint64_t kPageBytes = 4096;
constexpr std::string_view kPlugins[] = {"kubernetes.io~configmap", "kubernetes.io~secret",
                                         "kubernetes.io~projected", "kubernetes.io~downward-api"};

std::string path_of(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

// Empty: nothing has been written yet.
std::string version_of(int volume_fd) {
  std::array<char, NAME_MAX + 1> target{};
  const ssize_t size = readlinkat(volume_fd, kData, target.data(), target.size());
  const std::string version(target.data(), size > 0 ? static_cast<size_t>(size) : 0);
  const bool name = version.size() <= NAME_MAX && version != "." && version != ".." &&
                    version.find('/') == std::string::npos;
  return name ? version : std::string();
}

// As the agent counts it.
bool may_be_copied(const std::string& directory) {
  std::error_code failed;
  uint64_t bytes = 0;
  size_t names = 0;
  auto entry = fs::recursive_directory_iterator(directory, failed);
  for (; !failed && entry != fs::recursive_directory_iterator(); entry.increment(failed)) {
    std::error_code gone;
    if (entry->symlink_status(gone).type() == fs::file_type::regular)
      bytes += (entry->file_size(gone) + kPageBytes - 1) / kPageBytes * kPageBytes;
    if (++names > protocol::kMaxVolumeNames || bytes > protocol::kMaxVolumeBytes) return false;
  }
  return true;
}

// Laid out by the kubelet's writer, or still to be.
bool is_laid_out(int volume_fd) {
  if (!version_of(volume_fd).empty()) return true;
  std::error_code failed;
  return fs::is_empty(path_of(volume_fd), failed);
}

}  // namespace

bool is_written_volume(const std::string& source) {
  const fs::path path = fs::path(source).lexically_normal();
  const fs::path volume = path.has_filename() ? path : path.parent_path();
  const std::string plugin = volume.parent_path().filename();
  return std::find(std::begin(kPlugins), std::end(kPlugins), plugin) != std::end(kPlugins);
}

Result<std::unique_ptr<WrittenVolumes>> WrittenVolumes::open(EventLoop& loop, const oci::Spec& spec,
                                                             const Shares& shares) {
  std::unique_ptr<WrittenVolumes> volumes(new WrittenVolumes(loop));
  for (const auto& [mount, entry] : shares.bind_entries) {
    for (const Share& share : shares.list) {
      if (share.entry == entry && share.read_only && is_written_volume(share.source))
        TRY(volumes->add(mount, spec.mounts[mount].destination, share));
    }
  }
  if (volumes->volumes_.empty()) return std::unique_ptr<WrittenVolumes>();
  if (auto watched = volumes->watch(); !watched) {
    // A user may have 128 of them by default (inotify(7)), and a node has more containers.
    log_debug("{}, looking for changes each second instead", watched.error().message);
    volumes->events_.reset();
  }
  return volumes;
}

WrittenVolumes::~WrittenVolumes() {
  *alive_ = false;
  if (events_) loop_.remove_fd(events_.get());
  if (timer_) loop_.cancel_timer(*timer_);
}

Result<void> WrittenVolumes::add(size_t mount, const std::string& destination, const Share& share) {
  struct stat info {};
  if (fstat(share.fd.get(), &info) != 0) return sys_error(fmt::format("stat `{}`", share.source));
  if (!S_ISDIR(info.st_mode) || !is_laid_out(share.fd.get())) return {};
  if (!may_be_copied(path_of(share.fd.get()))) {
    log_warning(
        "mount `{}`: `{}` is too large for a copy in the guest, inotify will not tell of changes, "
        "ignoring",
        destination, share.source);
    return {};
  }
  UniqueFd directory(fcntl(share.fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!directory) return sys_error("duplicate a descriptor");
  volumes_.push_back({mount, destination, std::move(directory), false});
  return {};
}

Result<void> WrittenVolumes::watch() {
  events_.reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!events_) return sys_error("watch volumes");
  for (const Volume& volume : volumes_) {
    if (inotify_add_watch(events_.get(), path_of(volume.directory.get()).c_str(),
                          IN_MOVED_TO | IN_ONLYDIR) < 0)
      return sys_error(fmt::format("watch volume `{}`", volume.destination));
  }
  return loop_.add_fd(events_.get(), EPOLLIN, [this](uint32_t) {
    std::array<char, 4096> events{};
    while (read(events_.get(), events.data(), events.size()) > 0) continue;
    look_in(kSettleMs);
  });
}

const std::map<size_t, std::string>& WrittenVolumes::versions() {
  for (const Volume& volume : volumes_) told_[volume.mount] = version_of(volume.directory.get());
  return told_;
}

bool WrittenVolumes::changed() const {
  return std::any_of(volumes_.begin(), volumes_.end(), [this](const Volume& volume) {
    return told_.at(volume.mount) != version_of(volume.directory.get());
  });
}

void WrittenVolumes::follow(Agent& agent, const std::string& container_id) {
  agent_ = &agent;
  container_id_ = container_id;
  look();
}

void WrittenVolumes::look_in(int64_t milliseconds) {
  if (!timer_) timer_ = loop_.add_timer(milliseconds, [this] { look(); });
}

void WrittenVolumes::look() {
  if (timer_) loop_.cancel_timer(*timer_);
  timer_.reset();
  if (agent_ == nullptr) return;
  for (Volume& volume : volumes_) {
    const std::string version = version_of(volume.directory.get());
    if (!volume.asked && !version.empty() && version != told_[volume.mount])
      refresh(volume, version);
  }
  if (!events_) look_in(kPollMs);
}

void WrittenVolumes::refresh(Volume& volume, const std::string& version) {
  volume.asked = true;
  const protocol::RefreshRequest request{container_id_, volume.mount, version};
  agent_->request("refresh", protocol::to_json(request), kRefreshTimeoutMs,
                  [this, alive = alive_, &volume, version](const Result<Json>& done) {
                    if (*alive) refreshed(volume, version, done);
                  });
}

void WrittenVolumes::refreshed(Volume& volume, const std::string& version,
                               const Result<Json>& done) {
  volume.asked = false;
  const bool newest = version == version_of(volume.directory.get());
  if (!done && newest)
    log_warning("update volume `{}`: {}, ignoring", volume.destination, done.error().message);
  // What failed because the kubelet has gone on meanwhile is not missed.
  if (done || newest) told_[volume.mount] = version;
  if (!newest) look_in(kSettleMs);
}

}  // namespace kiln::runtime
