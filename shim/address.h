// SPDX-License-Identifier: Apache-2.0
// The sockets on which shims serve.
#pragma once

#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::shim {

constexpr const char* kSocketDirectory = "/run/containerd/s";
constexpr const char* kScheme = "unix://";

// One for each group of containers of a namespace of a containerd, which its socket stands for.
// Short, whatever they are called. A path, without the scheme.
std::string socket_path(const std::string& directory, const std::string& containerd_address,
                        const std::string& namespace_name, const std::string& group);

// Somebody serves there.
bool is_served(const std::string& path);

// Removes what nobody serves.
void remove_dead_socket(const std::string& path);

// The path that a listening socket has; empty: none.
std::string socket_of(int fd);

// `path` without unix:// in front.
std::string without_scheme(std::string address);

}  // namespace kiln::shim
