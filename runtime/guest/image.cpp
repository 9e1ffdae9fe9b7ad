// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/file.h"
#include "base/format.h"
#include "base/json.h"
#include "runtime/config/locate.h"
#include "runtime/guest/elf.h"

namespace kiln::runtime {
namespace {

// Enough for an ELF header and its segment table, which linkers put at the front.
constexpr size_t kHeadBytes = 4096;
constexpr size_t kMaxManifestBytes = 1U << 20;
constexpr std::string_view kCpioMagic = "070701";
constexpr std::string_view kRebuild = "build it anew with `kiln guest build`";

struct FileHead {
  std::string bytes;
  uint64_t size = 0;
};

Result<FileHead> read_head(const std::string& path) {
  const UniqueFd fd = TRY(open_file(path, O_RDONLY));
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return sys_error(fmt::format("look at `{}`", path));
  if (!S_ISREG(status.st_mode))
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("guest image: `{}` is not a regular file", path));
  FileHead head;
  head.size = static_cast<uint64_t>(status.st_size);
  head.bytes.resize(kHeadBytes);
  head.bytes.resize(TRY(read_fully(fd.get(), head.bytes.data(), kHeadBytes)));
  return head;
}

Error damaged(const std::string& path, const std::string& how) {
  return make_error(ErrorKind::kDataLoss,
                    fmt::format("guest image: `{}`: {}: {}", path, how, kRebuild))
      .value();
}

// The manifest's word on a file's length, which finds a cut-off initramfs too.
Result<void> check_size(const Json& manifest, const char* name, const std::string& path,
                        uint64_t size) {
  const auto files = manifest.find("files");
  if (files == manifest.end() || !files->is_object()) return {};
  const auto file = files->find(name);
  if (file == files->end() || !file->is_object()) return {};
  const auto expected = file->find("size");
  if (expected == file->end() || !expected->is_number_unsigned()) return {};
  if (expected->get<uint64_t>() == size) return {};
  return tl::unexpected(damaged(path, fmt::format("has {} bytes, {} says {}", size, kManifestName,
                                                  expected->get<uint64_t>())));
}

// An image that somebody put together by hand need not have one.
Result<Json> read_manifest(const std::string& directory) {
  const std::string path = fmt::format("{}/{}", directory, kManifestName);
  auto text = read_file(path, kMaxManifestBytes);
  if (!text && text.error().sys_errno == ENOENT) return Json::object();
  if (!text) return tl::unexpected(std::move(text.error()));
  auto manifest = parse_json(*text);
  if (!manifest) return tl::unexpected(damaged(path, manifest.error().message));
  if (!manifest->is_object()) return tl::unexpected(damaged(path, "not a JSON object"));
  return manifest;
}

}  // namespace

Result<GuestImage> open_guest_image(const std::string& directory) {
  GuestImage image{directory, fmt::format("{}/{}", directory, kKernelName),
                   fmt::format("{}/{}", directory, kInitramfsName)};
  const FileHead kernel = TRY(wrap(read_head(image.kernel_path), "guest image"));
  if (auto elf = ElfFile::parse(as_bytes(kernel.bytes), kernel.size); !elf)
    return tl::unexpected(damaged(image.kernel_path, elf.error().message));
  const FileHead initramfs = TRY(wrap(read_head(image.initramfs_path), "guest image"));
  if (!initramfs.bytes.starts_with(kCpioMagic))
    return tl::unexpected(damaged(image.initramfs_path, "not a cpio archive"));
  const Json manifest = TRY(read_manifest(directory));
  TRY(check_size(manifest, kKernelName, image.kernel_path, kernel.size));
  TRY(check_size(manifest, kInitramfsName, image.initramfs_path, initramfs.size));
  return image;
}

Result<GuestImage> find_guest_image(const Config& config) {
  if (!config.guest.directory.empty())
    return wrap(open_guest_image(config.guest.directory), "guest.directory of the configuration");
  std::string looked_in;
  for (const std::string& parent : TRY(program_directories())) {
    const std::string directory = parent + "/guest";
    if (access(fmt::format("{}/{}", directory, kKernelName).c_str(), F_OK) == 0)
      return open_guest_image(directory);
    looked_in += fmt::format("{}`{}`", looked_in.empty() ? "" : " or ", directory);
  }
  return make_error(ErrorKind::kNotFound,
                    fmt::format("guest image: no `{}` in {}: build one with `kiln guest build`, or "
                                "set guest.directory in kiln.yaml",
                                kKernelName, looked_in));
}

}  // namespace kiln::runtime
