// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/aml.h"

#include <cassert>

#include "base/bytes.h"

namespace kiln::vmm::aml {
namespace {

// ACPI 6.5 §20.3
constexpr uint8_t kZeroOp = 0x00;
constexpr uint8_t kOneOp = 0x01;
constexpr uint8_t kNameOp = 0x08;
constexpr uint8_t kBytePrefix = 0x0a;
constexpr uint8_t kWordPrefix = 0x0b;
constexpr uint8_t kDWordPrefix = 0x0c;
constexpr uint8_t kStringPrefix = 0x0d;
constexpr uint8_t kQWordPrefix = 0x0e;
constexpr uint8_t kScopeOp = 0x10;
constexpr uint8_t kBufferOp = 0x11;
constexpr uint8_t kPackageOp = 0x12;
constexpr uint8_t kExtOpPrefix = 0x5b;
constexpr uint8_t kDeviceOp = 0x82;

// ACPI 6.5 §6.4.2, §6.4.3: tags, small ones with their length.
constexpr uint8_t kIoPortTag = 0x47;
constexpr uint8_t kEndTag = 0x79;
constexpr uint8_t kMemory32FixedTag = 0x86;
constexpr uint8_t kExtendedInterruptTag = 0x89;

void append(Bytes& out, const Bytes& more) { out.insert(out.end(), more.begin(), more.end()); }

template <typename T>
void append_number(Bytes& out, T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

Bytes byte(uint8_t value) { return {std::byte{value}}; }

Bytes text_bytes(std::string_view text) {
  const auto bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

Bytes name_segment(std::string_view name) {
  assert(name.size() == 4);
  return text_bytes(name);
}

// ACPI 6.5 §20.2.4: the length counts its own bytes.
Bytes with_length(const Bytes& content) {
  constexpr size_t kMaxShort = 0x3f;
  Bytes out;
  if (content.size() + 1 <= kMaxShort) {
    out = byte(static_cast<uint8_t>(content.size() + 1));
  } else {
    // Four bits of the length in the first byte, eight in each of up to three that follow.
    uint8_t following = 1;
    while ((content.size() + 1 + following) >> (4 + 8 * following) != 0) ++following;
    assert(following <= 3);
    const size_t length = content.size() + 1 + following;
    out = byte(static_cast<uint8_t>(following << 6 | (length & 0xf)));
    for (unsigned i = 0; i < following; ++i)
      out.push_back(static_cast<std::byte>(length >> (4 + 8 * i)));
  }
  append(out, content);
  return out;
}

}  // namespace

Bytes concat(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) append(out, part);
  return out;
}

Bytes scope(std::string_view name, const Bytes& content) {
  return concat({byte(kScopeOp), with_length(concat({name_segment(name), content}))});
}

Bytes device(std::string_view name, const Bytes& content) {
  return concat(
      {byte(kExtOpPrefix), byte(kDeviceOp), with_length(concat({name_segment(name), content}))});
}

Bytes name(std::string_view name, const Bytes& value) {
  return concat({byte(kNameOp), name_segment(name), value});
}

Bytes integer(uint64_t value) {
  if (value == 0) return byte(kZeroOp);
  if (value == 1) return byte(kOneOp);
  Bytes out;
  if (value <= UINT8_MAX) {
    out = byte(kBytePrefix);
    append_number(out, static_cast<uint8_t>(value));
  } else if (value <= UINT16_MAX) {
    out = byte(kWordPrefix);
    append_number(out, static_cast<uint16_t>(value));
  } else if (value <= UINT32_MAX) {
    out = byte(kDWordPrefix);
    append_number(out, static_cast<uint32_t>(value));
  } else {
    out = byte(kQWordPrefix);
    append_number(out, value);
  }
  return out;
}

Bytes string(std::string_view text) {
  return concat({byte(kStringPrefix), text_bytes(text), byte(0)});
}

// ACPI 6.5 §19.3.4: five bits a letter, then the number, most significant byte first.
Bytes eisa_id(std::string_view id) {
  assert(id.size() == 7);
  uint32_t value = 0;
  for (const char letter : id.substr(0, 3))
    value = value << 5 | (static_cast<uint32_t>(letter - '@') & 0x1f);
  for (const char digit : id.substr(3))
    value = value << 4 | static_cast<uint32_t>(digit <= '9' ? digit - '0' : digit - 'A' + 10);
  Bytes out = byte(kDWordPrefix);
  append_number(out, __builtin_bswap32(value));
  return out;
}

Bytes package(std::initializer_list<Bytes> items) {
  assert(items.size() <= UINT8_MAX);
  const Bytes count = byte(static_cast<uint8_t>(items.size()));
  return concat({byte(kPackageOp), with_length(concat({count, concat(items)}))});
}

Bytes resource_template(const Bytes& descriptors) {
  // A checksum of 0 is always right (ACPI 6.5 §6.4.2.9).
  const Bytes content = concat({descriptors, byte(kEndTag), byte(0)});
  return concat({byte(kBufferOp), with_length(concat({integer(content.size()), content}))});
}

Bytes memory32_fixed(uint32_t address, uint32_t size) {
  constexpr uint8_t kReadWrite = 1;
  Bytes out = byte(kMemory32FixedTag);
  append_number(out, static_cast<uint16_t>(1 + 2 * sizeof(uint32_t)));
  append_number(out, kReadWrite);
  append_number(out, address);
  append_number(out, size);
  return out;
}

Bytes io_port(uint16_t port, uint8_t size) {
  constexpr uint8_t kDecode16 = 1;
  constexpr uint8_t kAlignment = 1;
  Bytes out = byte(kIoPortTag);
  append_number(out, kDecode16);
  append_number(out, port);  // the lowest and the highest base
  append_number(out, port);
  append_number(out, kAlignment);
  append_number(out, size);
  return out;
}

Bytes edge_interrupt(uint32_t gsi) {
  constexpr uint8_t kConsumer = 1U << 0;
  constexpr uint8_t kEdge = 1U << 1;
  constexpr uint8_t kCount = 1;
  Bytes out = byte(kExtendedInterruptTag);
  append_number(out, static_cast<uint16_t>(2 + sizeof(uint32_t)));
  append_number(out, static_cast<uint8_t>(kConsumer | kEdge));
  append_number(out, kCount);
  append_number(out, gsi);
  return out;
}

}  // namespace kiln::vmm::aml
