// SPDX-License-Identifier: Apache-2.0
// agent → host: what a container uses. The host decodes it, so every field is guest-controlled.
#include <algorithm>

#include "agent/protocol/fields.h"
#include "agent/protocol/messages.h"
#include "base/format.h"

namespace kiln::protocol {
namespace {

constexpr size_t kMaxEntries = 256;  // of each list
constexpr size_t kMaxNameBytes = 64;

// memory.stat's keys, and page sizes.
bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '_';
         });
}

struct Number {
  const char* key;
  uint64_t StatsReply::*member;
};
constexpr Number kNumbers[] = {
    {"cpuUs", &StatsReply::cpu_us},
    {"cpuUserUs", &StatsReply::cpu_user_us},
    {"cpuSystemUs", &StatsReply::cpu_system_us},
    {"periods", &StatsReply::periods},
    {"throttledPeriods", &StatsReply::throttled_periods},
    {"throttledUs", &StatsReply::throttled_us},
    {"memory", &StatsReply::memory_bytes},
    {"memoryPeak", &StatsReply::memory_peak_bytes},
    {"memoryLimit", &StatsReply::memory_limit_bytes},
    {"memoryLimitHits", &StatsReply::memory_limit_hits},
    {"swap", &StatsReply::swap_bytes},
    {"swapLimit", &StatsReply::swap_limit_bytes},
    {"pids", &StatsReply::pids},
    {"pidsLimit", &StatsReply::pids_limit},
};

Result<BlockStats> block_from(const Json& value, std::string pointer) {
  BlockStats block;
  Fields fields = TRY(Fields::of(value, std::move(pointer)));
  block.major = static_cast<uint32_t>(TRY(fields.integer("major", 0, UINT32_MAX)));
  block.minor = static_cast<uint32_t>(TRY(fields.integer("minor", 0, UINT32_MAX)));
  block.read_bytes = TRY(fields.any_unsigned("readBytes"));
  block.written_bytes = TRY(fields.any_unsigned("writtenBytes"));
  block.reads = TRY(fields.any_unsigned("reads"));
  block.writes = TRY(fields.any_unsigned("writes"));
  TRY(fields.finish());
  return block;
}

tl::unexpected<Error> too_many(std::string_view what) {
  return invalid_argument(fmt::format("/{}: has more than {} entries", what, kMaxEntries));
}

// The object at `member`, each of whose keys is a name.
Result<const Json*> named(Fields& fields, std::string_view member) {
  const Json* object = TRY(fields.object(member));
  if (object->size() > kMaxEntries) return too_many(member);
  for (const auto& [key, value] : object->items()) {
    if (!is_name(key))
      return invalid_argument(
          fmt::format("{}: must be a name", fields.pointer_to(member) + "/" + printable(key)));
  }
  return object;
}

}  // namespace

template <>
Json to_json(const StatsReply& reply) {
  Json out = Json::object();
  for (const Number& number : kNumbers) out[number.key] = reply.*number.member;
  out["memoryStat"] = reply.memory_stat;
  Json& block = out["block"] = Json::array();
  for (const BlockStats& entry : reply.block) {
    block.push_back({{"major", entry.major},
                     {"minor", entry.minor},
                     {"readBytes", entry.read_bytes},
                     {"writtenBytes", entry.written_bytes},
                     {"reads", entry.reads},
                     {"writes", entry.writes}});
  }
  Json& pages = out["hugepages"] = Json::object();
  for (const auto& [size, entry] : reply.hugepages)
    pages[size] = {{"usage", entry.usage_bytes}, {"limitHits", entry.limit_hits}};
  return out;
}

template <>
Result<StatsReply> from_json(const Json& value) {
  StatsReply reply;
  Fields fields = TRY(Fields::of(value, ""));
  for (const Number& number : kNumbers) reply.*number.member = TRY(fields.any_unsigned(number.key));
  const Json* stat = TRY(named(fields, "memoryStat"));
  Fields stats = TRY(Fields::of(*stat, "/memoryStat"));
  for (const auto& [key, entry] : stat->items())
    reply.memory_stat[key] = TRY(stats.any_unsigned(key));
  const Json* block = TRY(fields.array("block"));
  if (block->size() > kMaxEntries) return too_many("block");
  for (size_t i = 0; i < block->size(); ++i)
    reply.block.push_back(TRY(block_from((*block)[i], fmt::format("/block/{}", i))));
  const Json* pages = TRY(named(fields, "hugepages"));
  for (const auto& [size, entry] : pages->items()) {
    Fields page = TRY(Fields::of(entry, "/hugepages/" + size));
    reply.hugepages[size] = {TRY(page.any_unsigned("usage")), TRY(page.any_unsigned("limitHits"))};
    TRY(page.finish());
  }
  TRY(fields.finish());
  return reply;
}

}  // namespace kiln::protocol
