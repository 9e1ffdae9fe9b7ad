// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/lib/arguments.h"

#include <cstddef>

#include "vmm/kvm/layout.h"

extern "C" uint64_t start_info;

namespace payload {
namespace {

// Xen's public/arch-x86/hvm/start_info.h, version 1.
struct StartInfo {
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t module_count;
  uint64_t modules;
  uint64_t command_line;
  uint64_t rsdp;
  uint64_t memory_map;
  uint32_t memory_map_entries;
  uint32_t reserved;
};
struct MemoryMapEntry {
  uint64_t address;
  uint64_t size;
  uint32_t type;
  uint32_t reserved;
};
constexpr uint32_t kMagic = 0x336ec578;
constexpr uint32_t kRam = 1;

char command_line[kiln::vmm::layout::kMaxCommandLine];
MemoryRange memory;

const StartInfo& info() { return *reinterpret_cast<const StartInfo*>(start_info); }

// Where the value of word `name` starts; null where there is no such word.
const char* find(const char* name, char end) {
  const char* at = command_line;
  while (*at != 0) {
    size_t length = 0;
    while (name[length] != 0 && at[length] == name[length]) ++length;
    if (name[length] == 0 && (at[length] == end || (end == ' ' && at[length] == 0)))
      return at + length + 1;
    while (*at != 0 && *at != ' ') ++at;
    while (*at == ' ') ++at;
  }
  return nullptr;
}

unsigned digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a') + 10;
  return 16;
}

}  // namespace

bool has_start_info() { return start_info != 0 && info().magic == kMagic && info().version >= 1; }

void read_arguments() {
  if (!has_start_info()) return;
  const auto* text = reinterpret_cast<const char*>(info().command_line);
  for (size_t i = 0; text != nullptr && i + 1 < sizeof command_line && text[i] != 0; ++i)
    command_line[i] = text[i];
  const auto* entry = reinterpret_cast<const MemoryMapEntry*>(info().memory_map);
  for (uint32_t i = 0; i < info().memory_map_entries; ++i, ++entry) {
    if (entry->type != kRam || entry->address > kiln::vmm::layout::kHighMemory ||
        entry->address + entry->size <= kiln::vmm::layout::kHighMemory)
      continue;
    memory = {entry->address, entry->size};
  }
}

bool has_argument(const char* word) { return find(word, ' ') != nullptr; }

uint64_t argument(const char* name, uint64_t otherwise) {
  const char* at = find(name, '=');
  if (at == nullptr) return otherwise;
  unsigned base = 10;
  if (at[0] == '0' && at[1] == 'x') {
    base = 16;
    at += 2;
  }
  uint64_t value = 0;
  for (; digit(*at) < base; ++at) value = value * base + digit(*at);
  return value;
}

MemoryRange low_memory() { return memory; }

}  // namespace payload
