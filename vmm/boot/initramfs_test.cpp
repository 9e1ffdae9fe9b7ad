// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/initramfs.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/fake_elf.h"
#include "vmm/memory/guest_ram.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMib = 1U << 20;

std::string text_at(const GuestMemory& memory, uint64_t address, size_t size) {
  std::string out(size, '\0');
  EXPECT_TRUE(memory.read(address, std::as_writable_bytes(std::span(out.data(), size))));
  return out;
}

TEST(Initramfs, LiesInTheLastPagesOfMemory) {
  const std::string content(2 * kPage + 10, 'i');
  const UniqueFd file = file_of(content);
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  const auto initramfs = load_initramfs(file.get(), memory, 16 * kMib);
  ASSERT_TRUE(initramfs) << initramfs.error().message;
  EXPECT_EQ(initramfs->address, 64 * kMib - 3 * kPage);
  EXPECT_EQ(initramfs->size, content.size());
  EXPECT_EQ(initramfs->placed.mapped, 2 * kPage);
  EXPECT_EQ(text_at(memory, initramfs->address, content.size()), content);
}

TEST(Initramfs, IsCopiedIntoSharedMemory) {
  const std::string content(2 * kPage, 'i');
  const UniqueFd file = file_of(content);
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64, RamOptions::Backing::kMemfd}));
  const auto initramfs = load_initramfs(file.get(), memory, 16 * kMib);
  ASSERT_TRUE(initramfs) << initramfs.error().message;
  EXPECT_EQ(initramfs->placed.mapped, 0U);
  std::string shared(content.size(), '\0');
  ASSERT_EQ(pread(memory.regions()[0].fd, shared.data(), shared.size(),
                  static_cast<off_t>(initramfs->address)),
            static_cast<ssize_t>(shared.size()));
  EXPECT_EQ(shared, content);
}

TEST(Initramfs, LiesBelowTheHoleOfALargeMachine) {
  const UniqueFd file = file_of(std::string(kPage, 'i'));
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {4096}));
  EXPECT_EQ(load_initramfs(file.get(), memory, 16 * kMib)->address, 0xc000'0000 - kPage);
}

TEST(Initramfs, FitsExactlyBehindTheKernel) {
  const UniqueFd file = file_of(std::string(kPage + 1, 'i'));
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  EXPECT_EQ(load_initramfs(file.get(), memory, 64 * kMib - 2 * kPage)->address,
            64 * kMib - 2 * kPage);
  EXPECT_EQ(load_initramfs(file.get(), memory, 64 * kMib - 2 * kPage + 1).error().kind,
            ErrorKind::kOutOfRange);
  EXPECT_EQ(load_initramfs(file.get(), memory, UINT64_MAX).error().kind, ErrorKind::kOutOfRange);
}

TEST(Initramfs, MustBeAFileWithContent) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  const UniqueFd empty = file_of("");
  EXPECT_EQ(load_initramfs(empty.get(), memory, 0).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_FALSE(load_initramfs(-1, memory, 0));
}

}  // namespace
}  // namespace kiln::vmm
