// SPDX-License-Identifier: Apache-2.0
// Instructions that C++ has no words for. Only what every machine here runs: no SSE, no fences.
#pragma once

#include <cstdint>

namespace payload {

inline void out8(uint16_t port, uint8_t value) {
  asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
inline uint8_t in8(uint16_t port) {
  uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
inline uint16_t in16(uint16_t port) {
  uint16_t value;
  asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
inline uint32_t in32(uint16_t port) {
  uint32_t value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

// One access of exactly this width by one plain move, which is what emulators of MMIO decode.
inline uint8_t mmio_read8(uint64_t address) {
  uint8_t value;
  asm volatile("movb (%1), %0" : "=r"(value) : "r"(address) : "memory");
  return value;
}
inline uint16_t mmio_read16(uint64_t address) {
  uint16_t value;
  asm volatile("movw (%1), %0" : "=r"(value) : "r"(address) : "memory");
  return value;
}
inline uint32_t mmio_read32(uint64_t address) {
  uint32_t value;
  asm volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
  return value;
}
inline uint64_t mmio_read64(uint64_t address) {
  uint64_t value;
  asm volatile("movq (%1), %0" : "=r"(value) : "r"(address) : "memory");
  return value;
}
inline void mmio_write8(uint64_t address, uint8_t value) {
  asm volatile("movb %0, (%1)" : : "r"(value), "r"(address) : "memory");
}
inline void mmio_write16(uint64_t address, uint16_t value) {
  asm volatile("movw %0, (%1)" : : "r"(value), "r"(address) : "memory");
}
inline void mmio_write32(uint64_t address, uint32_t value) {
  asm volatile("movl %0, (%1)" : : "r"(value), "r"(address) : "memory");
}
inline void mmio_write64(uint64_t address, uint64_t value) {
  asm volatile("movq %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

struct CpuidResult {
  uint32_t eax, ebx, ecx, edx;
};
inline CpuidResult cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  CpuidResult result;
  asm volatile("cpuid"
               : "=a"(result.eax), "=b"(result.ebx), "=c"(result.ecx), "=d"(result.edx)
               : "a"(leaf), "c"(subleaf));
  return result;
}

inline uint64_t read_tsc() {
  uint32_t low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return (uint64_t{high} << 32) | low;
}

inline void compiler_barrier() { asm volatile("" : : : "memory"); }
// Stores before it are visible before loads after it are made. A locked instruction does it.
inline void full_barrier() { asm volatile("lock orl $0, (%%rsp)" : : : "memory"); }
inline void relax() { asm volatile("pause" : : : "memory"); }

inline void enable_interrupts() { asm volatile("sti" : : : "memory"); }
inline void disable_interrupts() { asm volatile("cli" : : : "memory"); }
inline void halt() { asm volatile("hlt" : : : "memory"); }
// Without the window in which an interrupt could come before the hlt.
inline void enable_interrupts_and_halt() { asm volatile("sti\n\thlt" : : : "memory"); }

}  // namespace payload
