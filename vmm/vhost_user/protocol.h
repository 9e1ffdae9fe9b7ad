// SPDX-License-Identifier: Apache-2.0
// The vhost-user messages that both of our sides know, as they lie on the wire (QEMU's
// docs/interop/vhost-user.rst). Native byte order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kiln::vmm::vhost_user {

enum class Request : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,
  kSetMemTable = 5,
  kSetVringNum = 8,
  kSetVringAddr = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringErr = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kGetConfig = 24,
  kSetConfig = 25,
  kResetDevice = 34,
};

// As the specification spells it, for messages.
constexpr const char* request_name(Request request) {
  switch (request) {
    case Request::kGetFeatures:
      return "GET_FEATURES";
    case Request::kSetFeatures:
      return "SET_FEATURES";
    case Request::kSetOwner:
      return "SET_OWNER";
    case Request::kResetOwner:
      return "RESET_OWNER";
    case Request::kSetMemTable:
      return "SET_MEM_TABLE";
    case Request::kSetVringNum:
      return "SET_VRING_NUM";
    case Request::kSetVringAddr:
      return "SET_VRING_ADDR";
    case Request::kSetVringBase:
      return "SET_VRING_BASE";
    case Request::kGetVringBase:
      return "GET_VRING_BASE";
    case Request::kSetVringKick:
      return "SET_VRING_KICK";
    case Request::kSetVringCall:
      return "SET_VRING_CALL";
    case Request::kSetVringErr:
      return "SET_VRING_ERR";
    case Request::kGetProtocolFeatures:
      return "GET_PROTOCOL_FEATURES";
    case Request::kSetProtocolFeatures:
      return "SET_PROTOCOL_FEATURES";
    case Request::kGetQueueNum:
      return "GET_QUEUE_NUM";
    case Request::kSetVringEnable:
      return "SET_VRING_ENABLE";
    case Request::kGetConfig:
      return "GET_CONFIG";
    case Request::kSetConfig:
      return "SET_CONFIG";
    case Request::kResetDevice:
      return "RESET_DEVICE";
  }
  return "?";
}

struct Header {
  uint32_t request = 0;
  uint32_t flags = 0;
  uint32_t size = 0;  // of the payload, bytes
};
static_assert(sizeof(Header) == 12);

constexpr uint32_t kVersionMask = 0x3;
constexpr uint32_t kVersion = 0x1;
constexpr uint32_t kFlagReply = 1U << 2;
constexpr uint32_t kFlagNeedReply = 1U << 3;

// Among the virtio feature bits.
constexpr uint64_t kFeatureProtocolFeatures = uint64_t{1} << 30;

constexpr uint64_t kProtocolMq = uint64_t{1} << 0;
constexpr uint64_t kProtocolReplyAck = uint64_t{1} << 3;
constexpr uint64_t kProtocolConfig = uint64_t{1} << 9;
constexpr uint64_t kProtocolResetDevice = uint64_t{1} << 13;

// Payload of SET_VRING_KICK, CALL and ERR.
constexpr uint64_t kVringIndexMask = 0xff;
constexpr uint64_t kVringNoFd = uint64_t{1} << 8;

struct VringState {
  uint32_t index = 0;
  uint32_t num = 0;
};
// Addresses are the front-end's own, to be found in a region of the memory table.
struct VringAddresses {
  uint32_t index = 0;
  uint32_t flags = 0;
  uint64_t descriptors = 0;
  uint64_t used = 0;
  uint64_t available = 0;
  uint64_t log = 0;
};
static_assert(sizeof(VringAddresses) == 40);

struct MemoryTableHead {
  uint32_t region_count = 0;
  uint32_t padding = 0;
};
struct MemoryRegion {
  uint64_t guest_address = 0;
  uint64_t size = 0;
  uint64_t user_address = 0;
  uint64_t mmap_offset = 0;
};
static_assert(sizeof(MemoryRegion) == 32);
constexpr size_t kMaxMemoryRegions = 8;  // without the protocol feature CONFIGURE_MEM_SLOTS

struct ConfigHead {
  uint32_t offset = 0;
  uint32_t size = 0;
  uint32_t flags = 0;
};
constexpr uint32_t kMaxConfigSize = 256;

constexpr size_t kMaxPayload = sizeof(MemoryTableHead) + kMaxMemoryRegions * sizeof(MemoryRegion) +
                               sizeof(ConfigHead) + kMaxConfigSize;

}  // namespace kiln::vmm::vhost_user
