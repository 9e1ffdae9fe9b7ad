// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/compress.h"

#include <zlib.h>

namespace kiln::runtime {

Result<std::string> compress(std::string_view content) {
  constexpr int kGzipWindow = 16 + MAX_WBITS;  // zlib.h: a gzip header and trailer around it
  z_stream stream{};
  if (deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, kGzipWindow, MAX_MEM_LEVEL,
                   Z_DEFAULT_STRATEGY) != Z_OK)
    return make_error(ErrorKind::kInternal, "start zlib");
  std::string out(deflateBound(&stream, content.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int status = deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  if (status != Z_STREAM_END) return make_error(ErrorKind::kInternal, "compress with zlib");
  return out;
}

}  // namespace kiln::runtime
