// SPDX-License-Identifier: Apache-2.0
// The one file that sees yaml-cpp and its exceptions.
#include "runtime/config/config.h"

#include <algorithm>
#include <cerrno>
#include <set>

#include <yaml-cpp/yaml.h>

#include "base/file.h"
#include "base/format.h"
#include "runtime/config/settings.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxConfigBytes = 1U << 20;

// Where in the file; yaml-cpp counts from 0.
tl::unexpected<Error> error_at(const std::string& name, const YAML::Mark& mark,
                               const std::string& message) {
  if (mark.is_null()) return invalid_argument(fmt::format("{}: {}", name, message));
  return invalid_argument(fmt::format("{}:{}: {}", name, mark.line + 1, message));
}

class Reader {
 public:
  Reader(Config& config, const std::string& name) : config_(config), name_(name) {}

  // `section` is empty at the top level.
  Result<void> read_map(const YAML::Node& map, const std::string& section) {
    for (const auto& entry : map) {
      const YAML::Node& key_node = entry.first;
      if (!key_node.IsScalar())
        return error_at(name_, key_node.Mark(), "a key must be a plain word");
      const std::string key = (section.empty() ? "" : section + ".") + key_node.Scalar();
      if (!seen_.insert(key).second)
        return error_at(name_, key_node.Mark(), fmt::format("key `{}` is there twice", key));
      TRY(read_entry(key, key_node, entry.second));
    }
    return {};
  }

 private:
  Result<void> read_entry(const std::string& key, const YAML::Node& key_node,
                          const YAML::Node& value) {
    if (key == "annotations.allow") return read_allowed(value);
    if (is_section(key)) {
      if (value.IsNull()) return {};
      if (!value.IsMap())
        return error_at(name_, value.Mark(), fmt::format("`{}` must have keys below it", key));
      return read_map(value, key);
    }
    const auto table = settings();
    const auto setting = std::find_if(
        table.begin(), table.end(), [&](const Setting& candidate) { return candidate.key == key; });
    if (setting == table.end() || setting->from_file == nullptr)
      return error_at(name_, key_node.Mark(), fmt::format("unknown key `{}`", key));
    // `key:` with nothing behind it: the default.
    if (value.IsNull()) return {};
    if (!value.IsScalar())
      return error_at(name_, value.Mark(), fmt::format("`{}` must be a single value", key));
    if (auto set = setting->from_file(config_, value.Scalar()); !set)
      return error_at(name_, value.Mark(), fmt::format("`{}` {}", key, set.error().message));
    return {};
  }

  static bool is_section(const std::string& key) {
    if (key == "annotations") return true;
    const auto table = settings();
    return std::any_of(table.begin(), table.end(), [&](const Setting& candidate) {
      return candidate.key.starts_with(key + ".");
    });
  }

  Result<void> read_allowed(const YAML::Node& list) {
    if (!list.IsSequence())
      return error_at(name_, list.Mark(), "`annotations.allow` must be a list: [vcpus, memory]");
    config_.allowed_annotations.clear();
    for (const YAML::Node& entry : list) {
      const auto table = settings();
      if (!entry.IsScalar() || entry.Scalar().empty() ||
          std::none_of(table.begin(), table.end(), [&](const Setting& candidate) {
            return candidate.annotation == entry.Scalar();
          }))
        return error_at(name_, entry.Mark(),
                        fmt::format("`annotations.allow`: no annotation `{}{}`", kAnnotationPrefix,
                                    entry.IsScalar() ? entry.Scalar() : "?"));
      config_.allowed_annotations.push_back(entry.Scalar());
    }
    return {};
  }

  Config& config_;
  const std::string& name_;
  std::set<std::string> seen_;
};

}  // namespace

Result<Config> parse_config(const std::string& text, const std::string& name) {
  try {
    Config config;
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) return invalid_argument(fmt::format("{}: two documents", name));
    // A file of comments alone sets nothing.
    if (documents.empty() || documents.front().IsNull()) return config;
    const YAML::Node& document = documents.front();
    if (!document.IsMap()) return error_at(name, document.Mark(), "must be made of `key: value`");
    TRY(Reader(config, name).read_map(document, ""));
    return config;
  } catch (const YAML::Exception& error) {
    return error_at(name, error.mark, error.msg);
  }
}

Result<Config> load_config(const std::string& path, bool must_exist) {
  auto text = read_file(path, kMaxConfigBytes);
  if (!text) {
    if (text.error().sys_errno == ENOENT && !must_exist) return Config();
    return tl::unexpected(std::move(text.error()).wrap("read the configuration"));
  }
  return parse_config(*text, path);
}

}  // namespace kiln::runtime
