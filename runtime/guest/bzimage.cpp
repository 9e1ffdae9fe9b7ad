// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/bzimage.h"

#include <elf.h>

#include <asm/bootparam.h>
#include <cstddef>
#include <cstring>
#include <optional>

#include "base/bytes.h"
#include "base/format.h"
#include "runtime/guest/decompress.h"
#include "runtime/guest/elf.h"

namespace kiln::runtime {
namespace {

constexpr size_t kSetupHeaderOffset = offsetof(boot_params, hdr);
constexpr uint32_t kSetupMagic = 0x53726448;    // "HdrS"
constexpr uint16_t kFirstWithPayload = 0x0208;  // the protocol that brought payload_offset
constexpr size_t kSectorBytes = 512;
// A zero stands for 4 (boot.rst, setup_sects).
constexpr unsigned kDefaultSetupSectors = 4;
constexpr size_t kMaxKernelBytes = size_t{512} << 20;

tl::unexpected<Error> truncated() {
  return make_error(ErrorKind::kDataLoss, "truncated kernel image");
}

bool is_elf(std::span<const std::byte> bytes) {
  return bytes.size() >= SELFMAG && std::memcmp(bytes.data(), ELFMAG, SELFMAG) == 0;
}

Result<std::span<const std::byte>> find_payload(std::span<const std::byte> bytes) {
  if (bytes.size() < kSetupHeaderOffset + sizeof(setup_header)) return truncated();
  const auto header = *ByteReader(bytes.subspan(kSetupHeaderOffset)).read<setup_header>();
  if (header.header != kSetupMagic) return invalid_argument("neither a bzImage nor an ELF kernel");
  if (header.version < kFirstWithPayload)
    return make_error(
        ErrorKind::kUnimplemented,
        fmt::format("boot protocol {}.{:02} is too old: its kernel cannot be unpacked",
                    header.version >> 8, header.version & 0xff));
  const size_t sectors = header.setup_sects == 0 ? kDefaultSetupSectors : header.setup_sects;
  const uint64_t start = (sectors + 1) * kSectorBytes + uint64_t{header.payload_offset};
  if (header.payload_length == 0) return invalid_argument("the bzImage has no payload");
  if (start > bytes.size() || header.payload_length > bytes.size() - start) return truncated();
  return bytes.subspan(start, header.payload_length);
}

}  // namespace

Result<UnpackedKernel> unpack_kernel(std::span<const std::byte> bytes) {
  UnpackedKernel out;
  if (is_elf(bytes)) {
    out.elf.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    out.compression = compression_name(Compression::kNone);
  } else {
    const auto payload = TRY(find_payload(bytes));
    const Compression compression = detect_compression(payload);
    if (compression == Compression::kNone && !is_elf(payload))
      return make_error(ErrorKind::kUnimplemented,
                        "the kernel is compressed in a way that is not known here (gzip, xz, zstd "
                        "and lz4 are)");
    out.elf = TRY(wrap(decompress(compression, payload, kMaxKernelBytes), "unpack the kernel"));
    out.compression = compression_name(compression);
  }
  const auto elf = ElfFile::parse(as_bytes(out.elf), out.elf.size());
  if (!elf && elf.error().kind == ErrorKind::kDataLoss) return truncated();
  if (!elf) return tl::unexpected(elf.error());
  TRY(elf->pvh_entry());
  return out;
}

}  // namespace kiln::runtime
