// SPDX-License-Identifier: Apache-2.0
#include "runtime/forward_places.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "oci/mount_options.h"

namespace kiln::runtime {
namespace {

constexpr uint64_t kInside = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

std::string clean(const std::string& destination) {
  std::string path = std::filesystem::path(destination).lexically_normal();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// What is at a place of the container: the last mount that covers it.
struct Cover {
  size_t mount = 0;
  std::string below;  // the rest of the path; empty: the mount point itself
};
std::optional<Cover> cover_of(const oci::Spec& spec, const std::string& path) {
  std::optional<Cover> cover;
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const std::string destination = clean(spec.mounts[i].destination);
    const auto options = oci::parse_mount_options(spec.mounts[i].options);
    if ((options && options->remount) || !is_beneath(path, destination)) continue;
    std::string below = path.substr(destination == "/" ? 0 : destination.size());
    below.erase(0, below.find_first_not_of('/'));
    cover = Cover{i, std::move(below)};
  }
  return cover;
}

Result<const Share*> share_of(const Shares& shares, const std::optional<Cover>& cover,
                              const std::string& path) {
  const auto entry = cover ? shares.bind_entries.find(cover->mount) : shares.bind_entries.end();
  if (entry == shares.bind_entries.end())
    return invalid_argument(fmt::format("`{}` lies in no bind mount", path));
  return &*std::find_if(shares.list.begin(), shares.list.end(),
                        [&](const Share& share) { return share.entry == entry->second; });
}

// The errno of a connect(2) by a socket of another type: EPROTOTYPE without the server's notice.
int try_type(int file, int type) {
  const UniqueFd probe(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}", file);
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* const name = reinterpret_cast<const sockaddr*>(&address);
  return connect(probe.get(), name, sizeof address) == 0 ? 0 : errno;
}

Result<void> look_at_socket(HostSocket& found, const std::string& source) {
  struct stat info {};
  if (fstat(found.file.get(), &info) != 0) return sys_error(fmt::format("stat `{}`", source));
  if (!S_ISSOCK(info.st_mode))
    return invalid_argument(fmt::format("`{}` of the host is no socket", source));
  for (const int type : {SOCK_DGRAM, SOCK_SEQPACKET}) {
    const int failed = try_type(found.file.get(), type);
    if (failed == 0 || failed == EAGAIN)
      return make_error(ErrorKind::kUnimplemented,
                        fmt::format("`{}` of the host is a socket of {}, and only streams can be "
                                    "carried into a VM",
                                    source, type == SOCK_DGRAM ? "datagrams" : "packets"));
    if (failed != ECONNREFUSED) continue;
    log_warning("nobody listens at `{}`, which the container is to reach", source);
    break;
  }
  found.mode = info.st_mode & 0777;
  found.uid = info.st_uid;
  found.gid = info.st_gid;
  return {};
}

Result<HostSocket> find_host_socket(const Forward& forward, const oci::Spec& spec, Shares& shares) {
  HostSocket found;
  found.path = forward.path;
  const auto cover = cover_of(spec, forward.path);
  const auto socket = cover ? shares.sockets.find(cover->mount) : shares.sockets.end();
  if (socket != shares.sockets.end() && cover->below.empty()) {
    found.mount = cover->mount;
    found.file = std::move(socket->second.fd);
    TRY(look_at_socket(found, socket->second.source));
    return found;
  }
  const Share* share = TRY(share_of(shares, cover, forward.path));
  if (cover->below.empty())
    return invalid_argument(fmt::format("`{}` of the host is no socket", share->source));
  found.file = TRY(wrap(open_beneath(share->fd.get(), cover->below, O_PATH | O_NOFOLLOW, kInside),
                        fmt::format("find the socket in `{}`", share->source)));
  TRY(look_at_socket(found, share->source + "/" + cover->below));
  return found;
}

Result<SharedPlace> find_place(const Forward& forward, const oci::Spec& spec,
                               const Shares& shares) {
  const auto cover = cover_of(spec, forward.shared);
  const Share* share = TRY(share_of(shares, cover, forward.shared));
  if (cover->below.empty())
    return invalid_argument(fmt::format("`{}` is a mount point itself", forward.shared));
  if (share->read_only)
    return invalid_argument(fmt::format("`{}` lies in a mount that is read-only", forward.shared));
  SharedPlace place;
  const std::filesystem::path below(cover->below);
  place.share = share->source;
  place.below = below.has_parent_path() ? below.parent_path().native() : ".";
  place.name = below.filename();
  place.directory =
      TRY(wrap(open_beneath(share->fd.get(), place.below, O_PATH | O_DIRECTORY, kInside),
               fmt::format("find its directory in `{}`", share->source)));
  return place;
}

// Those that a forward names have given their descriptors away.
Result<void> refuse_unnamed(const oci::Spec& spec, const Shares& shares) {
  for (const auto& [mount, share] : shares.sockets) {
    if (!share.fd) continue;
    const std::string& destination = spec.mounts[mount].destination;
    return make_error(
        ErrorKind::kUnimplemented,
        fmt::format("mount `{}`: `{}` is a socket of the host, which nothing in a VM can connect "
                    "to: needs the annotation {}: {}",
                    destination, share.source, kForwardAnnotation, clean(destination)));
  }
  return {};
}

}  // namespace

Result<ForwardPlaces> find_forwards(const std::vector<Forward>& forwards, const oci::Spec& spec,
                                    Shares& shares) {
  ForwardPlaces places;
  for (const Forward& forward : forwards) {
    if (forward.shared.empty()) {
      auto found = find_host_socket(forward, spec, shares);
      if (!found) return tl::unexpected(about_forward(forward, std::move(found.error())));
      places.sockets.push_back(std::move(*found));
    } else {
      auto place = find_place(forward, spec, shares);
      if (!place) return tl::unexpected(about_forward(forward, std::move(place.error())));
      places.served.push_back({forward, std::move(*place)});
    }
  }
  TRY(refuse_unnamed(spec, shares));
  return places;
}

}  // namespace kiln::runtime
