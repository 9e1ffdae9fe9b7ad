// SPDX-License-Identifier: Apache-2.0
// Just enough of ACPI Machine Language (ACPI 6.5 §20) and of resource descriptors (§6.4) to
// describe devices that cannot be enumerated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace kiln::vmm::aml {

using Bytes = std::vector<std::byte>;

Bytes concat(std::initializer_list<Bytes> parts);

// Names are segments of exactly four characters, padded with `_`.
Bytes scope(std::string_view name, const Bytes& content);
Bytes device(std::string_view name, const Bytes& content);
Bytes name(std::string_view name, const Bytes& value);

Bytes integer(uint64_t value);
Bytes string(std::string_view text);                // printable ASCII
Bytes eisa_id(std::string_view id);                 // three capitals, four hexadecimal digits
Bytes package(std::initializer_list<Bytes> items);  // at most 255

// ResourceTemplate () of descriptors; the end tag is added.
Bytes resource_template(const Bytes& descriptors);
Bytes memory32_fixed(uint32_t address, uint32_t size);  // read-write
Bytes io_port(uint16_t port, uint8_t size);             // 16-bit decoding
Bytes edge_interrupt(uint32_t gsi);                     // active high, exclusive, consumed

}  // namespace kiln::vmm::aml
