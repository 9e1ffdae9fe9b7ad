// SPDX-License-Identifier: Apache-2.0
#include "agent/guest/drives.h"

#include <dirent.h>

#include <memory>

#include "base/file.h"
#include "base/format.h"

namespace kiln::agent {
namespace {

constexpr size_t kMaxSerialBytes = 64;

struct CloseDir {
  void operator()(DIR* stream) const { closedir(stream); }
};

}  // namespace

Result<std::string> find_drive(const std::string& block_devices, const std::string& id) {
  const std::unique_ptr<DIR, CloseDir> stream(opendir(block_devices.c_str()));
  if (!stream) return sys_error(fmt::format("open directory `{}`", block_devices));
  while (const dirent* entry = readdir(stream.get())) {
    const std::string name = static_cast<const char*>(entry->d_name);
    if (!name.starts_with("vd")) continue;
    auto serial = read_file(fmt::format("{}/{}/serial", block_devices, name), kMaxSerialBytes);
    if (!serial) continue;
    if (serial->ends_with('\n')) serial->pop_back();
    if (*serial == id) return "/dev/" + name;
  }
  return make_error(ErrorKind::kNotFound, fmt::format("the guest finds no drive `{}`", id));
}

}  // namespace kiln::agent
