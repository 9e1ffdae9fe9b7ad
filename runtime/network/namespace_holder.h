// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/error.h"
#include "base/process.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// A process that does nothing but be in a new network namespace, which belongs to a new user
// namespace: who is privileged there, and only there, has no power over the host. Both live on as
// long as anybody else is in them or has them open. It dies with its owner's thread.
class NamespaceHolder {
 public:
  static Result<NamespaceHolder> start();
  NamespaceHolder(NamespaceHolder&&) = default;
  NamespaceHolder& operator=(NamespaceHolder&&) = delete;
  ~NamespaceHolder() { kill_and_reap(process_); }

  // `type`: net, user. For programs that take a path.
  std::string path(const char* type) const;
  Result<UniqueFd> open_network() const;

 private:
  explicit NamespaceHolder(ChildProcess process) : process_(std::move(process)) {}
  ChildProcess process_;
};

}  // namespace kiln::runtime
