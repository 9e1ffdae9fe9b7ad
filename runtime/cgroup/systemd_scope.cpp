// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/systemd_scope.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr char kSystemd[] = "org.freedesktop.systemd1";
constexpr char kObject[] = "/org/freedesktop/systemd1";
constexpr char kManagerInterface[] = "org.freedesktop.systemd1.Manager";
constexpr char kSystemBus[] = "/run/dbus/system_bus_socket";
constexpr uint64_t kInfinity = UINT64_MAX;
constexpr uint64_t kQuotaStep = 10'000;  // systemd's own, in µs for each second
constexpr uint64_t kDefaultPeriod = 100'000;
constexpr uint64_t kSecond = 1'000'000;

uint64_t number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failed == std::errc() && end != text.data() ? value : kInfinity;  // max, -1
}

// `0-3,7` as systemd has it: bit n of byte n/8.
std::vector<uint8_t> mask_of(const std::string& list) {
  constexpr uint64_t most = 8192;
  std::vector<uint8_t> mask;
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string_view range = std::string_view(list).substr(begin, end - begin);
    const size_t dash = range.find('-');
    const uint64_t first = number(range.substr(0, dash));
    const uint64_t last = dash == std::string_view::npos ? first : number(range.substr(dash + 1));
    for (uint64_t bit = first; bit <= last && bit < most; ++bit) {
      if (mask.size() <= bit / 8) mask.resize(bit / 8 + 1);
      mask[bit / 8] = static_cast<uint8_t>(mask[bit / 8] | 1U << (bit % 8));
    }
    begin = end + 1;
  }
  return mask;
}

// In steps of systemd's, upwards, as runc rounds it.
uint64_t quota_per_second(uint64_t quota, uint64_t period) {
  if (quota == kInfinity || period == 0 || quota > kInfinity / kSecond) return kInfinity;
  const uint64_t exact = quota * kSecond / period;
  return (exact + kQuotaStep - 1) / kQuotaStep * kQuotaStep;
}

void add_quota(const std::vector<HostLimit>& limits, std::vector<UnitProperty>& out) {
  bool found = false;
  uint64_t quota = kInfinity;
  uint64_t period = kDefaultPeriod;
  for (const HostLimit& limit : limits) {
    if (limit.file == "cpu.max") {
      const size_t blank = limit.value.find(' ');
      quota = number(std::string_view(limit.value).substr(0, blank));
      period = number(std::string_view(limit.value).substr(blank + 1));
    } else if (limit.file == "cpu.cfs_quota_us") {
      quota = number(limit.value);
    } else if (limit.file == "cpu.cfs_period_us") {
      period = number(limit.value);
    } else {
      continue;
    }
    found = true;
  }
  if (!found) return;
  out.push_back({"CPUQuotaPerSecUSec", quota_per_second(quota, period)});
  out.push_back({"CPUQuotaPeriodUSec", period});
}

template <typename... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};
template <typename... Functions>
Overloaded(Functions...) -> Overloaded<Functions...>;

bool systemd_runs() {
  struct stat info {};
  return lstat("/run/systemd/system", &info) == 0 && S_ISDIR(info.st_mode);
}

// DBUS_SESSION_BUS_ADDRESS has more forms than this one, which is systemd's own.
std::string user_bus() {
  constexpr std::string_view prefix = "unix:path=";
  if (const char* address = std::getenv("DBUS_SESSION_BUS_ADDRESS")) {
    const std::string_view text = address;
    if (text.starts_with(prefix))
      return std::string(text.substr(prefix.size(), text.find(',') - prefix.size()));
  }
  if (const char* directory = std::getenv("XDG_RUNTIME_DIR"))
    return std::string(directory) + "/bus";
  return fmt::format("/run/user/{}/bus", geteuid());
}

std::vector<UnitProperty> scope_properties(const ScopeName& name) {
  return {{"Description", fmt::format("kiln container {}", name.unit)},
          {"Wants", std::vector<std::string>{name.slice}},
          {"Slice", name.slice},
          {"Delegate", true},
          {"DefaultDependencies", false},
          {"MemoryAccounting", true},
          {"CPUAccounting", true},
          {"IOAccounting", true},
          {"TasksAccounting", true},
          {"TasksMax", kInfinity}};
}

}  // namespace

std::vector<UnitProperty> limit_properties(const std::vector<HostLimit>& limits) {
  constexpr struct {
    const char* file;
    const char* property;
  } numbers[] = {
      {"memory.limit_in_bytes", "MemoryLimit"},
      {"memory.max", "MemoryMax"},
      {"memory.low", "MemoryLow"},
      {"memory.swap.max", "MemorySwapMax"},
      {"cpu.shares", "CPUShares"},
      {"cpu.weight", "CPUWeight"},
      {"blkio.bfq.weight", "BlockIOWeight"},
  };
  std::vector<UnitProperty> out;
  for (const HostLimit& limit : limits) {
    for (const auto& [file, property] : numbers)
      if (limit.file == file) out.push_back({property, number(limit.value)});
    // v1's cpuset and v2's have files of the same name, but systemd knows v2's alone.
    if (limit.file == "cpuset.cpus") out.push_back({"AllowedCPUs", mask_of(limit.value)});
    if (limit.file == "cpuset.mems") out.push_back({"AllowedMemoryNodes", mask_of(limit.value)});
    constexpr std::string_view all = "default ";
    if (limit.file == "io.bfq.weight" && limit.fallback_value.starts_with(all))
      out.push_back({"IOWeight", number(limit.fallback_value.substr(all.size()))});
  }
  add_quota(limits, out);
  return out;
}

void write_properties(BusWriter& out, const std::vector<UnitProperty>& properties) {
  const size_t list = out.open_array(8);
  for (const UnitProperty& property : properties) {
    out.align(8);
    out.string(property.name);
    std::visit(Overloaded{[&](uint64_t value) {
                            out.signature("t");
                            out.u64(value);
                          },
                          [&](bool value) {
                            out.signature("b");
                            out.boolean(value);
                          },
                          [&](const std::string& value) {
                            out.signature("s");
                            out.string(value);
                          },
                          [&](const std::vector<std::string>& values) {
                            out.signature("as");
                            const size_t array = out.open_array(4);
                            for (const std::string& value : values) out.string(value);
                            out.close_array(array);
                          },
                          [&](const std::vector<uint32_t>& values) {
                            out.signature("au");
                            const size_t array = out.open_array(4);
                            for (const uint32_t value : values) out.u32(value);
                            out.close_array(array);
                          },
                          [&](const std::vector<uint8_t>& values) {
                            out.signature("ay");
                            const size_t array = out.open_array(1);
                            for (const uint8_t value : values) out.u8(value);
                            out.close_array(array);
                          }},
               property.value);
  }
  out.close_array(list);
}

Result<SystemdScope> SystemdScope::connect(bool rootless) {
  if (!systemd_runs())
    return make_error(ErrorKind::kFailedPrecondition,
                      "systemd not running on this host, cannot use systemd cgroups manager");
  auto bus = Bus::connect(rootless ? user_bus() : kSystemBus, kSystemd);
  SystemdScope scope(TRY(wrap(std::move(bus), "connect to systemd")));
  // Without it systemd sends no signals about jobs.
  TRY(scope.call("Subscribe", "", {}));
  return scope;
}

Result<BusMessage> SystemdScope::call(const char* member, const char* signature,
                                      const BusWriter& body) {
  return wrap(bus_.call({kObject, kManagerInterface, member, signature, body.bytes()}), "systemd");
}

Result<std::string> SystemdScope::own_cgroup() {
  BusWriter body;
  body.string(kManagerInterface);
  body.string("ControlGroup");
  const BusMessage answer =
      TRY(wrap(bus_.call({kObject, "org.freedesktop.DBus.Properties", "Get", "ss", body.bytes()}),
               "systemd"));
  BusReader reader(answer.body);
  const std::string type = reader.signature();
  std::string path = type == "s" ? reader.string() : "";
  if (type != "s" || reader.failed())
    return make_error(ErrorKind::kInternal, "systemd: its ControlGroup is no string");
  // The system's own is at the top; the one that it runs in itself is init.scope.
  return path == "/" ? std::string() : path;
}

Result<void> SystemdScope::start(const ScopeName& name, pid_t pid,
                                 const std::vector<HostLimit>& limits) {
  BusWriter reset;
  reset.string(name.unit);
  // A scope of that name that has failed before would be in the way; mostly there is none.
  static_cast<void>(call("ResetFailedUnit", "s", reset));
  std::vector<UnitProperty> properties = scope_properties(name);
  properties.push_back({"PIDs", std::vector<uint32_t>{static_cast<uint32_t>(pid)}});
  for (UnitProperty& property : limit_properties(limits)) properties.push_back(std::move(property));
  BusWriter body;
  body.string(name.unit);
  body.string("replace");
  write_properties(body, properties);
  const size_t none = body.open_array(8);
  body.close_array(none);
  const BusMessage answer = TRY(call("StartTransientUnit", "ssa(sv)a(sa(sv))", body));
  return wait_for_job(answer, name.unit);
}

Result<void> SystemdScope::set_limits(const std::string& unit,
                                      const std::vector<HostLimit>& limits) {
  const std::vector<UnitProperty> properties = limit_properties(limits);
  if (properties.empty()) return {};
  BusWriter body;
  body.string(unit);
  body.boolean(true);  // until the unit goes
  write_properties(body, properties);
  TRY(call("SetUnitProperties", "sba(sv)", body));
  return {};
}

Result<void> SystemdScope::stop(const std::string& unit) {
  BusWriter body;
  body.string(unit);
  body.string("replace");
  const auto answer = call("StopUnit", "ss", body);
  // Not loaded: a scope goes by itself with its last process.
  if (answer) TRY(wait_for_job(*answer, unit));
  BusWriter reset;
  reset.string(unit);
  static_cast<void>(call("ResetFailedUnit", "s", reset));
  return {};
}

// JobRemoved: u id, o job, s unit, s result.
Result<void> SystemdScope::wait_for_job(const BusMessage& answer, const std::string& unit) {
  BusReader reader(answer.body);
  const std::string job = reader.string();
  while (true) {
    const BusMessage signal = TRY(wrap(bus_.wait_signal("JobRemoved"), "systemd"));
    BusReader removed(signal.body);
    removed.u32();
    const bool ours = removed.string() == job;
    removed.string();
    const std::string result = removed.string();
    if (!ours) continue;
    if (result == "done") return {};
    return make_error(ErrorKind::kAborted,
                      fmt::format("systemd: the job for unit {} ended with `{}`", unit, result));
  }
}

}  // namespace kiln::runtime
