// SPDX-License-Identifier: Apache-2.0
// What the annotation io.kiln.vsock-forward says.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace kiln::runtime {

constexpr const char* kForwardAnnotation = "io.kiln.vsock-forward";
constexpr size_t kMaxForwards = 16;

// A Unix socket that works across the VM's boundary. Both paths are the container's: an annotation
// names no path of the host.
struct Forward {
  std::string path;    // where the container connects to, or serves
  std::string shared;  // where the host finds what the container serves; empty: the host serves
};

// As it is written in the annotation.
std::string text_of(const Forward& forward);

// `PATH` or `serve:PATH=SHARED`, with commas between them. Errors name the entry.
Result<std::vector<Forward>> parse_forwards(std::string_view value);

// The error of one entry, with the annotation and the entry in front.
Error about_forward(const Forward& forward, Error error);

}  // namespace kiln::runtime
