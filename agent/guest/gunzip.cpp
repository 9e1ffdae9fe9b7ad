// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/gunzip.h"

#include <zlib.h>

#include <cstdint>
#include <cstring>

namespace kiln::agent {

Result<std::string> gunzip(std::string_view packed, size_t max_bytes) {
  // RFC 1952 §2.3.1: the file ends with the content's size, little-endian.
  uint32_t size = 0;
  if (packed.size() < sizeof size) return make_error(ErrorKind::kDataLoss, "truncated gzip data");
  std::memcpy(&size, packed.data() + packed.size() - sizeof size, sizeof size);
  if (size > max_bytes) return make_error(ErrorKind::kOutOfRange, "too large");
  constexpr int kGzipWindow = 16 + MAX_WBITS;  // zlib.h: gzip, and nothing else
  z_stream stream{};
  if (inflateInit2(&stream, kGzipWindow) != Z_OK)
    return make_error(ErrorKind::kResourceExhausted, "start zlib");
  std::string out(size, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = size;
  const int status = inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  if (status != Z_STREAM_END || stream.total_out != size || stream.avail_in != 0)
    return make_error(ErrorKind::kDataLoss, "damaged gzip data");
  return out;
}

}  // namespace kiln::agent
