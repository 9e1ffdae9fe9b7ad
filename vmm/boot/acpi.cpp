// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/acpi.h"

#include <array>
#include <cstring>
#include <numeric>
#include <string_view>

#include "base/bytes.h"
#include "base/format.h"
#include "vmm/boot/aml.h"
#include "vmm/kvm/layout.h"

namespace kiln::vmm {
namespace {

using aml::Bytes;
template <size_t N>
using Text = std::array<char, N>;

constexpr Text<6> kOemId = {'K', 'I', 'L', 'N', ' ', ' '};
constexpr Text<8> kOemTableId = {'K', 'I', 'L', 'N', 'V', 'M', 'M', ' '};
constexpr Text<4> kCreatorId = {'K', 'I', 'L', 'N'};
constexpr size_t kAlignment = 16;  // the RSDP's (§5.2.5.1); others have none

// All tables: ACPI 6.5, clauses beside them. Fields without a comment of their own are zero.
struct [[gnu::packed]] Rsdp {  // §5.2.5.3
  Text<8> signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '};
  uint8_t checksum = 0;  // of the first 20 bytes
  Text<6> oem_id = kOemId;
  uint8_t revision = 2;
  uint32_t rsdt_address = 0;
  uint32_t length = sizeof(Rsdp);
  uint64_t xsdt_address = 0;
  uint8_t extended_checksum = 0;  // of everything
  std::array<uint8_t, 3> reserved{};
};
constexpr size_t kRsdpFirstPart = 20;
static_assert(sizeof(Rsdp) == 36);

struct [[gnu::packed]] Header {  // §5.2.6
  Text<4> signature;
  uint32_t length = 0;
  uint8_t revision;
  uint8_t checksum = 0;
  Text<6> oem_id = kOemId;
  Text<8> oem_table_id = kOemTableId;
  uint32_t oem_revision = 1;
  Text<4> creator_id = kCreatorId;
  uint32_t creator_revision = 1;
};
static_assert(sizeof(Header) == 36);

struct [[gnu::packed]] GenericAddress {  // §5.2.3.2
  uint8_t address_space = 0;
  uint8_t bit_width = 0;
  uint8_t bit_offset = 0;
  uint8_t access_size = 0;
  uint64_t address = 0;
};
static_assert(sizeof(GenericAddress) == 12);

constexpr GenericAddress byte_port(uint16_t port) {
  constexpr uint8_t kSystemIo = 1;
  constexpr uint8_t kByteAccess = 1;
  return {kSystemIo, 8, 0, kByteAccess, port};
}

struct [[gnu::packed]] Fadt {  // §5.2.9
  Header header{.signature = {'F', 'A', 'C', 'P'}, .revision = 6};
  uint32_t firmware_ctrl = 0;
  uint32_t dsdt = 0;
  // From Preferred_PM_Profile to CENTURY: a hardware-reduced machine has nothing of it.
  std::array<uint8_t, 65> fixed_hardware{};
  uint16_t boot_architecture = 0;
  uint8_t reserved = 0;
  uint32_t flags = 0;
  GenericAddress reset_register = byte_port(layout::kResetPort);
  uint8_t reset_value = layout::kResetValue;
  uint16_t arm_boot_architecture = 0;
  uint8_t minor_version = 5;
  uint64_t x_firmware_ctrl = 0;
  uint64_t x_dsdt = 0;
  std::array<uint8_t, 96> x_fixed_hardware{};  // X_PM1a_EVT_BLK to X_GPE1_BLK
  GenericAddress sleep_control = byte_port(layout::kSleepControlPort);
  GenericAddress sleep_status = byte_port(layout::kSleepStatusPort);
  Text<8> hypervisor = kOemTableId;
};
static_assert(offsetof(Fadt, boot_architecture) == 109);
static_assert(offsetof(Fadt, flags) == 112);
static_assert(offsetof(Fadt, x_dsdt) == 140);
static_assert(offsetof(Fadt, sleep_control) == 244);
static_assert(sizeof(Fadt) == 276);

// §5.2.9.3, IAPC_BOOT_ARCH
constexpr uint16_t kLegacyDevices = 1U << 0;
constexpr uint16_t kVgaNotPresent = 1U << 2;
constexpr uint16_t kMsiNotSupported = 1U << 3;
constexpr uint16_t kNoAspm = 1U << 4;
constexpr uint16_t kNoRtc = 1U << 5;
// §5.2.9, fixed feature flags
constexpr uint32_t kWbinvd = 1U << 0;
constexpr uint32_t kProcC1 = 1U << 2;         // hlt works
constexpr uint32_t kNoPowerButton = 1U << 4;  // no fixed one
constexpr uint32_t kNoSleepButton = 1U << 5;
constexpr uint32_t kResetRegister = 1U << 10;
constexpr uint32_t kHeadless = 1U << 12;
constexpr uint32_t kHardwareReduced = 1U << 20;

struct [[gnu::packed]] Madt {  // §5.2.12
  Header header{.signature = {'A', 'P', 'I', 'C'}, .revision = 6};
  uint32_t local_apic_address = layout::kLapic;
  uint32_t flags = 0;  // no PCAT_COMPAT: there are no 8259s
};
static_assert(sizeof(Madt) == 44);

struct [[gnu::packed]] LocalApic {  // §5.2.12.2
  uint8_t type = 0;
  uint8_t length = sizeof(LocalApic);
  uint8_t processor_uid = 0;
  uint8_t apic_id = 0;
  uint32_t flags = 1;  // enabled
};
static_assert(sizeof(LocalApic) == 8);

struct [[gnu::packed]] IoApic {  // §5.2.12.3
  uint8_t type = 1;
  uint8_t length = sizeof(IoApic);
  uint8_t id = 0;
  uint8_t reserved = 0;
  uint32_t address = layout::kIoapic;
  uint32_t first_gsi = 0;
};
static_assert(sizeof(IoApic) == 12);

constexpr unsigned kMaxVcpus = 255;  // xAPIC: id 255 is everyone

template <typename T>
void append(Bytes& out, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

// What makes the bytes' sum zero.
uint8_t checksum(std::span<const std::byte> bytes) {
  const auto add = [](uint8_t sum, std::byte value) {
    return static_cast<uint8_t>(sum + std::to_integer<uint8_t>(value));
  };
  return static_cast<uint8_t>(-std::accumulate(bytes.begin(), bytes.end(), uint8_t{0}, add));
}

// Sets length and checksum of a table that begins with a Header.
Bytes seal(Bytes table) {
  const auto length = static_cast<uint32_t>(table.size());
  std::memcpy(table.data() + offsetof(Header, length), &length, sizeof length);
  table[offsetof(Header, checksum)] = static_cast<std::byte>(checksum(table));
  return table;
}

Bytes virtio_device(unsigned slot) {
  using namespace aml;
  // Linux's virtio_mmio goes by this id; so does QEMU's virt machine.
  return device(
      format("V{:03X}", slot),
      concat({name("_HID", string("LNRO0005")), name("_UID", integer(slot)),
              name("_CRS", resource_template(concat(
                               {memory32_fixed(static_cast<uint32_t>(layout::slot_address(slot)),
                                               static_cast<uint32_t>(layout::kMmioSlotSize)),
                                edge_interrupt(layout::slot_gsi(slot))})))}));
}

Bytes serial_device() {
  using namespace aml;
  constexpr uint8_t kRegisters = 8;
  return device(
      "COM1",
      concat({name("_HID", eisa_id("PNP0501")), name("_UID", integer(0)),
              name("_CRS", resource_template(concat({io_port(layout::kSerialPort, kRegisters),
                                                     edge_interrupt(layout::kSerialGsi)})))}));
}

Bytes dsdt(const AcpiConfig& config) {
  Bytes devices;
  for (unsigned slot = 0; slot < config.slots; ++slot)
    devices = aml::concat({devices, virtio_device(slot)});
  if (config.serial) devices = aml::concat({devices, serial_device()});
  // §7.4.2: SLP_TYP of the one sleep register, and of the second that there is not.
  const Bytes soft_off =
      aml::name("_S5_", aml::package({aml::integer(layout::kSleepTypeS5), aml::integer(0)}));
  Bytes out;
  // Revision 2: integers have 64 bits.
  append(out, Header{.signature = {'D', 'S', 'D', 'T'}, .revision = 2});
  return seal(aml::concat({out, soft_off, aml::scope("_SB_", devices)}));
}

Bytes fadt(const AcpiConfig& config, uint64_t dsdt_address) {
  Fadt table;
  table.dsdt = static_cast<uint32_t>(dsdt_address);
  table.x_dsdt = dsdt_address;
  table.boot_architecture = kVgaNotPresent | kMsiNotSupported | kNoAspm | kNoRtc;
  if (config.serial) table.boot_architecture |= kLegacyDevices;
  table.flags = kWbinvd | kProcC1 | kNoPowerButton | kNoSleepButton | kResetRegister | kHeadless |
                kHardwareReduced;
  Bytes out;
  append(out, table);
  return seal(std::move(out));
}

Bytes madt(const AcpiConfig& config) {
  Bytes out;
  append(out, Madt{});
  for (unsigned i = 0; i < config.vcpus; ++i) {
    LocalApic apic;
    apic.processor_uid = static_cast<uint8_t>(i);
    apic.apic_id = static_cast<uint8_t>(i);
    append(out, apic);
  }
  append(out, IoApic{});
  return seal(std::move(out));
}

Bytes xsdt(const std::vector<uint64_t>& tables) {
  Bytes out;
  append(out, Header{.signature = {'X', 'S', 'D', 'T'}, .revision = 1});
  for (const uint64_t address : tables) append(out, address);
  return seal(std::move(out));
}

}  // namespace

Result<std::vector<std::byte>> build_acpi(const AcpiConfig& config) {
  if (config.vcpus == 0 || config.vcpus > kMaxVcpus)
    return invalid_argument(format("ACPI tables for {} vCPUs", config.vcpus));
  if (config.slots > layout::kMaxSlots)
    return invalid_argument(format("ACPI tables for {} virtio-mmio slots", config.slots));

  Bytes out(sizeof(Rsdp));
  const auto place = [&out](const Bytes& table) {
    out.resize((out.size() + kAlignment - 1) & ~(kAlignment - 1));
    const uint64_t address = layout::kAcpi + out.size();
    out.insert(out.end(), table.begin(), table.end());
    return address;
  };
  const uint64_t dsdt_address = place(dsdt(config));
  const uint64_t fadt_address = place(fadt(config, dsdt_address));
  const uint64_t madt_address = place(madt(config));

  Rsdp rsdp;
  rsdp.xsdt_address = place(xsdt({fadt_address, madt_address}));
  const auto bytes = std::as_bytes(std::span(&rsdp, 1));
  rsdp.checksum = checksum(bytes.first(kRsdpFirstPart));
  rsdp.extended_checksum = checksum(bytes);
  std::memcpy(out.data(), &rsdp, sizeof rsdp);
  if (out.size() > layout::kAcpiEnd - layout::kAcpi)
    return make_error(ErrorKind::kOutOfRange,
                      format("{} bytes of ACPI tables do not fit", out.size()));
  return out;
}

Result<uint64_t> write_acpi(const GuestMemory& memory, const AcpiConfig& config) {
  const auto tables = TRY(build_acpi(config));
  TRY(memory.write(layout::kAcpi, tables));
  return layout::kAcpi;
}

}  // namespace kiln::vmm
