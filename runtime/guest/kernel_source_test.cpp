// SPDX-License-Identifier: Apache-2.0
// The way from a source package to a kernel, with a source whose build only copies a file.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/format.h"
#include "base/temporary_directory.h"
#include "runtime/guest/fake_kernel.h"
#include "runtime/guest/kernel_input.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

class SourcePackage : public testing::Test {
 protected:
  void SetUp() override {
    auto directory = TemporaryDirectory::create(testing::TempDir(), "kiln-source-test-");
    ASSERT_TRUE(directory);
    directory_.emplace(std::move(*directory));
    old_path_ = getenv("PATH");
    setenv("PATH", fmt::format("{}/bin:{}", directory_->path(), old_path_).c_str(), 1);
    // A kernel for tests is too little of an ELF file for the real one.
    write("bin/strip", "#!/bin/sh\n[ \"$1 $2\" = '--strip-all -o' ] && cp \"$4\" \"$3\"\n", 0755);
    for (const char* tool : {"flex", "bison", "bc"})
      write(fmt::format("bin/{}", tool), "#!/bin/sh\n", 0755);
    write("linux-source-9.9/prebuilt", fake::good_kernel(), 0644);
    write("linux-source-9.9/scripts/kconfig/merge_config.sh",
          "[ $1 = -n ] && (echo; cat $2; echo CONFIG_MERGED=y) > .config\n", 0644);
  }
  void TearDown() override { setenv("PATH", old_path_.c_str(), 1); }

  void write(const std::string& name, const std::string& content, mode_t mode) const {
    const std::string path = directory_->path() + "/" + name;
    fs::create_directories(fs::path(path).parent_path());
    ASSERT_TRUE(write_file_atomic(path, content, mode));
  }

  Result<void> tool(std::vector<std::string> argv) const {
    ToolRun run;
    run.argv = std::move(argv);
    run.directory = directory_->path();
    TRY(run_tool(run));
    return {};
  }

  // Packs the tree with this Makefile as Debian does.
  FetchedPackage package(const std::string& makefile) const {
    write("linux-source-9.9/Makefile", makefile, 0644);
    write("deb/DEBIAN/control",
          "Package: linux-source-9.9\nVersion: 9.9-1\nArchitecture: all\nMaintainer: a <a@b>\n"
          "Description: x\n",
          0644);
    fs::create_directories(directory_->path() + "/deb/usr/src");
    const auto packed =
        tool({"tar", "-cJf", "deb/usr/src/linux-source-9.9.tar.xz", "linux-source-9.9"});
    EXPECT_TRUE(packed) << packed.error().message;
    const auto built = tool({"dpkg-deb", "--build", "deb", "source.deb"});
    EXPECT_TRUE(built) << built.error().message;
    return {"linux-source-9.9", "9.9-1", directory_->path() + "/source.deb"};
  }

  std::optional<TemporaryDirectory> directory_;
  std::string old_path_;
};

KernelSource source_with(const std::string& fragment) {
  KernelSource source;
  source.fragment = fragment;
  source.jobs = 3;
  return source;
}

TEST_F(SourcePackage, IsConfiguredBuiltAndStripped) {
  Progress progress(true);
  const FetchedPackage fetched = package("vmlinux:\n\tcp prebuilt vmlinux\n");
  const auto kernel = kernel_from_source(fetched, source_with("CONFIG_PVH=y\n"), progress);
  if (!kernel && kernel.error().message.find("needs more tools") != std::string::npos)
    GTEST_SKIP() << kernel.error().message;
  ASSERT_TRUE(kernel) << kernel.error().message;
  EXPECT_EQ(kernel->image, fake::good_kernel());
  EXPECT_NE(kernel->config.find("CONFIG_PVH=y"), std::string::npos);
  EXPECT_NE(kernel->config.find("CONFIG_MERGED=y"), std::string::npos);
  EXPECT_FALSE(kernel->modules);
}

TEST_F(SourcePackage, FailedCompileSaysWhatTheCompilerSaid) {
  Progress progress(true);
  const FetchedPackage fetched = package("vmlinux:\n\techo broken.c:1: no such thing >&2; false\n");
  const auto kernel = kernel_from_source(fetched, source_with("CONFIG_PVH=y\n"), progress);
  ASSERT_FALSE(kernel);
  if (kernel.error().message.find("needs more tools") != std::string::npos)
    GTEST_SKIP() << kernel.error().message;
  EXPECT_NE(kernel.error().message.find("build the kernel: run `make`: it ended with code 2"),
            std::string::npos)
      << kernel.error().message;
  EXPECT_NE(kernel.error().message.find("broken.c:1: no such thing"), std::string::npos);
}

}  // namespace
}  // namespace kiln::runtime
