// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string_view>

#include "base/format.h"
#include "runtime/config/settings.h"

namespace kiln::runtime {

Result<void> apply_annotations(Config& config,
                               const std::map<std::string, std::string>& annotations) {
  const std::string_view prefix = kAnnotationPrefix;
  for (const auto& [full_name, value] : annotations) {
    if (!std::string_view(full_name).starts_with(prefix)) continue;
    const std::string_view name = std::string_view(full_name).substr(prefix.size());
    const auto table = settings();
    const auto setting = std::find_if(table.begin(), table.end(), [&](const Setting& candidate) {
      return candidate.from_annotation != nullptr && candidate.annotation == name;
    });
    if (setting == table.end())
      return invalid_argument(fmt::format("annotation `{}`: no such setting", full_name));
    const auto& allowed = config.allowed_annotations;
    if (std::find(allowed.begin(), allowed.end(), name) == allowed.end())
      return make_error(ErrorKind::kPermissionDenied,
                        fmt::format("annotation `{}`: the configuration file does not allow it "
                                    "(annotations.allow)",
                                    full_name));
    TRY(wrap(setting->from_annotation(config, value), fmt::format("annotation `{}`", full_name)));
  }
  return {};
}

}  // namespace kiln::runtime
