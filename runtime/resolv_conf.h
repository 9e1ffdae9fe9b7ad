// SPDX-License-Identifier: Apache-2.0
// The file that a container sees as /etc/resolv.conf.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"
#include "runtime/shares.h"

namespace kiln::runtime {

// Remembers by descriptor where it is, so that it finds the container's file whatever has become of
// the paths, and may be asked again: engines write it late. What is in the container's directories
// is the guest's: it is looked up beneath them and never leads out of them.
class ResolvConf {
 public:
  // By the last mount that has something to say about the path, else by the rootfs. One that the
  // host does not have, on a file system of the guest's own, names nothing.
  static Result<ResolvConf> of(const oci::Spec& spec, const Shares& shares);
  // The one at a path of the host's.
  static Result<ResolvConf> at(const std::string& path);

  // Empty without a file; an error for one that is longer than a name server list can be.
  Result<std::string> text() const;
  // Whether it has a line `nameserver <address>`.
  Result<bool> names(std::string_view address) const;

 private:
  UniqueFd source_;     // the file, or the directory that it is in
  std::string inside_;  // its path there; empty: source_ is the file
};

// The same for its text, as resolv.conf(5) has it.
bool names_server(std::string_view text, std::string_view address);
// The first name server that is on the loopback interface (IPv4); empty: none.
std::string loopback_server(std::string_view text);
// The text with `address` in place of every such name server.
std::string replace_loopback_servers(std::string_view text, std::string_view address);

}  // namespace kiln::runtime
