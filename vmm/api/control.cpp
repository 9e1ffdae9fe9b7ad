// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/control.h"

#include <array>
#include <nlohmann/json.hpp>

#include "base/format.h"

namespace kiln::vmm {
namespace {

constexpr std::array kBackendNames = {"auto", "kvm", "qemu"};
constexpr std::array kReasonNames = {"poweroff", "reset", "panic", "stopped", "crashed"};

// The member of `object` at `key`, if it is a T of the wanted range; nullptr is never dereferenced
// because the first failure ends the parse.
Result<std::string> text_at(const Json& document, const char* pointer) {
  const Json::json_pointer place(pointer);
  if (!document.contains(place) || !document[place].is_string())
    return invalid_argument(fmt::format("boot document: {}: must be a string", pointer));
  return document[place].get<std::string>();
}

Result<uint64_t> number_at(const Json& document, const char* pointer, uint64_t least,
                           uint64_t most) {
  const Json::json_pointer place(pointer);
  if (!document.contains(place) || !document[place].is_number_unsigned())
    return invalid_argument(fmt::format("boot document: {}: must be a number", pointer));
  const auto value = document[place].get<uint64_t>();
  if (value < least || value > most) {
    return invalid_argument(fmt::format("boot document: {}: must be between {} and {}, is {}",
                                        pointer, least, most, value));
  }
  return value;
}

Result<bool> flag_at(const Json& document, const char* pointer) {
  const Json::json_pointer place(pointer);
  if (!document.contains(place) || !document[place].is_boolean())
    return invalid_argument(fmt::format("boot document: {}: must be true or false", pointer));
  return document[place].get<bool>();
}

}  // namespace

const char* name_of(Backend backend) { return kBackendNames[static_cast<size_t>(backend)]; }

const char* name_of(VmExit::Reason reason) { return kReasonNames[static_cast<size_t>(reason)]; }

Result<VmExit::Reason> parse_exit_reason(std::string_view name) {
  for (size_t i = 0; i < kReasonNames.size(); ++i) {
    if (name == kReasonNames[i]) return static_cast<VmExit::Reason>(i);
  }
  return invalid_argument(fmt::format("unknown exit reason `{}`", name));
}

Json boot_document(const VmConfig& config) {
  Json shares = Json::array();
  for (const FsConfig& share : config.fs) shares.push_back({{"tag", share.tag}});
  return {
      {"backend", name_of(config.backend)},
      {"machine-config",
       {{"vcpu_count", config.machine.vcpu_count},
        {"mem_size_mib", config.machine.mem_size_mib},
        {"nested", config.machine.nested}}},
      {"boot-source",
       {{"kernel_image_path", config.boot_source.kernel_image_path},
        {"initrd_path", config.boot_source.initrd_path},
        {"boot_args", config.boot_source.boot_args}}},
      {"vsock", {{"guest_cid", config.vsock.guest_cid}, {"uds_path", config.vsock.uds_path}}},
      {"fs", std::move(shares)},
      {"qemu", {{"binary", config.qemu_binary}, {"accel", config.qemu_accel}}},
  };
}

Result<VmConfig> parse_boot_document(const Json& document) {
  VmConfig config;
  const std::string backend = TRY(text_at(document, "/backend"));
  size_t index = 0;
  while (index < kBackendNames.size() && backend != kBackendNames[index]) ++index;
  if (index == kBackendNames.size())
    return invalid_argument(fmt::format("boot document: /backend: unknown, is `{}`", backend));
  config.backend = static_cast<Backend>(index);
  config.machine.vcpu_count =
      static_cast<unsigned>(TRY(number_at(document, "/machine-config/vcpu_count", 1, 64)));
  config.machine.mem_size_mib =
      TRY(number_at(document, "/machine-config/mem_size_mib", 64, 1U << 24));
  config.machine.nested = TRY(flag_at(document, "/machine-config/nested"));
  config.boot_source.kernel_image_path = TRY(text_at(document, "/boot-source/kernel_image_path"));
  config.boot_source.initrd_path = TRY(text_at(document, "/boot-source/initrd_path"));
  config.boot_source.boot_args = TRY(text_at(document, "/boot-source/boot_args"));
  config.vsock.guest_cid =
      static_cast<uint32_t>(TRY(number_at(document, "/vsock/guest_cid", 3, 0xfffffffe)));
  config.vsock.uds_path = TRY(text_at(document, "/vsock/uds_path"));
  config.qemu_binary = TRY(text_at(document, "/qemu/binary"));
  config.qemu_accel = TRY(text_at(document, "/qemu/accel"));
  if (!document.contains("fs") || !document["fs"].is_array() || document["fs"].size() > 16)
    return invalid_argument("boot document: /fs: must be a list of at most 16 shares");
  for (size_t i = 0; i < document["fs"].size(); ++i) {
    FsConfig share;
    share.tag = TRY(text_at(document, fmt::format("/fs/{}/tag", i).c_str()));
    // virtio 1.2 §5.11.4: the tag has 36 bytes.
    if (share.tag.empty() || share.tag.size() > 36)
      return invalid_argument(fmt::format("boot document: /fs/{}/tag: must have 1 to 36 bytes", i));
    share.vhost_user_fd = kVmFirstFsFd + static_cast<int>(i);
    config.fs.push_back(std::move(share));
  }
  return config;
}

}  // namespace kiln::vmm
