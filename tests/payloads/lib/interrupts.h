// SPDX-License-Identifier: Apache-2.0
// Exceptions, the local APIC and the I/O APIC.
#pragma once

#include <cstdint>

namespace payload {

constexpr unsigned kFirstVector = 32;  // of interrupts; below it are exceptions
constexpr unsigned kVectorEnd = 80;    // of what has a stub
constexpr unsigned kSpuriousVector = 79;

// The calling processor's: loads the IDT, enables its local APIC, and takes interrupts from here
// on. The first caller builds the IDT.
void start_interrupts();
// Called with each interrupt of `vector`, before the end of interrupt; from any processor.
void set_handler(unsigned vector, void (*handler)(unsigned vector));
// How often `vector` was delivered.
uint32_t interrupt_count(unsigned vector);
// Waits for a count above `before`, at most about a second. Whether it came.
bool wait_for_interrupt(unsigned vector, uint32_t before);

enum class Trigger { kEdge, kLevel };
// Programs the I/O APIC: `gsi` raises `vector` on the processor with this APIC id.
void route_gsi(unsigned gsi, unsigned vector, Trigger trigger, uint32_t apic_id = 0);
void mask_gsi(unsigned gsi);
uint32_t ioapic_read(uint32_t index);
void ioapic_write(uint32_t index, uint32_t value);

uint32_t apic_id();
uint32_t apic_read(uint32_t offset);
void apic_write(uint32_t offset, uint32_t value);
// Sends `low` of the interrupt command register to `destination`, and waits until it is sent.
void send_command(uint32_t destination, uint32_t low);

}  // namespace payload
