// SPDX-License-Identifier: Apache-2.0
#include "shim/layers.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "agent/protocol/messages.h"
#include "base/format.h"

namespace kiln::shim {
namespace {

constexpr std::string_view kOpen = "{{";
constexpr std::string_view kClose = "}}";
constexpr std::string_view kFormat = "format/";
constexpr std::string_view kMkdir = "mkdir/";
constexpr std::string_view kMkdirPath = "X-containerd.mkdir.path=";
constexpr std::string_view kOwnOptions = "X-containerd.";
constexpr unsigned kDefaultMode = 0700;
constexpr unsigned kMaxMode = 0777;

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

std::optional<size_t> number_in(std::string_view text, int base = 10) {
  size_t out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return out;
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> out;
  while (true) {
    const size_t begin = text.find_first_not_of(' ');
    if (begin == std::string_view::npos) return out;
    text.remove_prefix(begin);
    const size_t end = std::min(text.find(' '), text.size());
    out.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

// core/mount/manager/format.go of containerd: a template with these four functions.
Result<std::string> evaluate(std::string_view expression, const Mounts& before,
                             const std::vector<std::string>& points) {
  const auto wrong = [&] {
    return invalid_argument(fmt::format("`{}`: no such reference to another mount", expression));
  };
  const std::vector<std::string_view> words = words_of(expression);
  const auto first = words.size() > 1 ? number_in(words[1]) : std::nullopt;
  if (!first || *first >= points.size()) return wrong();
  if (words[0] == "overlay" && words.size() == 3) {
    const auto last = number_in(words[2]);
    if (!last || *last >= points.size()) return wrong();
    std::string out = points[*first];
    for (size_t i = *first; i != *last;) {
      i = i < *last ? i + 1 : i - 1;
      out += ":" + points[i];
    }
    return out;
  }
  if (words.size() != 2) return wrong();
  if (words[0] == "mount") return points[*first];
  if (words[0] == "source") return before[*first].source();
  if (words[0] == "target") return before[*first].target();
  return wrong();
}

Result<std::string> expand(std::string_view text, const Mounts& before,
                           const std::vector<std::string>& points) {
  std::string out;
  while (true) {
    const size_t open = text.find(kOpen);
    out += text.substr(0, open);
    if (open == std::string_view::npos) return out;
    const size_t close = text.find(kClose, open);
    if (close == std::string_view::npos)
      return invalid_argument(fmt::format("`{}`: has no end", text));
    out += TRY(
        evaluate(text.substr(open + kOpen.size(), close - open - kOpen.size()), before, points));
    text.remove_prefix(close + kClose.size());
  }
}

// core/mount/manager/mkdir.go: path[:mode[:uid:gid]].
Result<Resolved::Directory> directory_of(std::string_view value) {
  const size_t colon = value.find(':');
  Resolved::Directory out{std::string(value.substr(0, colon)), kDefaultMode};
  if (colon == std::string_view::npos) return out;
  const auto mode = number_in(value.substr(colon + 1), 8);
  if (!mode || *mode > kMaxMode)
    return make_error(ErrorKind::kUnimplemented,
                      fmt::format("directory `{}`: only a mode is understood", value));
  out.mode = static_cast<unsigned>(*mode);
  return out;
}

bool is_image(const api::Mount& mount) {
  struct stat info {};
  const bool plain = std::all_of(
      mount.options().begin(), mount.options().end(),
      [](const std::string& word) { return word == "ro" || word == "rw" || word == "loop"; });
  return plain && mount.target().empty() && stat(mount.source().c_str(), &info) == 0 &&
         (S_ISREG(info.st_mode) || S_ISBLK(info.st_mode));
}

std::string_view last_type(const api::Mount& mount) {
  const std::string_view type = mount.type();
  return type.substr(type.rfind('/') + 1);
}

// Whether the overlay is of these layers, and of nothing else.
bool overlays(const api::Mount& mount, size_t first, size_t count) {
  const std::string all =
      count == 1 ? fmt::format("lowerdir={{{{ mount {} }}}}", first)
                 : fmt::format("lowerdir={{{{ overlay {} {} }}}}", first, first + count - 1);
  bool lower = false;
  bool upper = false;
  bool work = false;
  for (const std::string& option : mount.options()) {
    if (option == all) {
      lower = true;
    } else if (first == 1 && option == "upperdir={{ mount 0 }}/upper") {
      upper = true;
    } else if (first == 1 && option == "workdir={{ mount 0 }}/work") {
      work = true;
    } else if (option != "ro" && !(first == 1 && option.starts_with(kMkdirPath))) {
      return false;
    }
  }
  return lower && upper == (first == 1) && work == upper;
}

}  // namespace

api::MountCapabilities mount_capabilities() {
  api::MountCapabilities out;
  out.add_types("erofs");
  out.add_transforms("format");
  out.add_transforms("mkdir");
  return out;
}

std::optional<runtime::RootLayers> root_layers(const Mounts& mounts) {
  if (mounts.size() < 2 || last_type(mounts.back()) != "overlay" || !refer_to_each_other(mounts))
    return std::nullopt;
  runtime::RootLayers out;
  for (size_t i = 0; i + 1 < mounts.size(); ++i) {
    const api::Mount& mount = mounts[i];
    if (!is_image(mount)) return std::nullopt;
    if (i == 0 && mount.type() == "ext4") {
      out.upper = mount.source();
    } else if (mount.type() == "erofs") {
      out.lower.push_back(mount.source());
    } else {
      return std::nullopt;
    }
  }
  if (out.lower.empty() || out.lower.size() > protocol::kMaxRootLayers ||
      !overlays(mounts.back(), out.upper.empty() ? 0 : 1, out.lower.size()))
    return std::nullopt;
  return out;
}

bool refer_to_each_other(const Mounts& mounts) {
  return !mounts.empty() && mounts.back().type().starts_with(kFormat);
}

Result<Resolved> resolve(const api::Mount& mount, const Mounts& before,
                         const std::vector<std::string>& points) {
  Resolved out;
  std::string_view type = mount.type();
  const bool format = take_prefix(type, kFormat);
  const bool mkdir = take_prefix(type, kMkdir);
  if (type.find('/') != std::string_view::npos)
    return make_error(ErrorKind::kUnimplemented,
                      fmt::format("mount of type `{}`: is not known", mount.type()));
  const auto expanded = [&](const std::string& text) -> Result<std::string> {
    if (!format) return text;
    return expand(text, before, points);
  };
  out.mount.set_type(std::string(type));
  out.mount.set_source(TRY(expanded(mount.source())));
  out.mount.set_target(TRY(expanded(mount.target())));
  for (const std::string& option : mount.options()) {
    const std::string text = TRY(expanded(option));
    if (mkdir && text.starts_with(kMkdirPath)) {
      out.directories.push_back(
          TRY(directory_of(std::string_view(text).substr(kMkdirPath.size()))));
    } else if (text.starts_with(kOwnOptions)) {
      // To leave it out might leave out what protects the layer (dm-verity).
      return make_error(ErrorKind::kUnimplemented,
                        fmt::format("mount `{}`: option `{}`: is not known", mount.source(), text));
    } else {
      out.mount.add_options(text);
    }
  }
  return out;
}

}  // namespace kiln::shim
