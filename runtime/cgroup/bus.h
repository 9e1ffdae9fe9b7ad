// SPDX-License-Identifier: Apache-2.0
// As much of D-Bus as it takes to ask systemd for a scope: method calls and signals over a Unix
// socket. A library for it cannot be linked into a static program (sd-bus has no static form).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// The values of a message, one after the other, aligned as the D-Bus specification has it
// (§Marshaling); little endian.
class BusWriter {
 public:
  void align(size_t to);
  void u8(uint8_t value) { bytes_ += static_cast<char>(value); }
  void boolean(bool value) { u32(value ? 1 : 0); }
  void u32(uint32_t value);
  void u64(uint64_t value);
  void string(std::string_view value);  // s, o
  void signature(std::string_view value);
  // An array of elements that are aligned to `element_alignment`: a length, filled in by
  // close_array.
  size_t open_array(size_t element_alignment);
  void close_array(size_t mark);
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
  std::vector<size_t> starts_;  // of the elements of open arrays
};

// The same for what arrives. After a failure all values are empty, and failed() says so.
class BusReader {
 public:
  explicit BusReader(std::string_view bytes) : bytes_(bytes) {}
  void align(size_t to);
  uint8_t u8();
  uint32_t u32();
  std::string string();
  std::string signature();
  size_t position() const { return at_; }
  bool failed() const { return failed_; }

 private:
  bool has(size_t size);
  std::string take_text(size_t size);

  std::string_view bytes_;
  size_t at_ = 0;
  bool failed_ = false;
};

struct BusCall {
  std::string path;
  std::string interface;
  std::string member;
  std::string signature;  // of `body`
  std::string body;
};

struct BusMessage {
  uint8_t type = 0;  // 2: return, 3: error, 4: signal
  uint32_t reply_serial = 0;
  std::string member;
  std::string error_name;
  std::string signature;
  std::string body;
};
// One whole message.
Result<BusMessage> parse_bus_message(std::string_view bytes);
std::string encode_bus_call(const BusCall& call, const std::string& destination, uint32_t serial);

// A connection to a bus, for one destination. Blocking, with a deadline for each step.
class Bus {
 public:
  // Authenticates as this process's user and says hello.
  static Result<Bus> connect(const std::string& socket_path, std::string destination);

  // The answer; an error of the peer is ours, with its text. Signals that come first are kept.
  Result<BusMessage> call(const BusCall& call);
  // The next signal that has `member`.
  Result<BusMessage> wait_signal(const std::string& member);

 private:
  Bus(UniqueFd socket, std::string destination)
      : socket_(std::move(socket)), destination_(std::move(destination)) {}
  Result<void> authenticate();
  Result<void> send(const std::string& bytes);
  Result<void> receive_more();
  Result<BusMessage> receive();

  UniqueFd socket_;
  std::string destination_;
  std::string incoming_;
  std::vector<BusMessage> signals_;
  uint32_t serial_ = 0;
};

}  // namespace kiln::runtime
