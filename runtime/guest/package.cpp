// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/package.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "base/file.h"
#include "base/format.h"
#include "base/temporary_directory.h"
#include "runtime/guest/sha256.h"
#include "runtime/guest/tool.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPackageBytes = size_t{1} << 30;
constexpr size_t kMaxRecordBytes = 4096;
constexpr int kShowTimeoutMs = 60'000;

// `a (>= 1) | b, c:amd64` -> a, b, c
std::vector<std::string> dependency_names(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(",|"), text.size());
    std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    word.remove_prefix(std::min(word.find_first_not_of(" \t"), word.size()));
    word = word.substr(0, word.find_first_of(" \t(:"));
    if (!word.empty()) out.emplace_back(word);
  }
  return out;
}

// As apt names the file: an epoch's colon is not for file names.
std::string file_name(const PackageRecord& record) {
  const std::string_view text = record.version;
  const size_t colon = text.find(':');
  const std::string version =
      colon == std::string_view::npos
          ? record.version
          : fmt::format("{}%3a{}", text.substr(0, colon), text.substr(colon + 1));
  return fmt::format("{}_{}_{}.deb", record.name, version, record.architecture);
}

// Only what a shell or a path could not misread.
bool plausible_name(std::string_view name) {
  return !name.empty() && name.front() != '-' && name.front() != '.' &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789+-.") ==
             std::string_view::npos;
}

Result<PackageRecord> look_up(const std::string& name) {
  if (!plausible_name(name)) return invalid_argument(fmt::format("no package name: `{}`", name));
  ToolRun show;
  show.argv = {"apt-cache", "show", "--no-all-versions", name};
  show.timeout_ms = kShowTimeoutMs;
  const std::string text = TRY(wrap(run_tool(show), fmt::format("look up package `{}`", name)));
  return wrap(parse_package_record(text), fmt::format("look up package `{}`", name));
}

// The package that holds the files.
Result<PackageRecord> resolve(const std::string& name, const std::string& family) {
  PackageRecord record = TRY(look_up(name));
  const auto real =
      std::find_if(record.depends.begin(), record.depends.end(),
                   [&](const std::string& depends) { return depends.starts_with(family); });
  if (real == record.depends.end()) return record;
  return look_up(*real);
}

Result<void> check_hash(const PackageRecord& record, const std::string& path) {
  if (record.sha256.empty())
    return make_error(ErrorKind::kDataLoss,
                      fmt::format("the package lists have no SHA-256 of `{}`", record.name));
  const std::string content = TRY(read_file(path, kMaxPackageBytes));
  if (sha256_hex(content) == record.sha256) return {};
  return make_error(ErrorKind::kDataLoss,
                    fmt::format("`{}` is not what the package lists say (SHA-256)", path));
}

// The partial file's size says how far the download is.
std::string downloaded(const std::string& directory, uint64_t size) {
  uint64_t here = 0;
  std::error_code failed;
  for (fs::directory_iterator entry(directory, failed), end; !failed && entry != end;
       entry.increment(failed))
    here += entry->is_regular_file(failed) ? entry->file_size(failed) : 0;
  return fmt::format("{} of {} MB", here / 1'000'000, size / 1'000'000);
}

Result<void> download(const PackageRecord& record, const std::string& cache,
                      const std::string& target, Progress& progress) {
  const TemporaryDirectory directory = TRY(TemporaryDirectory::create(cache, ".download-"));
  // apt fetches as an unprivileged user where it can write.
  if (chmod(directory.path().c_str(), 0755) != 0) return sys_error("chmod the download directory");
  progress.step(fmt::format("Downloading {} {}", record.name, record.version));
  ToolRun fetch;
  fetch.argv = {"apt-get", "download", "-q", fmt::format("{}={}", record.name, record.version)};
  fetch.directory = directory.path();
  fetch.tick = [&] { progress.tick(downloaded(directory.path(), record.size)); };
  TRY(run_tool(fetch));
  const std::string file = fmt::format("{}/{}", directory.path(), file_name(record));
  TRY(check_hash(record, file));
  if (rename(file.c_str(), target.c_str()) != 0) return sys_error(fmt::format("keep `{}`", target));
  return {};
}

// Names the file that a package name led to last.
std::string record_path(const std::string& name, const std::string& cache) {
  return fmt::format("{}/{}.current", cache, name);
}

// What a former build with this name left.
Result<FetchedPackage> last_cached(const std::string& name, const std::string& cache) {
  if (!plausible_name(name)) return invalid_argument(fmt::format("no package name: `{}`", name));
  const std::string file = TRY(read_file(record_path(name, cache), kMaxRecordBytes));
  const size_t name_end = file.find('_');
  const size_t version_end = file.rfind('_');
  if (file.find('/') != std::string::npos || !file.ends_with(".deb") || name_end == version_end)
    return make_error(ErrorKind::kDataLoss, "the record in the cache is damaged");
  FetchedPackage out{file.substr(0, name_end),
                     file.substr(name_end + 1, version_end - name_end - 1),
                     fmt::format("{}/{}", cache, file)};
  if (access(out.path.c_str(), R_OK) != 0) return sys_error(fmt::format("find `{}`", out.path));
  return out;
}

Result<FetchedPackage> fetch_current(const std::string& name, const std::string& family,
                                     const std::string& cache, Progress& progress) {
  progress.step(fmt::format("Looking up {}", name));
  const PackageRecord record = TRY(resolve(name, family));
  std::string path = fmt::format("{}/{}", cache, file_name(record));
  // A file that is cut off or damaged is fetched again.
  if (!check_hash(record, path))
    TRY(wrap(download(record, cache, path, progress),
             fmt::format("download package `{}`", record.name)));
  TRY(write_file_atomic(record_path(name, cache), file_name(record), 0644));
  return FetchedPackage{record.name, record.version, std::move(path)};
}

}  // namespace

Result<PackageRecord> parse_package_record(const std::string& text) {
  PackageRecord out;
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.empty()) break;  // the end of the first stanza
    const size_t colon = line.find(": ");
    if (line.front() == ' ' || colon == std::string_view::npos) continue;
    const std::string_view key = line.substr(0, colon);
    const std::string_view value = line.substr(colon + 2);
    if (key == "Package") out.name = value;
    if (key == "Version") out.version = value;
    if (key == "Architecture") out.architecture = value;
    if (key == "SHA256") out.sha256 = value;
    if (key == "Depends") out.depends = dependency_names(value);
    if (key == "Size") std::from_chars(value.data(), value.data() + value.size(), out.size);
  }
  if (!plausible_name(out.name) || out.version.empty() || out.architecture.empty() ||
      out.version.find('/') != std::string::npos || out.architecture.find('/') != std::string::npos)
    return make_error(ErrorKind::kDataLoss, "the answer names no package and version");
  return out;
}

Result<FetchedPackage> fetch_package(const std::string& name, const std::string& family,
                                     const std::string& cache, Progress& progress) {
  TRY(make_directories(cache, 0755));
  auto fetched = fetch_current(name, family, cache, progress);
  if (fetched) return fetched;
  auto cached = last_cached(name, cache);
  if (!cached)
    return tl::unexpected(std::move(fetched.error())
                              .wrap("get the kernel's package (`apt-get "
                                    "update` may be needed)"));
  progress.note(fmt::format("warning: {}; using {} from the cache", fetched.error().message,
                            fs::path(cached->path).filename().string()));
  return cached;
}

Result<void> unpack_package(const std::string& deb, const std::string& directory,
                            Progress& progress) {
  progress.step(fmt::format("Unpacking {}", fs::path(deb).filename().string()));
  ToolRun unpack;
  unpack.argv = {"dpkg-deb", "--extract", deb, directory};
  unpack.tick = [&] { progress.tick(); };
  TRY(wrap(run_tool(unpack), fmt::format("unpack `{}`", deb)));
  return {};
}

}  // namespace kiln::runtime
