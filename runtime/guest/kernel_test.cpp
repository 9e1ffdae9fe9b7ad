// SPDX-License-Identifier: Apache-2.0
// From packed kernel files to what is known of them.
#include <gtest/gtest.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "runtime/guest/bzimage.h"
#include "runtime/guest/decompress.h"
#include "runtime/guest/elf.h"
#include "runtime/guest/fake_kernel.h"
#include "runtime/guest/kernel_options.h"
#include "runtime/guest/sha256.h"

namespace kiln::runtime {
namespace {

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 1, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string xz(const std::string& text) {
  std::string out(text.size() + 4096, '\0');
  size_t size = 0;
  lzma_easy_buffer_encode(0, LZMA_CHECK_CRC32, nullptr,
                          reinterpret_cast<const uint8_t*>(text.data()), text.size(),
                          reinterpret_cast<uint8_t*>(out.data()), &size, out.size());
  out.resize(size);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

// As `lz4 -l` does, and the kernel's build appends the unpacked size.
std::string lz4_legacy(const std::string& text, bool with_size = true) {
  constexpr size_t kBlock = size_t{8} << 20;
  std::string out("\x02\x21\x4c\x18", 4);
  for (size_t at = 0; at < text.size(); at += kBlock) {
    const std::string block = text.substr(at, kBlock);
    std::string packed(static_cast<size_t>(LZ4_compressBound(static_cast<int>(block.size()))),
                       '\0');
    const int size =
        LZ4_compress_default(block.data(), packed.data(), static_cast<int>(block.size()),
                             static_cast<int>(packed.size()));
    fake::append(out, static_cast<uint32_t>(size));
    out.append(packed, 0, static_cast<size_t>(size));
  }
  if (with_size) fake::append(out, static_cast<uint32_t>(text.size()));
  return out;
}

struct Packer {
  const char* name;
  Compression compression;
  std::string (*pack)(const std::string&);
};
const Packer kPackers[] = {
    {"gzip", Compression::kGzip, gzip},
    {"xz", Compression::kXz, xz},
    {"zstd", Compression::kZstd, zstd},
    {"lz4", Compression::kLz4Legacy, [](const std::string& text) { return lz4_legacy(text); }},
};

// Long enough for several chunks of output, and neither constant nor random.
std::string long_text(size_t size = size_t{5} << 19) {
  std::string out;
  for (size_t i = 0; out.size() < size; ++i) out += std::to_string(i * i);
  return out;
}

class Unpack : public testing::TestWithParam<Packer> {};

TEST_P(Unpack, GivesBackWhatWasPacked) {
  const std::string text = long_text();
  const std::string packed = GetParam().pack(text);
  EXPECT_EQ(detect_compression(as_bytes(packed)), GetParam().compression);
  EXPECT_EQ(compression_name(GetParam().compression), GetParam().name);
  const auto unpacked = decompress(GetParam().compression, as_bytes(packed), size_t{64} << 20);
  ASSERT_TRUE(unpacked) << unpacked.error().message;
  EXPECT_EQ(*unpacked, text);
}

TEST_P(Unpack, CutOffAnywhereIsAnError) {
  const std::string packed = GetParam().pack(long_text().substr(0, 5000));
  // The last bytes are the appended size in lz4, whose absence is no damage.
  const size_t end = packed.size() - (GetParam().compression == Compression::kLz4Legacy ? 5 : 1);
  for (size_t size = 0; size <= end; size += 1 + size / 16) {
    const auto unpacked =
        decompress(GetParam().compression, as_bytes(packed).first(size), size_t{64} << 20);
    ASSERT_FALSE(unpacked) << size;
    EXPECT_EQ(unpacked.error().kind, ErrorKind::kDataLoss) << size;
  }
}

TEST_P(Unpack, DamageIsAnErrorOrHarmless) {
  const std::string packed = GetParam().pack(long_text().substr(0, 5000));
  for (size_t at = 0; at < packed.size(); at += 7) {
    std::string damaged = packed;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
    const auto unpacked = decompress(GetParam().compression, as_bytes(damaged), size_t{64} << 20);
    if (!unpacked) {
      EXPECT_NE(unpacked.error().message, "");
    }
  }
}

TEST_P(Unpack, NeverExceedsTheLimit) {
  const std::string packed = GetParam().pack(long_text());
  const auto unpacked = decompress(GetParam().compression, as_bytes(packed), 1U << 20);
  ASSERT_FALSE(unpacked);
  EXPECT_EQ(unpacked.error().kind, ErrorKind::kOutOfRange);
}

TEST_P(Unpack, KernelInABzImage) {
  const auto kernel = unpack_kernel(as_bytes(fake::bzimage(GetParam().pack(fake::good_kernel()))));
  ASSERT_TRUE(kernel) << kernel.error().message;
  EXPECT_EQ(kernel->elf, fake::good_kernel());
  EXPECT_EQ(kernel->compression, GetParam().name);
}

INSTANTIATE_TEST_SUITE_P(All, Unpack, testing::ValuesIn(kPackers),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Lz4Legacy, SeveralBlocksWithoutTheAppendedSize) {
  const std::string text = long_text(size_t{9} << 20);
  const auto unpacked =
      decompress(Compression::kLz4Legacy, as_bytes(lz4_legacy(text, false)), size_t{64} << 20);
  ASSERT_TRUE(unpacked) << unpacked.error().message;
  EXPECT_EQ(*unpacked, text);
}

std::string failure_of(const std::string& image) {
  const auto kernel = unpack_kernel(as_bytes(image));
  return kernel ? "no error" : kernel.error().message;
}

TEST(BzImage, UncompressedPayloadIsTaken) {
  EXPECT_TRUE(unpack_kernel(as_bytes(fake::bzimage(fake::good_kernel()))));
  const auto elf = unpack_kernel(as_bytes(fake::good_kernel()));
  ASSERT_TRUE(elf);
  EXPECT_EQ(elf->compression, "none");
}

TEST(BzImage, CutOffAnywhereIsTruncated) {
  const std::string whole = fake::bzimage(lz4_legacy(fake::good_kernel()));
  for (const size_t size : {size_t{0}, size_t{1}, size_t{0x1f1}, size_t{600}, size_t{1024},
                            size_t{1087}, size_t{1100}, whole.size() - 1})
    EXPECT_EQ(failure_of(whole.substr(0, size)), "truncated kernel image") << size;
}

TEST(BzImage, CutOffElfIsTruncated) {
  const std::string whole = fake::good_kernel();
  for (const size_t size : {size_t{5}, size_t{63}, size_t{100}, size_t{200}, whole.size() - 1})
    EXPECT_EQ(failure_of(whole.substr(0, size)), "truncated kernel image") << size;
}

TEST(BzImage, WhatIsNoKernelIsRefused) {
  EXPECT_EQ(failure_of(std::string(4096, 'x')), "neither a bzImage nor an ELF kernel");
  EXPECT_EQ(failure_of(fake::bzimage("", 0x020f)), "the bzImage has no payload");
  EXPECT_EQ(
      failure_of(fake::bzimage("BZh9 something", 0x020f)),
      "the kernel is compressed in a way that is not known here (gzip, xz, zstd and lz4 are)");
  EXPECT_EQ(failure_of(fake::bzimage("x", 0x0207)),
            "boot protocol 2.07 is too old: its kernel cannot be unpacked");
  EXPECT_EQ(failure_of(fake::kernel(fake::note("Xen", 5, "abcd"), "Linux version 6.1.0")),
            "the kernel has no PVH entry point (CONFIG_PVH is needed)");
  EXPECT_EQ(failure_of(fake::kernel("", "Linux version 6.1.0")),
            "the kernel has no PVH entry point (CONFIG_PVH is needed)");
}

// payload_offset + payload_length in 32 bits would wrap round into the file.
TEST(BzImage, PayloadBeyondTheFileIsTruncated) {
  std::string image = fake::bzimage(fake::good_kernel());
  const uint32_t offset = 0xffffffc0;
  std::memcpy(image.data() + offsetof(boot_params, hdr.payload_offset), &offset, sizeof(offset));
  EXPECT_EQ(failure_of(image), "truncated kernel image");
}

TEST(Elf, PvhEntryIsTheNotesAddress) {
  const std::string kernel = fake::kernel(fake::pvh_note(0x1234560), "");
  const auto elf = ElfFile::parse(as_bytes(kernel), kernel.size());
  ASSERT_TRUE(elf);
  EXPECT_EQ(*elf->pvh_entry(), 0x1234560U);
}

TEST(Elf, NoteLongerThanItsSegmentIsAnError) {
  std::string notes = fake::pvh_note();
  const uint32_t size = 0xfffffff0;
  std::memcpy(notes.data() + 4, &size, sizeof(size));
  EXPECT_EQ(failure_of(fake::kernel(notes, "")), "an ELF note is longer than its segment");
}

TEST(Elf, OtherMachinesAreRefused) {
  std::string kernel = fake::good_kernel();
  kernel[offsetof(Elf64_Ehdr, e_machine)] = static_cast<char>(EM_AARCH64);
  EXPECT_EQ(failure_of(kernel), "not an ELF file for x86-64");
}

TEST(KernelOptions, ComeFromAConfigFile) {
  const KernelOptions options = parse_kernel_options(
      "# comment\nCONFIG_PVH=y\nCONFIG_FUSE_FS=m\n# CONFIG_PCI is not set\nCONFIG_HZ=250\n"
      "CONFIG_OFF=n\nOTHER=y\nCONFIG_LAST=\"x=y\"");
  EXPECT_EQ(options,
            (KernelOptions{{"PVH", "y"}, {"FUSE_FS", "m"}, {"HZ", "250"}, {"LAST", "\"x=y\""}}));
}

TEST(KernelOptions, EmbeddedConfigIsFoundInAKernel) {
  const std::string elf = fake::good_kernel() + "IKCFG_ST" + gzip("CONFIG_PVH=y\n") + "IKCFG_ED";
  const auto config = embedded_config(elf);
  ASSERT_TRUE(config);
  EXPECT_EQ(*config, "CONFIG_PVH=y\n");
  EXPECT_EQ(*embedded_config(fake::good_kernel()), std::nullopt);
  EXPECT_FALSE(embedded_config("IKCFG_ST\x1f\x8b junk"));
}

KernelOptions complete_options() {
  KernelOptions options;
  const OptionFindings findings = check_kernel_options({});
  for (const auto& [name, value] : findings.found) options[name] = "y";
  return options;
}

TEST(KernelOptions, EverythingBuiltInNeedsNoModules) {
  const OptionFindings findings = check_kernel_options(complete_options());
  EXPECT_TRUE(findings.missing.empty());
  EXPECT_TRUE(findings.recommended.empty());
  EXPECT_TRUE(findings.modules.empty());
}

TEST(KernelOptions, ModulesAreToBeLoadedOrMissing) {
  KernelOptions options = complete_options();
  options["VIRTIO_MMIO"] = options["OVERLAY_FS"] = "m";
  options["PVH"] = "m";
  const OptionFindings findings = check_kernel_options(options);
  EXPECT_EQ(findings.modules, (std::vector<std::string>{"virtio_mmio", "overlay"}));
  EXPECT_EQ(findings.missing, std::vector<std::string>{"CONFIG_PVH"});
}

TEST(KernelOptions, DevicesAreFoundByAcpiOrTheCommandLine) {
  KernelOptions options = complete_options();
  options.erase("ACPI");
  EXPECT_TRUE(check_kernel_options(options).missing.empty());
  options.erase("VIRTIO_MMIO_CMDLINE_DEVICES");
  EXPECT_EQ(check_kernel_options(options).missing, std::vector<std::string>{"CONFIG_ACPI"});
}

TEST(KernelOptions, WhatOnlySomeContainersNeedIsRecommended) {
  KernelOptions options = complete_options();
  options.erase("CGROUP_BPF");
  const OptionFindings findings = check_kernel_options(options);
  EXPECT_TRUE(findings.missing.empty());
  ASSERT_EQ(findings.recommended.size(), 1U);
  EXPECT_EQ(findings.recommended[0], "CONFIG_CGROUP_BPF (needed for linux.resources.devices)");
}

// FIPS 180-2's example.
TEST(Sha256, OfAbc) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace kiln::runtime
