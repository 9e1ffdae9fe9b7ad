// SPDX-License-Identifier: Apache-2.0
// cpio archives as the kernel unpacks them ("newc", Documentation/driver-api/early-userspace/
// buffer-format.rst).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace kiln::runtime {

// Everything belongs to root and dates from 1970: the same input gives the same archive.
class CpioWriter {
 public:
  void add_directory(std::string_view path, mode_t permissions);
  // kOutOfRange beyond 4 GiB.
  Result<void> add_file(std::string_view path, mode_t permissions, std::string_view content);
  void add_character_device(std::string_view path, mode_t permissions, unsigned major,
                            unsigned minor);
  std::string finish();  // the archive; call once

 private:
  struct Entry {
    std::string_view path;  // without the leading slash
    mode_t mode;
    unsigned links = 1;
    unsigned major = 0;
    unsigned minor = 0;
    std::string_view content;
  };
  void add(const Entry& entry);

  std::string archive_;
  uint32_t next_inode_ = 1;
};

struct CpioEntry {
  std::string_view path;
  mode_t mode = 0;
  unsigned major = 0;
  unsigned minor = 0;
  std::string_view content;
};

// The entries of an archive, which they point into. kDataLoss if it is damaged or cut off.
Result<std::vector<CpioEntry>> read_cpio(std::string_view archive);

}  // namespace kiln::runtime
