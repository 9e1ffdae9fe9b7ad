// SPDX-License-Identifier: Apache-2.0
// A Debian package, fetched and unpacked without being installed.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/guest/progress.h"

namespace kiln::runtime {

struct PackageRecord {
  std::string name;
  std::string version;
  std::string architecture;
  std::string sha256;
  std::vector<std::string> depends;  // names alone
  uint64_t size = 0;
};

// One stanza of apt-cache(8)'s output.
Result<PackageRecord> parse_package_record(const std::string& text);

struct FetchedPackage {
  std::string name;
  std::string version;
  std::string path;  // of the .deb, in the cache
};

// `name`: a package, or one whose only purpose is to depend on another (linux-image-cloud-amd64)
// that begins with `family` (linux-image-). Uses the copy in `cache` if it is the current one;
// without a network or package lists, the one that the same name led to last.
Result<FetchedPackage> fetch_package(const std::string& name, const std::string& family,
                                     const std::string& cache, Progress& progress);

Result<void> unpack_package(const std::string& deb, const std::string& directory,
                            Progress& progress);

}  // namespace kiln::runtime
