// SPDX-License-Identifier: Apache-2.0
// What compilers call by name even in freestanding code. Plain loops: string instructions of a
// large size are slow or absent where ring 0 is emulated.
#include <cstddef>
#include <cstdint>

extern "C" {

void* memcpy(void* to, const void* from, size_t size);
void* memset(void* to, int value, size_t size);
int memcmp(const void* left, const void* right, size_t size);

void* memcpy(void* to, const void* from, size_t size) {
  auto* out = static_cast<uint8_t*>(to);
  const auto* in = static_cast<const uint8_t*>(from);
  for (; size >= 8; size -= 8, in += 8, out += 8) {
    uint64_t word;
    asm volatile("movq (%1), %0" : "=r"(word) : "r"(in) : "memory");
    asm volatile("movq %0, (%1)" : : "r"(word), "r"(out) : "memory");
  }
  for (; size != 0; --size) {
    *out++ = *in++;
    asm volatile("" : : : "memory");  // or this loop becomes a call of memcpy
  }
  return to;
}

void* memset(void* to, int value, size_t size) {
  auto* out = static_cast<uint8_t*>(to);
  const uint64_t word = static_cast<uint8_t>(value) * 0x0101010101010101U;
  for (; size >= 8; size -= 8, out += 8)
    asm volatile("movq %0, (%1)" : : "r"(word), "r"(out) : "memory");
  for (; size != 0; --size) {
    *out++ = static_cast<uint8_t>(value);
    asm volatile("" : : : "memory");
  }
  return to;
}

int memcmp(const void* left, const void* right, size_t size) {
  const auto* a = static_cast<const uint8_t*>(left);
  const auto* b = static_cast<const uint8_t*>(right);
  for (; size != 0; --size, ++a, ++b)
    if (*a != *b) return *a < *b ? -1 : 1;
  return 0;
}

}  // extern "C"
