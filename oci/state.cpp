// SPDX-License-Identifier: Apache-2.0
#include "oci/state.h"

#include <nlohmann/json.hpp>

#include "oci/rules.h"
#include "oci/tables.h"

namespace kiln::oci {

template <>
struct TypeOf<State> {
  static const Type kType;
};

namespace {

using enum Presence;

const char* const kStatuses[] = {"creating", "created", "running", "paused", "stopped", nullptr};

constexpr Rule kStatus{.values = kStatuses};
constexpr Rule kPid{.min = 0};

constexpr Field kStateFields[] = {
    field<&State::oci_version>("ociVersion", kRequired),
    field<&State::id>("id", kRequired, &kNotEmpty),
    field<&State::status>("status", kRequired, &kStatus),
    field<&State::pid>("pid", kWritten, &kPid),
    field<&State::bundle>("bundle", kRequired, &kAbsolutePath),
    field<&State::annotations>("annotations"),
    field<&State::rootfs>("rootfs"),
    field<&State::created>("created"),
    field<&State::owner>("owner"),
};

}  // namespace

constinit const Type TypeOf<State>::kType = struct_type(kStateFields);

Json to_json(const State& state) { return write_value(TypeOf<State>::kType, &state); }

Result<State> parse_state(const Json& json, const std::string& file) {
  Reader reader(file, nullptr);
  State state;
  if (!read_value(reader, json, TypeOf<State>::kType, nullptr, &state))
    return tl::unexpected(reader.take_error());
  return state;
}

}  // namespace kiln::oci
