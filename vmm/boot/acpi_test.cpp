// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/acpi.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>

#include "base/file.h"
#include "base/format.h"
#include "vmm/boot/aml.h"
#include "vmm/kvm/layout.h"
#include "vmm/memory/guest_ram.h"

namespace kiln::vmm {
namespace {

std::string tables_of(const AcpiConfig& config) {
  const auto bytes = build_acpi(config);
  EXPECT_TRUE(bytes) << bytes.error().message;
  return {reinterpret_cast<const char*>(bytes->data()), bytes->size()};
}

template <typename T>
T number(const std::string& bytes, size_t offset) {
  T out{};
  std::memcpy(&out, bytes.substr(offset, sizeof out).data(), sizeof out);
  return out;
}

uint8_t sum(const std::string& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), uint8_t{0}, [](uint8_t total, char byte) {
    return static_cast<uint8_t>(total + static_cast<uint8_t>(byte));
  });
}

std::string table_at(const std::string& tables, uint64_t address) {
  const auto offset = static_cast<size_t>(address - layout::kAcpi);
  return tables.substr(offset, number<uint32_t>(tables, offset + 4));
}

// A table that the XSDT names, or the DSDT that the FADT names.
std::string find_table(const std::string& tables, const std::string& signature) {
  const std::string xsdt = table_at(tables, number<uint64_t>(tables, 24));
  for (size_t at = 36; at < xsdt.size(); at += 8) {
    std::string table = table_at(tables, number<uint64_t>(xsdt, at));
    if (table.starts_with(signature)) return table;
    if (signature == "DSDT" && table.starts_with("FACP"))
      return table_at(tables, number<uint64_t>(table, 140));
  }
  return {};
}

TEST(Acpi, RsdpLeadsToTheOtherTables) {
  const std::string tables = tables_of({2, 3, false});
  EXPECT_TRUE(tables.starts_with("RSD PTR "));
  EXPECT_EQ(tables[15], 2);  // revision
  EXPECT_EQ(number<uint32_t>(tables, 20), 36U);
  EXPECT_EQ(sum(tables.substr(0, 20)), 0);
  EXPECT_EQ(sum(tables.substr(0, 36)), 0);
  const std::string xsdt = table_at(tables, number<uint64_t>(tables, 24));
  EXPECT_TRUE(xsdt.starts_with("XSDT"));
  EXPECT_EQ(xsdt.size(), 36U + 2 * 8);
  EXPECT_EQ(sum(xsdt), 0);
}

TEST(Acpi, TablesHaveTheirLengthAndSum) {
  const std::string tables = tables_of({64, layout::kMaxSlots, true});
  for (const char* signature : {"FACP", "APIC", "DSDT"}) {
    const std::string table = find_table(tables, signature);
    EXPECT_TRUE(table.starts_with(signature));
    EXPECT_EQ(table.size(), number<uint32_t>(table, 4));
    EXPECT_EQ(sum(table), 0) << signature;
  }
}

TEST(Acpi, FadtDescribesAHardwareReducedMachine) {
  const std::string tables = tables_of({1, 0, false});
  const std::string fadt = find_table(tables, "FACP");
  EXPECT_EQ(fadt.size(), 276U);
  EXPECT_EQ(fadt[8], 6);    // revision
  EXPECT_EQ(fadt[131], 5);  // minor
  EXPECT_EQ(number<uint32_t>(fadt, 40), number<uint64_t>(fadt, 140));
  const auto flags = number<uint32_t>(fadt, 112);
  EXPECT_TRUE(flags & 1U << 20);  // HW_REDUCED_ACPI
  EXPECT_TRUE(flags & 1U << 10);  // RESET_REG_SUP
  EXPECT_EQ(number<uint16_t>(fadt, 109), 0x3c);
  EXPECT_EQ(fadt.substr(116, 4), std::string("\1\x8\0\1", 4));  // RESET_REG: a byte of I/O space
  EXPECT_EQ(number<uint64_t>(fadt, 120), layout::kResetPort);
  EXPECT_EQ(fadt[128], layout::kResetValue);
  EXPECT_EQ(fadt.substr(244, 4), std::string("\1\x8\0\1", 4));
  EXPECT_EQ(number<uint64_t>(fadt, 248), layout::kSleepControlPort);
  EXPECT_EQ(fadt.substr(256, 4), std::string("\1\x8\0\1", 4));
  EXPECT_EQ(number<uint64_t>(fadt, 260), layout::kSleepStatusPort);
  EXPECT_EQ(fadt.substr(268), "KILNVMM ");
}

TEST(Acpi, MadtListsEveryCpuAndTheIoApic) {
  const std::string tables = tables_of({3, 0, false});
  const std::string madt = find_table(tables, "APIC");
  ASSERT_EQ(madt.size(), 44U + 3 * 8 + 12);
  EXPECT_EQ(number<uint32_t>(madt, 36), layout::kLapic);
  EXPECT_EQ(madt.substr(44 + 2 * 8, 8), std::string("\0\x8\2\2\1\0\0\0", 8));
  EXPECT_EQ(madt.substr(44 + 3 * 8, 4), std::string("\1\xc\0\0", 4));
  EXPECT_EQ(number<uint32_t>(madt, 44 + 3 * 8 + 4), layout::kIoapic);
  EXPECT_EQ(number<uint32_t>(madt, 44 + 3 * 8 + 8), 0U);
}

TEST(Acpi, RefusesMachinesThatItCannotDescribe) {
  EXPECT_EQ(build_acpi({0, 1, false}).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(build_acpi({256, 1, false}).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(build_acpi({1, layout::kMaxSlots + 1, false}).error().kind,
            ErrorKind::kInvalidArgument);
  EXPECT_TRUE(build_acpi({255, layout::kMaxSlots, true}));
}

TEST(Acpi, LiesInMemoryWhereTheAddressesSay) {
  GuestMemory memory;
  ASSERT_TRUE(map_ram(memory, {64}));
  const auto rsdp = write_acpi(memory, {2, 3, true});
  ASSERT_TRUE(rsdp);
  EXPECT_EQ(*rsdp, layout::kAcpi);
  const std::string expected = tables_of({2, 3, true});
  std::string found(expected.size(), '\0');
  ASSERT_TRUE(memory.read(*rsdp, std::as_writable_bytes(std::span(found.data(), found.size()))));
  EXPECT_EQ(found, expected);
}

TEST(Acpi, WantsMemoryForTheTables) {
  GuestMemory memory;
  EXPECT_EQ(write_acpi(memory, {2, 3, true}).error().kind, ErrorKind::kOutOfRange);
}

std::string hex(const aml::Bytes& bytes) {
  std::string out;
  for (const std::byte byte : bytes) out += format("{:02x}", std::to_integer<unsigned>(byte));
  return out;
}

TEST(Aml, NumbersTakeTheShortestForm) {
  EXPECT_EQ(hex(aml::integer(0)), "00");
  EXPECT_EQ(hex(aml::integer(1)), "01");
  EXPECT_EQ(hex(aml::integer(0xff)), "0aff");
  EXPECT_EQ(hex(aml::integer(0x100)), "0b0001");
  EXPECT_EQ(hex(aml::integer(0x10000)), "0c00000100");
  EXPECT_EQ(hex(aml::integer(0x100000000)), "0e0000000001000000");
}

TEST(Aml, LengthsCountThemselves) {
  const auto device_of = [](size_t size) {
    return aml::device("DEV0", aml::Bytes(size, std::byte{}));
  };
  EXPECT_EQ(hex(device_of(58)).substr(4, 2), "3f");  // 58 + 4 + 1: the last that fits a byte
  EXPECT_EQ(hex(device_of(59)).substr(4, 4), "4104");
  EXPECT_EQ(hex(device_of(4095 - 6)).substr(4, 4), "4fff");
  EXPECT_EQ(hex(device_of(4096 - 6)).substr(4, 6), "810001");
}

TEST(Aml, EisaIdIsPacked) { EXPECT_EQ(hex(aml::eisa_id("PNP0501")), "0c41d00501"); }

// The reference compiler of ACPI, where it is installed.
class Iasl : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access("/usr/bin/iasl", X_OK) != 0) GTEST_SKIP() << "acpica-tools is not installed";
    std::string name = std::filesystem::temp_directory_path() / "kiln-acpi-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override {
    std::error_code ignored;
    if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
  }
  // The output of iasl, run in the directory.
  std::string iasl(const std::string& arguments) {
    const std::string command =
        "cd " + directory_ + " && /usr/bin/iasl " + arguments + " > log 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0);  // NOLINT(cert-env33-c): a path of our own
    return read_file(directory_ + "/log").value_or("");
  }
  void write_table(const std::string& name, const std::string& bytes) {
    std::ofstream(directory_ + "/" + name, std::ios::binary) << bytes;
  }
  std::string directory_;
};

TEST_F(Iasl, MakesTheSameDsdtOfItsDisassembly) {
  for (const AcpiConfig& config :
       {AcpiConfig{1, 0, false}, AcpiConfig{1, 1, true}, AcpiConfig{4, layout::kMaxSlots, true}}) {
    const std::string dsdt = find_table(tables_of(config), "DSDT");
    write_table("dsdt.dat", dsdt);
    iasl("-d dsdt.dat");
    EXPECT_NE(iasl("-p again dsdt.dsl").find(" 0 Errors, 0 Warnings"), std::string::npos);
    const std::string again = read_file(directory_ + "/again.aml").value_or("");
    // But for the name of the compiler and the sum.
    EXPECT_EQ(again.substr(0, 9), dsdt.substr(0, 9));
    EXPECT_EQ(again.substr(36), dsdt.substr(36));
  }
}

TEST_F(Iasl, ReadsTheSlotsOfTheDsdt) {
  write_table("dsdt.dat", find_table(tables_of({1, 2, true}), "DSDT"));
  iasl("-d dsdt.dat");
  const std::string source = read_file(directory_ + "/dsdt.dsl").value_or("");
  const std::string gsi = format("0x{:08X}", layout::slot_gsi(1));
  for (const std::string& expected : std::initializer_list<std::string>{
           "Device (V001)", "\"LNRO0005\"", "0xD0001000", "0x00001000", "EisaId (\"PNP0501\")",
           "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )", gsi, "IO (Decode16",
           "0x03F8", "Name (_S5, Package (0x02)"})
    EXPECT_NE(source.find(expected), std::string::npos) << expected;
  EXPECT_EQ(source.find("Device (V002)"), std::string::npos);
}

TEST_F(Iasl, MakesTheSameTablesOfTheirDisassembly) {
  const std::string tables = tables_of({3, 2, true});
  for (const char* signature : {"FACP", "APIC"}) {
    const std::string table = find_table(tables, signature);
    write_table("table.dat", table);
    iasl("-d table.dat");
    EXPECT_NE(iasl("-p again table.dsl").find(" 0 Errors"), std::string::npos);
    const std::string again = read_file(directory_ + "/again.aml").value_or("");
    EXPECT_EQ(again.substr(36), table.substr(36)) << signature;
  }
}

}  // namespace
}  // namespace kiln::vmm
