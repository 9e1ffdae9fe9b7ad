// SPDX-License-Identifier: Apache-2.0
#include "oci/parse.h"

#include <nlohmann/json.hpp>

#include "oci/tables.h"

namespace kiln::oci {

Result<Spec> parse_spec(const Json& json, std::vector<std::string>* warnings) {
  Reader reader("config.json", warnings);
  Spec spec;
  if (!read_value(reader, json, TypeOf<Spec>::kType, nullptr, &spec))
    return tl::unexpected(reader.take_error());
  return spec;
}

Result<Spec> parse_spec_text(std::string_view text, std::vector<std::string>* warnings) {
  const Json json = TRY(wrap(parse_json(text), "config.json"));
  return parse_spec(json, warnings);
}

Result<Process> parse_process(const Json& json, const std::string& file,
                              std::vector<std::string>* warnings) {
  Reader reader(file, warnings);
  Process process;
  if (!read_value(reader, json, TypeOf<Process>::kType, nullptr, &process))
    return tl::unexpected(reader.take_error());
  return process;
}

Result<Resources> parse_resources(const Json& json, const std::string& file,
                                  std::vector<std::string>* warnings) {
  Reader reader(file, warnings);
  Resources resources;
  if (!read_value(reader, json, TypeOf<Resources>::kType, nullptr, &resources))
    return tl::unexpected(reader.take_error());
  return resources;
}

Json to_json(const Spec& spec) { return write_value(TypeOf<Spec>::kType, &spec); }

Json to_json(const Process& process) { return write_value(TypeOf<Process>::kType, &process); }

Json to_json(const Resources& resources) {
  return write_value(TypeOf<Resources>::kType, &resources);
}

}  // namespace kiln::oci
