// SPDX-License-Identifier: Apache-2.0
// config.json: whatever is accepted must be written back as something that is accepted and equal.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "oci/parse.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

[[noreturn]] void report(const char* what, const std::string& detail) {
  std::fprintf(stderr, "%s: %s\n", what, detail.c_str());
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> warnings;
  const auto spec = kiln::oci::parse_spec_text(text, &warnings);
  if (!spec) {
    if (!spec.error().message.starts_with("config.json: "))
      report("error without the file's name", spec.error().message);
    return 0;
  }
  const kiln::Json written = kiln::oci::to_json(*spec);
  warnings.clear();
  const auto again = kiln::oci::parse_spec_text(kiln::dump_json(written), &warnings);
  if (!again) report("refused what was written", again.error().message);
  if (!warnings.empty()) report("warned of what was written", warnings.front());
  const kiln::Json rewritten = kiln::oci::to_json(*again);
  if (rewritten != written) report("not equal", kiln::Json::diff(written, rewritten).dump());
  return 0;
}
