// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/decompress.h"

#include <algorithm>
#include <memory>

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr size_t kChunkBytes = 1U << 20;
constexpr uint32_t kLz4LegacyMagic = 0x184c2102;
// Of the legacy frame format: every block but the last unpacks to exactly this.
constexpr int kLz4LegacyBlockBytes = 8 << 20;
constexpr uint64_t kLzmaMemoryLimit = uint64_t{256} << 20;
constexpr int kZstdMaxWindowLog = 27;  // ZSTD_WINDOWLOG_LIMIT_DEFAULT, which kernels keep to

struct Magic {
  Compression compression;
  std::string_view bytes;
};
constexpr Magic kMagics[] = {
    {Compression::kGzip, "\x1f\x8b"},
    {Compression::kXz, std::string_view("\xfd\x37\x7a\x58\x5a\x00", 6)},
    {Compression::kZstd, "\x28\xb5\x2f\xfd"},
    {Compression::kLz4Legacy, "\x02\x21\x4c\x18"},
};

tl::unexpected<Error> truncated(Compression compression) {
  return make_error(ErrorKind::kDataLoss,
                    fmt::format("truncated {} data", compression_name(compression)));
}
tl::unexpected<Error> damaged(Compression compression, std::string_view cause) {
  return make_error(ErrorKind::kDataLoss,
                    fmt::format("damaged {} data: {}", compression_name(compression), cause));
}
tl::unexpected<Error> too_long(size_t max_bytes) {
  return make_error(ErrorKind::kOutOfRange,
                    fmt::format("unpacks to more than {} MiB", max_bytes >> 20));
}

// Output that grows by chunks; `room` is 0 when the limit is reached.
class Output {
 public:
  explicit Output(size_t max_bytes) : max_bytes_(max_bytes) {}
  size_t room() {
    const size_t size = std::min(kChunkBytes, max_bytes_ - used_);
    buffer_.resize(used_ + size);
    return size;
  }
  char* end() { return buffer_.data() + used_; }
  void advance(size_t size) { used_ += size; }
  std::string take() {
    buffer_.resize(used_);
    return std::move(buffer_);
  }

 private:
  std::string buffer_;
  size_t used_ = 0;
  size_t max_bytes_;
};

struct EndInflate {
  void operator()(z_stream* stream) const { inflateEnd(stream); }
};

Result<std::string> gunzip(std::span<const std::byte> bytes, size_t max_bytes) {
  z_stream stream{};
  constexpr int kGzipOnly = 16 + MAX_WBITS;
  if (inflateInit2(&stream, kGzipOnly) != Z_OK) return damaged(Compression::kGzip, "out of memory");
  const std::unique_ptr<z_stream, EndInflate> guard(&stream);
  if (bytes.size() > UINT32_MAX) return too_long(max_bytes);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  Output out(max_bytes);
  for (;;) {
    const size_t room = out.room();
    if (room == 0) return too_long(max_bytes);
    stream.next_out = reinterpret_cast<Bytef*>(out.end());
    stream.avail_out = static_cast<uInt>(room);
    const int status = inflate(&stream, Z_NO_FLUSH);
    out.advance(room - stream.avail_out);
    if (status == Z_STREAM_END) return out.take();
    if (status == Z_BUF_ERROR || (status == Z_OK && stream.avail_out != 0))
      return truncated(Compression::kGzip);
    if (status != Z_OK)
      return damaged(Compression::kGzip, stream.msg != nullptr ? stream.msg : "not gzip");
  }
}

struct EndLzma {
  void operator()(lzma_stream* stream) const { lzma_end(stream); }
};

Result<std::string> unxz(std::span<const std::byte> bytes, size_t max_bytes) {
  lzma_stream stream = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&stream, kLzmaMemoryLimit, 0) != LZMA_OK)
    return damaged(Compression::kXz, "out of memory");
  const std::unique_ptr<lzma_stream, EndLzma> guard(&stream);
  stream.next_in = reinterpret_cast<const uint8_t*>(bytes.data());
  stream.avail_in = bytes.size();
  Output out(max_bytes);
  for (;;) {
    const size_t room = out.room();
    if (room == 0) return too_long(max_bytes);
    stream.next_out = reinterpret_cast<uint8_t*>(out.end());
    stream.avail_out = room;
    const lzma_ret status = lzma_code(&stream, LZMA_RUN);
    out.advance(room - stream.avail_out);
    if (status == LZMA_STREAM_END) return out.take();
    if (status == LZMA_BUF_ERROR || (status == LZMA_OK && stream.avail_out != 0))
      return truncated(Compression::kXz);
    if (status != LZMA_OK)
      return damaged(Compression::kXz, fmt::format("error {}", static_cast<int>(status)));
  }
}

struct FreeZstd {
  void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
};

Result<std::string> unzstd(std::span<const std::byte> bytes, size_t max_bytes) {
  const std::unique_ptr<ZSTD_DStream, FreeZstd> stream(ZSTD_createDStream());
  if (!stream) return damaged(Compression::kZstd, "out of memory");
  ZSTD_DCtx_setParameter(stream.get(), ZSTD_d_windowLogMax, kZstdMaxWindowLog);
  ZSTD_inBuffer input{bytes.data(), bytes.size(), 0};
  Output out(max_bytes);
  for (;;) {
    const size_t room = out.room();
    if (room == 0) return too_long(max_bytes);
    ZSTD_outBuffer output{out.end(), room, 0};
    const size_t status = ZSTD_decompressStream(stream.get(), &output, &input);
    if (ZSTD_isError(status) != 0) return damaged(Compression::kZstd, ZSTD_getErrorName(status));
    out.advance(output.pos);
    if (status == 0) return out.take();
    if (output.pos < room && input.pos == input.size) return truncated(Compression::kZstd);
  }
}

// Magic, then blocks of {compressed size, data}. No end mark: the kernel's build appends the
// unpacked size, which is read as one more block's size and does not fit what is left.
Result<std::string> unlz4_legacy(std::span<const std::byte> bytes, size_t max_bytes) {
  ByteReader reader(bytes);
  if (reader.read<uint32_t>() != kLz4LegacyMagic)
    return damaged(Compression::kLz4Legacy, "no magic number");
  std::string out;
  for (;;) {
    const auto size = reader.read<uint32_t>();
    if (!size) break;
    if (*size == kLz4LegacyMagic) continue;
    // The unpacked size, behind the last block.
    if (reader.rest().empty() && *size == out.size()) break;
    const auto block = reader.read_bytes(*size);
    if (!block || *size == 0) return truncated(Compression::kLz4Legacy);
    if (out.size() >= max_bytes) return too_long(max_bytes);
    const size_t used = out.size();
    out.resize(used + kLz4LegacyBlockBytes);
    const int unpacked =
        LZ4_decompress_safe(reinterpret_cast<const char*>(block->data()), out.data() + used,
                            static_cast<int>(block->size()), kLz4LegacyBlockBytes);
    if (unpacked < 0) return damaged(Compression::kLz4Legacy, "a block does not unpack");
    out.resize(used + static_cast<size_t>(unpacked));
  }
  if (out.empty()) return truncated(Compression::kLz4Legacy);
  if (out.size() > max_bytes) return too_long(max_bytes);
  return out;
}

}  // namespace

Compression detect_compression(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (const Magic& magic : kMagics) {
    if (text.starts_with(magic.bytes)) return magic.compression;
  }
  return Compression::kNone;
}

std::string_view compression_name(Compression compression) {
  switch (compression) {
    case Compression::kGzip:
      return "gzip";
    case Compression::kXz:
      return "xz";
    case Compression::kZstd:
      return "zstd";
    case Compression::kLz4Legacy:
      return "lz4";
    case Compression::kNone:
      break;
  }
  return "none";
}

Result<std::string> decompress(Compression compression, std::span<const std::byte> bytes,
                               size_t max_bytes) {
  switch (compression) {
    case Compression::kGzip:
      return gunzip(bytes, max_bytes);
    case Compression::kXz:
      return unxz(bytes, max_bytes);
    case Compression::kZstd:
      return unzstd(bytes, max_bytes);
    case Compression::kLz4Legacy:
      return unlz4_legacy(bytes, max_bytes);
    case Compression::kNone:
      break;
  }
  if (bytes.size() > max_bytes) return too_long(max_bytes);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace kiln::runtime
