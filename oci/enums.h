// SPDX-License-Identifier: Apache-2.0
// The values that runtime-spec 1.2 allows where it lists them. Each list ends with a null.
#pragma once

#include <optional>
#include <string_view>

namespace kiln::oci {

extern const char* const kHookNames[];
extern const char* const kNamespaceTypes[];
extern const char* const kRlimitTypes[];
extern const char* const kSchedulerPolicies[];
extern const char* const kSchedulerFlags[];
extern const char* const kIoPriorityClasses[];
extern const char* const kPropagations[];
extern const char* const kPersonalityDomains[];
extern const char* const kSeccompActions[];
extern const char* const kSeccompOperators[];
extern const char* const kSeccompArchitectures[];
extern const char* const kSeccompFlags[];

// Indexed by the kernel's number: kCapabilities[CAP_KILL] is "CAP_KILL".
extern const char* const kCapabilities[];

std::optional<unsigned> capability_number(std::string_view name);

}  // namespace kiln::oci
