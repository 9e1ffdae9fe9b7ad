// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/cpio.h"

#include <sys/stat.h>

#include <charconv>

#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr std::string_view kMagic = "070701";
constexpr std::string_view kTrailer = "TRAILER!!!";
constexpr size_t kHeaderBytes = 110;  // magic + 13 fields of 8 hexadecimal digits
constexpr size_t kAlignment = 4;

size_t padded(size_t size) { return (size + kAlignment - 1) & ~(kAlignment - 1); }

// The header's fields, in the order of the format.
enum Field : size_t {
  kInode,
  kMode,
  kUid,
  kGid,
  kLinks,
  kTime,
  kFileSize,
  kDevMajor,
  kDevMinor,
  kRdevMajor,
  kRdevMinor,
  kNameSize,
  kCheck,
};

Result<uint32_t> field_of(std::string_view header, Field field) {
  const std::string_view digits = header.substr(kMagic.size() + size_t{field} * 8, 8);
  uint32_t value = 0;
  const auto [end, failed] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (failed != std::errc() || end != digits.data() + digits.size())
    return make_error(ErrorKind::kDataLoss, "damaged cpio archive: a header is not hexadecimal");
  return value;
}

}  // namespace

void CpioWriter::add(const Entry& entry) {
  archive_ += fmt::format("{}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}", kMagic, next_inode_++,
                          entry.mode, 0, 0, entry.links, 0, entry.content.size());
  archive_ += fmt::format("{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}", 0, 0, entry.major, entry.minor,
                          entry.path.size() + 1, 0);
  archive_ += entry.path;
  archive_ += '\0';
  archive_.resize(padded(archive_.size()));
  archive_ += entry.content;
  archive_.resize(padded(archive_.size()));
}

void CpioWriter::add_directory(std::string_view path, mode_t permissions) {
  add({path, S_IFDIR | permissions, 2, 0, 0, {}});
}

Result<void> CpioWriter::add_file(std::string_view path, mode_t permissions,
                                  std::string_view content) {
  if (content.size() > UINT32_MAX)
    return make_error(ErrorKind::kOutOfRange, fmt::format("`{}` is too long for cpio", path));
  add({path, S_IFREG | permissions, 1, 0, 0, content});
  return {};
}

void CpioWriter::add_character_device(std::string_view path, mode_t permissions, unsigned major,
                                      unsigned minor) {
  add({path, S_IFCHR | permissions, 1, major, minor, {}});
}

std::string CpioWriter::finish() {
  next_inode_ = 0;
  add({kTrailer, 0, 1, 0, 0, {}});
  return std::move(archive_);
}

Result<std::vector<CpioEntry>> read_cpio(std::string_view archive) {
  std::vector<CpioEntry> out;
  size_t position = 0;
  for (;;) {
    if (archive.size() - position < kHeaderBytes)
      return make_error(ErrorKind::kDataLoss, "truncated cpio archive");
    const std::string_view header = archive.substr(position, kHeaderBytes);
    if (!header.starts_with(kMagic)) return make_error(ErrorKind::kDataLoss, "not a cpio archive");
    const size_t name_size = TRY(field_of(header, kNameSize));
    const size_t file_size = TRY(field_of(header, kFileSize));
    const size_t content = padded(position + kHeaderBytes + name_size);
    if (name_size == 0 || content > archive.size() || file_size > archive.size() - content)
      return make_error(ErrorKind::kDataLoss, "truncated cpio archive");
    CpioEntry entry;
    entry.path = archive.substr(position + kHeaderBytes, name_size - 1);
    entry.mode = TRY(field_of(header, kMode));
    entry.major = TRY(field_of(header, kRdevMajor));
    entry.minor = TRY(field_of(header, kRdevMinor));
    entry.content = archive.substr(content, file_size);
    if (entry.path == kTrailer) return out;
    out.push_back(entry);
    position = padded(content + file_size);
    if (position > archive.size())
      return make_error(ErrorKind::kDataLoss, "truncated cpio archive");
  }
}

}  // namespace kiln::runtime
