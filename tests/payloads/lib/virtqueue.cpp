// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/lib/virtqueue.h"

#include <cstring>

#include "tests/payloads/lib/time.h"

namespace payload {

void Virtqueue::clear(const Device& device, unsigned index) {
  memset(descriptors_, 0, sizeof descriptors_);
  memset(&available_, 0, sizeof available_);
  memset(&used_, 0, sizeof used_);
  device_ = &device;
  index_ = index;
  next_descriptor_ = 0;
  seen_used_ = 0;
}

void Virtqueue::set_up(const Device& device, unsigned index) {
  clear(device, index);
  device.write_queue(index, kSize, addresses());
}

RingAddresses Virtqueue::addresses() const {
  return {reinterpret_cast<uint64_t>(descriptors_), reinterpret_cast<uint64_t>(&available_),
          reinterpret_cast<uint64_t>(&used_)};
}

uint16_t Virtqueue::add(std::initializer_list<Buffer> parts) {
  const auto head = static_cast<uint16_t>(next_descriptor_);
  size_t left = parts.size();
  for (const Buffer& part : parts) {
    const unsigned at = next_descriptor_;
    next_descriptor_ = (next_descriptor_ + 1) % kSize;
    const bool last = --left == 0;
    descriptors_[at] = {part.address, part.size,
                        static_cast<uint16_t>(part.flags | (last ? 0 : kNext)),
                        static_cast<uint16_t>(last ? 0 : next_descriptor_)};
  }
  return head;
}

void Virtqueue::publish(uint16_t head) {
  available_.ring[available_.index % kSize] = head;
  set_available_index(static_cast<uint16_t>(available_.index + 1));
}

void Virtqueue::set_available_index(uint16_t index) {
  __atomic_store_n(&available_.index, index, __ATOMIC_RELEASE);
  full_barrier();
}

void Virtqueue::kick() const { device_->notify(index_); }

uint16_t Virtqueue::used_index() const { return __atomic_load_n(&used_.index, __ATOMIC_ACQUIRE); }

bool Virtqueue::has_used() const { return used_index() != seen_used_; }

bool Virtqueue::wait_used(UsedElement& used) {
  if (!wait_until([this] { return has_used(); })) return false;
  used = used_.ring[seen_used_ % kSize];
  ++seen_used_;
  return true;
}

bool Virtqueue::request(std::initializer_list<Buffer> parts, UsedElement& used) {
  const uint16_t head = add(parts);
  publish(head);
  kick();
  return wait_used(used) && used.id == head;
}

bool Virtqueue::request(std::initializer_list<Buffer> parts) {
  UsedElement used;
  return request(parts, used);
}

}  // namespace payload
