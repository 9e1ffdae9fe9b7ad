// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/kernel_image.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <asm/bootparam.h>
#include <array>
#include <cstddef>
#include <string>

#include "tests/support/fake_elf.h"
#include "vmm/memory/guest_ram.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kBase = 0x100'0000;  // guest-physical, of the good kernel
constexpr uint64_t kText = 0x1000;      // offsets in the file: 4 pages of text, 24 of constants,
constexpr uint64_t kConstants = 0x5000;
constexpr uint64_t kData = 0x1d000;  // 2 pages and a bit of data
constexpr uint64_t kDataSize = 2 * kPage + 100;

std::string pattern(size_t size, char first) {
  std::string out(size, first);
  for (size_t i = 0; i < size; i += 8) out[i] = static_cast<char>(1 + i / kPage);
  return out;
}

// Code and constants in one segment, data with bss in another.
FakeElf good_kernel() {
  FakeElf elf;
  elf.put(kText, pattern(kConstants - kText, 't'));
  elf.put(kConstants, pattern(kData - kConstants, 'c'));
  elf.put(kData, pattern(kDataSize, 'd'));
  elf.add_load(kText, kBase, kData - kText, kData - kText);
  elf.add_load(kData, kBase + 0x10'0000, kDataSize, 0x8000);
  elf.add_entry(kBase + 0x40);
  elf.add_section(".text", kText, kConstants - kText - 8);  // ends within a page
  elf.add_section(".rodata", kConstants, kData - kConstants);
  elf.add_section(".data", kData, kDataSize);
  return elf;
}

GuestMemory& ram(GuestMemory& memory, RamOptions::Backing backing) {
  EXPECT_TRUE(map_ram(memory, {64, backing}));
  return memory;
}

std::string text_at(const GuestMemory& memory, uint64_t address, size_t size) {
  std::string out(size, '\0');
  EXPECT_TRUE(memory.read(address, std::as_writable_bytes(std::span(out.data(), size))));
  return out;
}

std::string shared_text_at(const GuestMemory& memory, uint64_t address, size_t size) {
  std::string out(size, '\0');
  EXPECT_EQ(pread(memory.regions()[0].fd, out.data(), size, static_cast<off_t>(address)),
            static_cast<ssize_t>(size));
  return out;
}

void expect_good_kernel(const GuestMemory& memory, const std::string& file) {
  EXPECT_EQ(text_at(memory, kBase, kData - kText), file.substr(kText, kData - kText));
  EXPECT_EQ(text_at(memory, kBase + 0x10'0000, kDataSize), file.substr(kData, kDataSize));
  EXPECT_EQ(text_at(memory, kBase + 0x10'0000 + kDataSize, 0x8000 - kDataSize),
            std::string(0x8000 - kDataSize, '\0'));
}

std::string error_of(FakeElf& elf) {
  const UniqueFd file = elf.file();
  const auto image = KernelImage::read(file.get());
  return image ? std::string("none") : image.error().message;
}

TEST(KernelImage, TellsEntryAndExtent) {
  FakeElf elf = good_kernel();
  const UniqueFd file = elf.file();
  const auto image = KernelImage::read(file.get());
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ(image->entry(), kBase + 0x40);
  EXPECT_EQ(image->start(), kBase);
  EXPECT_EQ(image->end(), kBase + 0x10'8000);
}

TEST(KernelImage, FindsTheEntryBehindOtherNotesWhateverItsSize) {
  FakeElf elf = good_kernel();
  Elf64_Phdr& notes = elf.programs[2];
  const uint32_t other[] = {4, 3, 1, 0x554e47, 0x636261};  // "GNU", 3 bytes and their padding
  const uint32_t entry[] = {4, 8, 18, 0x6e6558, kBase + 0x80, 0};
  elf.put(FakeElf::kNotes, {reinterpret_cast<const char*>(other), sizeof other});
  elf.put(FakeElf::kNotes + sizeof other, {reinterpret_cast<const char*>(entry), sizeof entry});
  notes.p_filesz = sizeof other + sizeof entry;
  const UniqueFd file = elf.file();
  const auto image = KernelImage::read(file.get());
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ(image->entry(), kBase + 0x80);
}

TEST(KernelImage, MapsSegmentsOfPrivateMemory) {
  FakeElf elf = good_kernel();
  const UniqueFd file = elf.file();
  const std::string content = elf.bytes();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  const auto placed = image->load(ram(memory, RamOptions::Backing::kAnonymous));
  ASSERT_TRUE(placed) << placed.error().message;
  EXPECT_EQ(placed->mapped, kData - kText + 2 * kPage);
  EXPECT_EQ(placed->copied, 100U);  // of the last page, behind which the bss begins
  expect_good_kernel(memory, content);
}

TEST(KernelImage, CopiesEverythingOnRequest) {
  FakeElf elf = good_kernel();
  const UniqueFd file = elf.file();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  const auto placed =
      image->load(ram(memory, RamOptions::Backing::kAnonymous), KernelMapping::kNone);
  ASSERT_TRUE(placed) << placed.error().message;
  EXPECT_EQ(placed->mapped, 0U);
  EXPECT_EQ(placed->copied, kData - kText + kDataSize);
  expect_good_kernel(memory, elf.bytes());
}

TEST(KernelImage, WritesOfTheGuestDoNotReachTheFile) {
  FakeElf elf = good_kernel();
  const UniqueFd file = elf.file();
  const std::string content = elf.bytes();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  ASSERT_TRUE(image->load(ram(memory, RamOptions::Backing::kAnonymous)));
  ASSERT_TRUE(memory.write_object(kBase, uint64_t{0}));
  std::string now(content.size(), '\0');
  ASSERT_EQ(pread(file.get(), now.data(), now.size(), 0), static_cast<ssize_t>(now.size()));
  EXPECT_EQ(now, content);
}

TEST(KernelImage, MapsOnlyCodeAndConstantsOfSharedMemory) {
  FakeElf elf = good_kernel();
  const UniqueFd file = elf.file();
  const std::string content = elf.bytes();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  const auto placed = image->load(ram(memory, RamOptions::Backing::kMemfd));
  ASSERT_TRUE(placed) << placed.error().message;
  expect_good_kernel(memory, content);
  // The last page of .text is not whole: Linux may free what is behind it.
  EXPECT_EQ(placed->mapped, 3 * kPage + (kData - kConstants));
  EXPECT_EQ(placed->copied, kPage + kDataSize);
  EXPECT_EQ(shared_text_at(memory, kBase + 3 * kPage, kPage),
            content.substr(kConstants - kPage, kPage));
  EXPECT_EQ(shared_text_at(memory, kBase + 0x10'0000, kDataSize), content.substr(kData, kDataSize));
  EXPECT_EQ(shared_text_at(memory, kBase, 3 * kPage), std::string(3 * kPage, '\0'));
}

TEST(KernelImage, CopiesTheVdsoOfSharedMemory) {
  constexpr uint64_t kVdso = kConstants + 2 * kPage;
  constexpr uint64_t kVdsoRoom = 16 * kPage;
  FakeElf elf = good_kernel();
  elf.put(kVdso, ELFMAG);
  const UniqueFd file = elf.file();
  const std::string content = elf.bytes();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  const auto placed = image->load(ram(memory, RamOptions::Backing::kMemfd));
  ASSERT_TRUE(placed) << placed.error().message;
  expect_good_kernel(memory, content);
  EXPECT_EQ(placed->mapped, 3 * kPage + (kData - kConstants) - kVdsoRoom);
  EXPECT_EQ(shared_text_at(memory, kBase + kVdso - kText, kVdsoRoom),
            content.substr(kVdso, kVdsoRoom));
}

TEST(KernelImage, CopiesTheVdsoAtTheEndOfTheConstants) {
  constexpr uint64_t kVdso = kData - kPage;
  FakeElf elf = good_kernel();
  elf.put(kVdso, ELFMAG);
  const UniqueFd file = elf.file();
  const std::string content = elf.bytes();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  ASSERT_TRUE(image->load(ram(memory, RamOptions::Backing::kMemfd)));
  expect_good_kernel(memory, content);
  EXPECT_EQ(shared_text_at(memory, kBase + kVdso - kText, kPage), content.substr(kVdso, kPage));
}

class NothingMapped : public ::testing::Test {
 protected:
  void TearDown() override {
    const UniqueFd file = elf_.file();
    const auto image = KernelImage::read(file.get());
    ASSERT_TRUE(image) << image.error().message;
    GuestMemory memory;
    const auto placed = image->load(ram(memory, RamOptions::Backing::kMemfd));
    ASSERT_TRUE(placed) << placed.error().message;
    EXPECT_EQ(placed->mapped, 0U);
    expect_good_kernel(memory, elf_.bytes());
  }
  FakeElf elf_ = good_kernel();
};

TEST_F(NothingMapped, WithoutSectionHeaders) {
  elf_.sections.clear();
  elf_.header.e_shoff = 0;
  elf_.header.e_shstrndx = 0;
}
TEST_F(NothingMapped, WhenSectionHeadersArePastTheEnd) { elf_.header.e_shoff = UINT64_MAX - 8; }
TEST_F(NothingMapped, WhenSectionNamesArePastTheEnd) { elf_.sections[1].sh_offset = UINT64_MAX; }
TEST_F(NothingMapped, WhenThereIsNoSuchNameTable) { elf_.header.e_shstrndx = 77; }
TEST_F(NothingMapped, WhenNamesLieOutsideTheirTable) {
  elf_.sections[2].sh_name = elf_.sections[3].sh_name = 0x7fff'ffff;
}
TEST_F(NothingMapped, WhenSectionsArePastTheEnd) {
  elf_.sections[2].sh_size = elf_.sections[3].sh_offset = UINT64_MAX - 4;
}
TEST_F(NothingMapped, WhenSectionsOverlap) { elf_.sections[2].sh_size = kConstants; }
TEST_F(NothingMapped, WhenSectionsAreNotLoaded) {
  elf_.sections[2].sh_flags = elf_.sections[3].sh_flags = 0;
}
TEST_F(NothingMapped, WhenSectionsLieInNoSegment) {
  elf_.sections[2].sh_offset = 0;
  elf_.sections[3].sh_size += kPage;
}

TEST(KernelImage, CopiesWhatIsNotAlignedToPages) {
  FakeElf elf = good_kernel();
  elf.programs[0].p_paddr += 16;
  const UniqueFd file = elf.file();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  const auto placed = image->load(ram(memory, RamOptions::Backing::kAnonymous));
  ASSERT_TRUE(placed) << placed.error().message;
  EXPECT_EQ(placed->mapped, 2 * kPage);
  EXPECT_EQ(text_at(memory, kBase + 16, kData - kText), elf.bytes().substr(kText, kData - kText));
  EXPECT_EQ(text_at(memory, kBase, 16), std::string(16, '\0'));
}

TEST(KernelImage, LeavesPagesOfZeroesUntouched) {
  FakeElf elf = good_kernel();
  elf.put(kText + kPage, std::string(2 * kPage, '\0'));
  elf.put(kData + kPage, std::string(kPage + 100, '\0'));
  const UniqueFd file = elf.file();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  const auto placed = image->load(ram(memory, RamOptions::Backing::kMemfd), KernelMapping::kNone);
  ASSERT_TRUE(placed) << placed.error().message;
  EXPECT_EQ(placed->zero, 3 * kPage + 100);
  EXPECT_EQ(lseek(memory.regions()[0].fd, static_cast<off_t>(kBase + kPage), SEEK_DATA),
            static_cast<off_t>(kBase + 3 * kPage));
  expect_good_kernel(memory, elf.bytes());
}

TEST(KernelImage, LoadsASegmentThatEndsWithTheMemory) {
  FakeElf elf = good_kernel();
  elf.programs[1].p_paddr = (64U << 20) - kDataSize;
  elf.programs[1].p_memsz = kDataSize;
  const UniqueFd file = elf.file();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  const auto placed = image->load(ram(memory, RamOptions::Backing::kAnonymous));
  EXPECT_TRUE(placed) << placed.error().message;
}

TEST(KernelImage, RefusesASegmentOutsideMemory) {
  FakeElf elf = good_kernel();
  elf.programs[1].p_memsz = 64U << 20;
  const UniqueFd file = elf.file();
  const auto image = KernelImage::read(file.get());
  GuestMemory memory;
  EXPECT_EQ(image->load(ram(memory, RamOptions::Backing::kAnonymous)).error().kind,
            ErrorKind::kOutOfRange);
}

TEST(KernelImage, RefusesAFileThatHasShrunk) {
  FakeElf elf = good_kernel();
  const UniqueFd file = elf.file();
  const auto image = KernelImage::read(file.get());
  ASSERT_EQ(ftruncate(file.get(), kData), 0);
  GuestMemory anonymous;
  EXPECT_FALSE(image->load(ram(anonymous, RamOptions::Backing::kAnonymous)));
  GuestMemory shared;
  EXPECT_EQ(image->load(ram(shared, RamOptions::Backing::kMemfd)).error().kind,
            ErrorKind::kDataLoss);
}

TEST(KernelImage, SaysThatABzImageIsToBeUnpacked) {
  setup_header head{};
  head.header = 0x53726448;
  std::string bytes(8192, '\0');
  std::memcpy(bytes.data() + offsetof(boot_params, hdr), &head, sizeof head);
  const UniqueFd file = file_of(bytes);
  const auto image = KernelImage::read(file.get());
  ASSERT_FALSE(image);
  EXPECT_NE(image.error().message.find("bzImage"), std::string::npos);
  EXPECT_NE(image.error().message.find("unpacked"), std::string::npos);
}

TEST(KernelImage, RefusesWhatIsNoElf) {
  for (const std::string& bytes : {std::string(), std::string("\177ELF"), std::string(8192, 'x')}) {
    const UniqueFd file = file_of(bytes);
    EXPECT_EQ(KernelImage::read(file.get()).error().kind, ErrorKind::kInvalidArgument);
  }
}

TEST(KernelImage, RefusesWhatIsNoRegularFile) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  EXPECT_EQ(KernelImage::read(reader.get()).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_FALSE(KernelImage::read(-1));
}

// What is wrong with a kernel, and what the error must say.
struct BadKernel {
  const char* name;
  void (*spoil)(FakeElf&);
  const char* error;
};
class BadKernels : public ::testing::TestWithParam<BadKernel> {};

TEST_P(BadKernels, AreRefused) {
  FakeElf elf = good_kernel();
  ASSERT_EQ(error_of(elf), "none");
  GetParam().spoil(elf);
  EXPECT_NE(error_of(elf).find(GetParam().error), std::string::npos) << error_of(elf);
}

const BadKernel kBadKernels[] = {
    {"32Bit", [](FakeElf& elf) { elf.header.e_ident[EI_CLASS] = ELFCLASS32; }, "x86-64"},
    {"BigEndian", [](FakeElf& elf) { elf.header.e_ident[EI_DATA] = ELFDATA2MSB; }, "x86-64"},
    {"OtherMachine", [](FakeElf& elf) { elf.header.e_machine = EM_AARCH64; }, "x86-64"},
    {"Object", [](FakeElf& elf) { elf.header.e_type = ET_REL; }, "ELF type 1"},
    {"OtherHeaderSize", [](FakeElf& elf) { elf.header.e_phentsize = 32; }, "32 bytes"},
    {"TooManyHeaders", [](FakeElf& elf) { elf.header.e_phnum = 65; }, "65 program headers"},
    {"HeadersPastEnd", [](FakeElf& elf) { elf.header.e_phoff = 1U << 30; }, "truncated"},
    {"HeadersWrap", [](FakeElf& elf) { elf.header.e_phoff = UINT64_MAX - 8; }, "truncated"},
    {"SegmentPastEnd", [](FakeElf& elf) { elf.programs[1].p_offset += kPage; }, "truncated"},
    {"SegmentOffsetWraps", [](FakeElf& elf) { elf.programs[1].p_offset = UINT64_MAX; },
     "truncated"},
    {"LargerInFile", [](FakeElf& elf) { elf.programs[1].p_memsz = kDataSize - 1; },
     "larger in the file"},
    {"BelowOneMib", [](FakeElf& elf) { elf.programs[1].p_paddr = 0xf'f000; }, "below 1 MiB"},
    {"AddressWraps", [](FakeElf& elf) { elf.programs[1].p_paddr = UINT64_MAX - kPage; },
     "wraps around"},
    {"Overlap", [](FakeElf& elf) { elf.programs[1].p_paddr = kBase + kData - kText - 1; },
     "overlap"},
    {"OverlapByBss", [](FakeElf& elf) { elf.programs[1].p_paddr = kBase - 0x7fff; }, "overlap"},
    {"NothingToLoad",
     [](FakeElf& elf) { elf.programs[0].p_type = elf.programs[1].p_type = PT_NULL; }, "no segment"},
    {"NoNotes", [](FakeElf& elf) { elf.programs[2].p_type = PT_NULL; }, "no PVH entry"},
    {"NotesPastEnd", [](FakeElf& elf) { elf.programs[2].p_filesz = 1U << 30; }, "truncated"},
    {"TooManyNotes",
     [](FakeElf& elf) {
       elf.put(0x40000, "x");
       elf.programs[2].p_filesz = KernelImage::kMaxNotes + 1;
     },
     "bytes of notes"},
    {"OtherOwner", [](FakeElf& elf) { elf.put(FakeElf::kNotes + 12, "GNU"); }, "no PVH entry"},
    {"OtherNote", [](FakeElf& elf) { elf.put(FakeElf::kNotes + 8, "\x11"); }, "no PVH entry"},
    {"CutOffNote", [](FakeElf& elf) { elf.programs[2].p_filesz -= 1; }, "no PVH entry"},
    {"HugeNoteName", [](FakeElf& elf) { elf.put(FakeElf::kNotes, "\xff\xff\xff\xff"); },
     "no PVH entry"},
    {"EntryOfTwoBytes", [](FakeElf& elf) { elf.put(FakeElf::kNotes + 4, "\x02"); },
     "no 32-bit address"},
    {"EntryBeyond4Gib",
     [](FakeElf& elf) {
       elf.programs.pop_back();
       elf.add_note(18, std::string_view("\x40\0\0\1\1\0\0\0", 8));
     },
     "no 32-bit address"},
    {"EntryInBss",
     [](FakeElf& elf) {
       elf.programs.pop_back();
       elf.add_entry(kBase + 0x10'0000 + kDataSize);
     },
     "in no segment"},
    {"EntryElsewhere",
     [](FakeElf& elf) {
       elf.programs.pop_back();
       elf.add_entry(kBase - 1);
     },
     "in no segment"},
};
INSTANTIATE_TEST_SUITE_P(KernelImage, BadKernels, ::testing::ValuesIn(kBadKernels),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace kiln::vmm
