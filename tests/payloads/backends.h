// SPDX-License-Identifier: Apache-2.0
// What stands behind the devices of a payload's machine.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::vmm {

// Removed with all that is in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A file of `size` zeroes in `directory`; the result is open for reading, and for writing unless
// `read_only`.
Result<UniqueFd> make_disk(const std::string& directory, uint64_t size, bool read_only);

// Sends back what it gets on each connection, until it is destroyed.
class EchoServer {
 public:
  static Result<std::unique_ptr<EchoServer>> listen(const std::string& path);
  ~EchoServer();
  EchoServer(const EchoServer&) = delete;
  EchoServer& operator=(const EchoServer&) = delete;

 private:
  EchoServer(UniqueFd listener, UniqueFd wake);
  void run();

  UniqueFd listener_;
  UniqueFd wake_;  // an eventfd
  std::thread thread_;
};

// A client of the guest's port: says what it wants, sends `request`, and reads until it has
// `answer_size` bytes. What came after the greeting.
Result<std::string> ask_guest(const std::string& uds_path, uint32_t port,
                              const std::string& request, size_t answer_size);

// A tap whose host side has the address 10.0.2.2/24 and is up, in the calling thread's network
// namespace.
Result<UniqueFd> make_tap();

}  // namespace kiln::vmm
