// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/package.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/format.h"
#include "base/temporary_directory.h"
#include "runtime/guest/sha256.h"
#include "runtime/guest/tool.h"

namespace kiln::runtime {
namespace {

TEST(Package, RecordIsTheFirstStanza) {
  const auto record = parse_package_record(
      "Package: linux-image-cloud-amd64\nVersion: 6.1.1-1\nArchitecture: amd64\n"
      "Depends: linux-image-6.1.0-1-cloud-amd64 (= 6.1.1-1), kmod | module-init, a:any\n"
      "Description: a kernel\n and: more\nSize: 1504\nSHA256: abcd\n\nPackage: other\n");
  ASSERT_TRUE(record);
  EXPECT_EQ(record->name, "linux-image-cloud-amd64");
  EXPECT_EQ(record->version, "6.1.1-1");
  EXPECT_EQ(record->sha256, "abcd");
  EXPECT_EQ(record->size, 1504U);
  EXPECT_EQ(record->depends, (std::vector<std::string>{"linux-image-6.1.0-1-cloud-amd64", "kmod",
                                                       "module-init", "a"}));
}

TEST(Package, RecordThatCouldLeaveTheCacheIsRefused) {
  EXPECT_FALSE(parse_package_record(""));
  EXPECT_FALSE(parse_package_record("Package: ../x\nVersion: 1\nArchitecture: amd64\n"));
  EXPECT_FALSE(parse_package_record("Package: x\nVersion: 1/../..\nArchitecture: amd64\n"));
}

constexpr const char* kDeb = "linux-image-6.1.0-1_6.1.1-1_amd64.deb";
constexpr const char* kContent = "a package";

// PATH leads to scripts of the test's own before it leads to the real programs.
class FakeApt : public testing::Test {
 protected:
  void SetUp() override {
    auto directory = TemporaryDirectory::create(testing::TempDir(), "kiln-apt-test-");
    ASSERT_TRUE(directory);
    directory_.emplace(std::move(*directory));
    old_path_ = getenv("PATH");
    setenv("PATH", fmt::format("{}:{}", directory_->path(), old_path_).c_str(), 1);
    script("apt-cache",
           fmt::format("case $3 in\n"
                       "meta) echo 'Package: meta'; echo 'Version: 1'; echo "
                       "'Architecture: amd64'; echo 'Depends: x, linux-image-6.1.0-1 "
                       "(= 1)' ;;\n"
                       "linux-image-6.1.0-1) echo 'Package: linux-image-6.1.0-1'; echo "
                       "'Version: 6.1.1-1'; echo 'Architecture: amd64'; echo 'SHA256: "
                       "{}' ;;\n"
                       "*) echo 'E: No packages found' >&2; exit 100 ;;\nesac\n",
                       sha256_hex(kContent)));
    script("apt-get",
           fmt::format("[ $1 = download ] || exit 9\nprintf '{}' > {}\n", kContent, kDeb));
  }
  void TearDown() override { setenv("PATH", old_path_.c_str(), 1); }

  void script(const std::string& name, const std::string& body) const {
    ASSERT_TRUE(write_file_atomic(fmt::format("{}/{}", directory_->path(), name),
                                  "#!/bin/sh\n" + body, 0755));
  }
  std::string cache() const { return directory_->path() + "/cache"; }
  static std::string failure_of(const Result<FetchedPackage>& fetched) {
    return fetched ? "no error" : fetched.error().message;
  }
  Result<FetchedPackage> fetch(const std::string& name) const {
    Progress progress(true);
    return fetch_package(name, "linux-image-", cache(), progress);
  }

  std::optional<TemporaryDirectory> directory_;
  std::string old_path_;
};

TEST_F(FakeApt, MetaPackageLeadsToTheRealOne) {
  const auto fetched = fetch("meta");
  ASSERT_TRUE(fetched) << fetched.error().message;
  EXPECT_EQ(fetched->name, "linux-image-6.1.0-1");
  EXPECT_EQ(fetched->version, "6.1.1-1");
  EXPECT_EQ(fetched->path, fmt::format("{}/{}", cache(), kDeb));
  EXPECT_EQ(*read_file(fetched->path), kContent);
}

TEST_F(FakeApt, CachedPackageIsNotFetchedAgain) {
  ASSERT_TRUE(fetch("meta"));
  script("apt-get", "exit 1\n");
  EXPECT_TRUE(fetch("meta"));
  EXPECT_TRUE(fetch("linux-image-6.1.0-1"));
}

TEST_F(FakeApt, DamagedCacheIsFetchedAgain) {
  const auto fetched = fetch("meta");
  ASSERT_TRUE(fetched);
  ASSERT_EQ(truncate(fetched->path.c_str(), 3), 0);
  ASSERT_TRUE(fetch("meta"));
  EXPECT_EQ(*read_file(fetched->path), kContent);
}

TEST_F(FakeApt, WrongHashIsRefusedAndNotKept) {
  script("apt-get", fmt::format("printf tampered > {}\n", kDeb));
  EXPECT_NE(failure_of(fetch("meta")).find("is not what the package lists say (SHA-256)"),
            std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(cache()));
}

TEST_F(FakeApt, WithoutPackageListsTheLastOneIsTaken) {
  ASSERT_TRUE(fetch("meta"));
  script("apt-cache", "echo 'E: No packages found' >&2; exit 100\n");
  const auto fetched = fetch("meta");
  ASSERT_TRUE(fetched) << fetched.error().message;
  EXPECT_EQ(fetched->name, "linux-image-6.1.0-1");
  EXPECT_EQ(fetched->version, "6.1.1-1");
  EXPECT_EQ(*read_file(fetched->path), kContent);
}

TEST_F(FakeApt, AnotherPackageThanTheOneAskedForIsNeverTaken) {
  ASSERT_TRUE(fetch("meta"));
  EXPECT_NE(failure_of(fetch("linux-image-9.9")).find("E: No packages found"), std::string::npos);
  EXPECT_NE(failure_of(fetch("--help")).find("no package name"), std::string::npos);
}

TEST_F(FakeApt, FailedDownloadSaysWhatAptSaid) {
  script("apt-get", "echo 'E: Unable to fetch some archives' >&2; exit 100\n");
  const std::string message = failure_of(fetch("meta"));
  EXPECT_NE(message.find("run `apt-get`: it ended with code 100: E: Unable to fetch some archives"),
            std::string::npos)
      << message;
}

TEST_F(FakeApt, ToolsThatAreMissingOrSlow) {
  ToolRun run;
  run.argv = {"no-such-program-anywhere"};
  EXPECT_EQ(run_tool(run).error().message,
            "run `no-such-program-anywhere`: there is no such program in PATH");
  script("slow", "exec sleep 100\n");
  run.argv = {"slow"};
  run.timeout_ms = 300;
  EXPECT_EQ(run_tool(run).error().kind, ErrorKind::kDeadlineExceeded);
  script("speak", "echo out; echo err >&2\n");
  run.argv = {"speak"};
  run.timeout_ms = 60'000;
  EXPECT_EQ(*run_tool(run), "out\n");
}

}  // namespace
}  // namespace kiln::runtime
