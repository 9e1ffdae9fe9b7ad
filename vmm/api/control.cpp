// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/control.h"

#include <array>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "vmm/api/document_reader.h"

namespace kiln::vmm {
namespace {

constexpr std::array kBackendNames = {"auto", "kvm", "qemu"};
constexpr std::array kReasonNames = {"poweroff", "reset", "panic", "stopped", "crashed"};
constexpr size_t kMaxShares = 16;
constexpr size_t kMaxDrives = 16;
constexpr size_t kMaxInterfaces = 16;
constexpr size_t kMaxIdBytes = 64;
constexpr uint64_t kNoBound = UINT64_MAX;

Json bucket_json(const TokenBucketConfig& bucket) {
  if (bucket.size == 0) return nullptr;
  return {{"size", bucket.size},
          {"one_time_burst", bucket.one_time_burst},
          {"refill_time", bucket.refill_time_ms}};
}

Json limiter_json(const RateLimiterConfig& limiter) {
  return {{"bandwidth", bucket_json(limiter.bandwidth)}, {"ops", bucket_json(limiter.ops)}};
}

Result<TokenBucketConfig> parse_bucket(const DocumentReader& reader, const std::string& pointer) {
  TokenBucketConfig bucket;
  if (!reader.has(pointer + "/size")) return bucket;
  bucket.size = TRY(reader.number(pointer + "/size", 1, kNoBound));
  bucket.one_time_burst = TRY(reader.number_or(pointer + "/one_time_burst", 0, kNoBound, 0));
  bucket.refill_time_ms = TRY(reader.number(pointer + "/refill_time", 1, kNoBound));
  return bucket;
}

Result<RateLimiterConfig> parse_limiter(const DocumentReader& reader, const std::string& pointer) {
  RateLimiterConfig limiter;
  limiter.bandwidth = TRY(parse_bucket(reader, pointer + "/bandwidth"));
  limiter.ops = TRY(parse_bucket(reader, pointer + "/ops"));
  return limiter;
}

Result<std::string> parse_id(const DocumentReader& reader, const std::string& pointer) {
  std::string id = TRY(reader.text(pointer));
  if (id.empty() || id.size() > kMaxIdBytes)
    return reader.refuse(pointer, fmt::format("must have 1 to {} bytes", kMaxIdBytes));
  return id;
}

Result<DriveConfig> read_drive(const DocumentReader& reader) {
  DriveConfig drive;
  drive.drive_id = TRY(parse_id(reader, "/drive_id"));
  drive.is_read_only = TRY(reader.flag("/is_read_only"));
  drive.rate_limiter = TRY(parse_limiter(reader, "/rate_limiter"));
  return drive;
}

Result<NetworkInterfaceConfig> read_network_interface(const DocumentReader& reader) {
  NetworkInterfaceConfig interface;
  interface.iface_id = TRY(parse_id(reader, "/iface_id"));
  interface.guest_mac = TRY(reader.text("/guest_mac"));
  // virtio 1.2 §5.1.4.1: from 68 to 65535.
  interface.mtu = static_cast<uint16_t>(TRY(reader.number("/mtu", 68, 65535)));
  interface.rx_rate_limiter = TRY(parse_limiter(reader, "/rx_rate_limiter"));
  interface.tx_rate_limiter = TRY(parse_limiter(reader, "/tx_rate_limiter"));
  return interface;
}

Result<Backend> parse_backend(const DocumentReader& reader) {
  const std::string name = TRY(reader.text("/backend"));
  for (size_t i = 0; i < kBackendNames.size(); ++i) {
    if (name == kBackendNames[i]) return static_cast<Backend>(i);
  }
  return reader.refuse("/backend", fmt::format("unknown, is `{}`", name));
}

Result<MachineConfig> parse_machine(const DocumentReader& reader) {
  MachineConfig machine;
  machine.vcpu_count =
      static_cast<unsigned>(TRY(reader.number("/machine-config/vcpu_count", 1, 64)));
  machine.mem_size_mib = TRY(reader.number("/machine-config/mem_size_mib", 64, 1U << 24));
  machine.nested = TRY(reader.flag("/machine-config/nested"));
  machine.huge_pages = TRY(reader.flag_or("/machine-config/huge_pages", false));
  machine.spare_slots =
      static_cast<unsigned>(TRY(reader.number_or("/machine-config/spare_slots", 0, 16, 0)));
  return machine;
}

Result<BalloonConfig> parse_balloon(const DocumentReader& reader) {
  BalloonConfig balloon;
  balloon.present = reader.has("/balloon");
  if (!balloon.present) return balloon;
  balloon.amount_mib =
      static_cast<uint32_t>(TRY(reader.number("/balloon/amount_mib", 0, 1U << 24)));
  balloon.deflate_on_oom = TRY(reader.flag_or("/balloon/deflate_on_oom", balloon.deflate_on_oom));
  balloon.stats_polling_interval_s = static_cast<uint32_t>(
      TRY(reader.number_or("/balloon/stats_polling_interval_s", 0, 86'400, 0)));
  balloon.free_page_reporting =
      TRY(reader.flag_or("/balloon/free_page_reporting", balloon.free_page_reporting));
  return balloon;
}

Result<void> parse_lists(const DocumentReader& reader, VmConfig& config) {
  int next_fd = kVmFirstFsFd;
  if (!reader.has("/fs")) return reader.refuse("/fs", "must be a list of at most 16 shares");
  for (const Json& object : TRY(reader.list("/fs", kMaxShares, "shares"))) {
    const std::string place = fmt::format("/fs/{}", config.fs.size());
    FsConfig share;
    share.tag = TRY(DocumentReader(object, place).text("/tag"));
    // virtio 1.2 §5.11.4: the tag has 36 bytes.
    if (share.tag.empty() || share.tag.size() > 36)
      return reader.refuse(place + "/tag", "must have 1 to 36 bytes");
    share.vhost_user_fd = next_fd++;
    config.fs.push_back(std::move(share));
  }
  for (const Json& object : TRY(reader.list("/drives", kMaxDrives, "drives"))) {
    const DocumentReader drive_reader(object, fmt::format("/drives/{}", config.drives.size()));
    config.drives.push_back(TRY(read_drive(drive_reader)));
    config.drives.back().fd = next_fd++;
  }
  for (const Json& object :
       TRY(reader.list("/network-interfaces", kMaxInterfaces, "network interfaces"))) {
    const DocumentReader interface_reader(
        object, fmt::format("/network-interfaces/{}", config.network_interfaces.size()));
    config.network_interfaces.push_back(TRY(read_network_interface(interface_reader)));
    config.network_interfaces.back().tap_fd = next_fd++;
  }
  return {};
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

Json drive_json(const DriveConfig& drive) {
  return {{"drive_id", drive.drive_id},
          {"is_read_only", drive.is_read_only},
          {"rate_limiter", limiter_json(drive.rate_limiter)}};
}

Json network_interface_json(const NetworkInterfaceConfig& interface) {
  return {{"iface_id", interface.iface_id},
          {"guest_mac", interface.guest_mac},
          {"mtu", interface.mtu},
          {"rx_rate_limiter", limiter_json(interface.rx_rate_limiter)},
          {"tx_rate_limiter", limiter_json(interface.tx_rate_limiter)}};
}

Json boot_document(const VmConfig& config) {
  Json shares = Json::array();
  for (const FsConfig& share : config.fs) shares.push_back({{"tag", share.tag}});
  Json document = {
      {"backend", name_of(config.backend)},
      {"machine-config",
       {{"vcpu_count", config.machine.vcpu_count},
        {"mem_size_mib", config.machine.mem_size_mib},
        {"nested", config.machine.nested},
        {"huge_pages", config.machine.huge_pages},
        {"spare_slots", config.machine.spare_slots}}},
      {"boot-source",
       {{"kernel_image_path", config.boot_source.kernel_image_path},
        {"initrd_path", config.boot_source.initrd_path},
        {"boot_args", config.boot_source.boot_args}}},
      {"vsock", {{"guest_cid", config.vsock.guest_cid}, {"uds_path", config.vsock.uds_path}}},
      {"fs", std::move(shares)},
      {"drives", Json::array()},
      {"network-interfaces", Json::array()},
      {"console", config.console},
      {"start", config.start},
      {"qemu", {{"binary", config.qemu_binary}, {"accel", config.qemu_accel}}},
  };
  for (const DriveConfig& drive : config.drives) document["drives"].push_back(drive_json(drive));
  for (const NetworkInterfaceConfig& interface : config.network_interfaces)
    document["network-interfaces"].push_back(network_interface_json(interface));
  if (config.balloon.present) {
    document["balloon"] = {{"amount_mib", config.balloon.amount_mib},
                           {"deflate_on_oom", config.balloon.deflate_on_oom},
                           {"stats_polling_interval_s", config.balloon.stats_polling_interval_s},
                           {"free_page_reporting", config.balloon.free_page_reporting}};
  }
  if (config.entropy.present)
    document["entropy"] = {{"rate_limiter", limiter_json(config.entropy.rate_limiter)}};
  return document;
}

std::vector<int> boot_descriptors(const VmConfig& config) {
  std::vector<int> out;
  for (const FsConfig& share : config.fs) out.push_back(share.vhost_user_fd);
  for (const DriveConfig& drive : config.drives) out.push_back(drive.fd);
  for (const NetworkInterfaceConfig& interface : config.network_interfaces)
    out.push_back(interface.tap_fd);
  return out;
}

Result<DriveConfig> parse_drive(const Json& object) { return read_drive(DocumentReader(object)); }

Result<NetworkInterfaceConfig> parse_network_interface(const Json& object) {
  return read_network_interface(DocumentReader(object));
}

Result<VmConfig> parse_boot_document(const Json& document) {
  const DocumentReader reader(document);
  VmConfig config;
  config.backend = TRY(parse_backend(reader));
  config.machine = TRY(parse_machine(reader));
  config.boot_source.kernel_image_path = TRY(reader.text("/boot-source/kernel_image_path"));
  config.boot_source.initrd_path = TRY(reader.text("/boot-source/initrd_path"));
  config.boot_source.boot_args = TRY(reader.text("/boot-source/boot_args"));
  config.vsock.guest_cid =
      static_cast<uint32_t>(TRY(reader.number("/vsock/guest_cid", 3, 0xfffffffe)));
  config.vsock.uds_path = TRY(reader.text("/vsock/uds_path"));
  config.qemu_binary = TRY(reader.text("/qemu/binary"));
  config.qemu_accel = TRY(reader.text("/qemu/accel"));
  config.console = TRY(reader.flag_or("/console", false));
  config.start = TRY(reader.flag_or("/start", true));
  config.balloon = TRY(parse_balloon(reader));
  config.entropy.present = reader.has("/entropy");
  if (config.entropy.present)
    config.entropy.rate_limiter = TRY(parse_limiter(reader, "/entropy/rate_limiter"));
  TRY(parse_lists(reader, config));
  return config;
}

}  // namespace kiln::vmm
