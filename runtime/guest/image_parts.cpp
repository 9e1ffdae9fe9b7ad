// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/image_parts.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/json.h"
#include "runtime/guest/cpio.h"
#include "runtime/guest/image.h"
#include "runtime/guest/initramfs.h"
#include "runtime/guest/kernel_input.h"
#include "runtime/guest/sha256.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxManifestBytes = 1U << 20;
constexpr int kFormatVersion = 3;

Json describe(const std::string& content) {
  return {{"size", content.size()}, {"sha256", sha256_hex(content)}};
}

// The initramfs taken apart again.
Result<void> read_archive(const std::string& archive, const std::vector<std::string>& names,
                          ImageParts& parts) {
  std::map<std::string_view, std::string_view> files;
  for (const CpioEntry& entry : TRY(read_cpio(archive))) files[entry.path] = entry.content;
  parts.agent = files[kInitPath];
  const auto content = [&](const std::string& path) -> Result<std::string> {
    const auto file = files.find(path);
    if (file == files.end())
      return make_error(ErrorKind::kDataLoss, fmt::format("no module `{}`", path));
    return std::string(file->second);
  };
  for (const std::string& name : names)
    parts.modules.push_back({name, TRY(content(module_path(name))), {}});
  for (const auto& [name, module] : parts.on_demand) {
    for (const std::string& file : module.files)
      parts.optional_files[file] = TRY(content(optional_module_path(file)));
  }
  return {};
}

Json to_json(const std::map<std::string, OptionalModule>& modules) {
  Json out = Json::object();
  for (const auto& [name, module] : modules)
    out[name] = {{"aliases", module.aliases}, {"files", module.files}};
  return out;
}

Result<ImageParts> read_parts(const std::string& directory, const KernelIdentity& source) {
  const auto file = [&](const char* name) { return fmt::format("{}/{}", directory, name); };
  const std::string text = TRY(read_file(file(kManifestName), kMaxManifestBytes));
  const Json manifest = TRY(parse_json(text));
  ImageParts parts;
  std::vector<std::string> modules;
  try {
    const Json& kernel = manifest.at("kernel");
    if (manifest.at("formatVersion") != kFormatVersion || manifest.at("kiln") != KILN_VERSION ||
        kernel.at("source") != Json(source))
      return make_error(ErrorKind::kFailedPrecondition, "made of something else");
    parts.source = source;
    parts.compression = kernel.at("compression").get<std::string>();
    parts.release = kernel.at("release").get<std::string>();
    for (const auto& [name, value] : kernel.at("options").items())
      parts.options.insert_or_assign(name, value.get<std::string>());
    modules = kernel.at("modules").get<std::vector<std::string>>();
    for (const auto& [name, module] : kernel.at("onDemand").items()) {
      parts.on_demand[name] = {module.at("aliases").get<std::vector<std::string>>(),
                               module.at("files").get<std::vector<std::string>>()};
    }
    parts.kernel = TRY(read_file(file(kKernelName), kMaxKernelFileBytes));
    const std::string archive = TRY(read_file(file(kInitramfsName), kMaxKernelFileBytes));
    const Json& files = manifest.at("files");
    if (files.at(kKernelName) != describe(parts.kernel) ||
        files.at(kInitramfsName) != describe(archive))
      return make_error(ErrorKind::kDataLoss, "the files are not what the manifest says");
    TRY(read_archive(archive, modules, parts));
  } catch (const Json::exception& error) {
    return make_error(ErrorKind::kDataLoss, error.what());
  }
  return parts;
}

}  // namespace

std::string manifest_of(const ImageParts& parts, const std::string& initramfs) {
  Json modules = Json::array();
  for (const KernelModule& module : parts.modules) modules.push_back(module.name);
  const Json manifest = {
      {"formatVersion", kFormatVersion},
      {"kiln", KILN_VERSION},
      {"kernel",
       {{"release", parts.release},
        {"source", parts.source},
        {"compression", parts.compression},
        {"options", parts.options},
        {"modules", std::move(modules)},
        {"onDemand", to_json(parts.on_demand)}}},
      {"agent", describe(parts.agent)},
      {"files", {{kKernelName, describe(parts.kernel)}, {kInitramfsName, describe(initramfs)}}},
  };
  return dump_json(manifest, 2) + "\n";
}

std::optional<ImageParts> read_image_parts(const std::string& directory,
                                           const KernelIdentity& source) {
  auto parts = read_parts(directory, source);
  if (!parts) return std::nullopt;
  return std::move(*parts);
}

}  // namespace kiln::runtime
