// SPDX-License-Identifier: Apache-2.0
// The command line: words and name=number.
#pragma once

#include <cstdint>

namespace payload {

// Copies the command line; before anything below 1 MiB is overwritten.
void read_arguments();
bool has_argument(const char* word);
// Of `name=value`, decimal or 0x…; `otherwise` where it is not there.
uint64_t argument(const char* name, uint64_t otherwise);

struct MemoryRange {
  uint64_t start = 0;
  uint64_t size = 0;
};
// The RAM that holds the payload, as the memory map of hvm_start_info says.
MemoryRange low_memory();
bool has_start_info();

}  // namespace payload
