// SPDX-License-Identifier: Apache-2.0
// Rules that more than one table uses.
#pragma once

#include "oci/field.h"

namespace kiln::oci {

extern const Rule kAbsolutePath;
extern const Rule kNotEmpty;
extern const Rule kEnvironment;  // NAME=value
extern const Rule kCpuList;      // 0-3,7

bool is_absolute_path(std::string_view text);

}  // namespace kiln::oci
