// SPDX-License-Identifier: Apache-2.0
#include "runtime/resolv_conf.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/file.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr const char* kPath = "/etc/resolv.conf";
constexpr std::string_view kKeyword = "nameserver";
constexpr size_t kMaxBytes = size_t{64} << 10;

const Share* find_share(const Shares& shares, const std::string& entry) {
  const auto found = std::find_if(shares.list.begin(), shares.list.end(),
                                  [&](const Share& share) { return share.entry == entry; });
  return found == shares.list.end() ? nullptr : &*found;
}

// What `kPath` is below `destination`: empty where that is the file itself, nullopt outside of it.
std::optional<std::string> path_below(const std::string& destination) {
  std::string directory = std::filesystem::path(destination).lexically_normal();
  while (directory.ends_with('/')) directory.pop_back();
  const std::string_view path = kPath;
  if (!path.starts_with(directory)) return std::nullopt;
  const std::string_view rest = path.substr(directory.size());
  if (rest.empty()) return std::string();
  return rest.front() == '/' ? std::optional(std::string(rest.substr(1))) : std::nullopt;
}

bool is_blank(char c) { return c == ' ' || c == '\t'; }

template <typename Each>
void each_line(std::string_view text, Each each) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    each(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

// The address of a line that names a server; empty for any other.
std::string_view server_of(std::string_view line) {
  if (!line.starts_with(kKeyword)) return {};
  line.remove_prefix(kKeyword.size());
  if (line.empty() || !is_blank(line.front())) return {};
  while (!line.empty() && is_blank(line.front())) line.remove_prefix(1);
  return line.substr(0, line.find_first_of(" \t\r#;"));
}

bool is_loopback(std::string_view server) {
  in_addr address{};
  return inet_pton(AF_INET, std::string(server).c_str(), &address) == 1 &&
         ntohl(address.s_addr) >> 24 == 127;
}

}  // namespace

Result<ResolvConf> ResolvConf::of(const oci::Spec& spec, const Shares& shares) {
  const Share* share = find_share(shares, "rootfs");
  ResolvConf out;
  out.inside_ = kPath;
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const auto below = path_below(spec.mounts[i].destination);
    if (!below) continue;
    const auto entry = shares.bind_entries.find(i);
    share = entry == shares.bind_entries.end() ? nullptr : find_share(shares, entry->second);
    out.inside_ = *below;
  }
  if (share == nullptr) return ResolvConf();
  out.source_.reset(fcntl(share->fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!out.source_) return sys_error("duplicate a descriptor");
  return out;
}

Result<ResolvConf> ResolvConf::at(const std::string& path) {
  ResolvConf out;
  auto file = open_file(path, O_PATH);
  if (!file && file.error().sys_errno == ENOENT) return out;
  out.source_ = TRY(std::move(file));
  return out;
}

Result<std::string> ResolvConf::text() const {
  if (!source_) return std::string();
  UniqueFd found;
  if (!inside_.empty()) {
    auto opened =
        open_beneath(source_.get(), inside_, O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (!opened) return std::string();
    found = std::move(*opened);
  }
  const int fd = found ? found.get() : source_.get();
  struct stat info {};
  // Opening anything else may wait, or do something.
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return std::string();
  const UniqueFd file =
      TRY(open_file(fmt::format("/proc/self/fd/{}", fd), O_RDONLY | O_NONBLOCK | O_NOCTTY));
  return wrap(read_fd(file.get(), kMaxBytes), "read the container's resolv.conf");
}

Result<bool> ResolvConf::names(std::string_view address) const {
  return names_server(TRY(text()), address);
}

bool names_server(std::string_view text, std::string_view address) {
  bool found = false;
  each_line(text, [&](std::string_view line) { found |= server_of(line) == address; });
  return found;
}

std::string loopback_server(std::string_view text) {
  std::string out;
  each_line(text, [&](std::string_view line) {
    if (out.empty() && is_loopback(server_of(line))) out = server_of(line);
  });
  return out;
}

std::string replace_loopback_servers(std::string_view text, std::string_view address) {
  std::string out;
  each_line(text, [&](std::string_view line) {
    out += is_loopback(server_of(line)) ? fmt::format("{} {}", kKeyword, address) : line;
    out += '\n';
  });
  return out;
}

}  // namespace kiln::runtime
