// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/bus.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/file.h"
#include "base/format.h"
#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

// D-Bus specification 0.43 §Message Protocol.
constexpr size_t kFixedHeader = 16;
constexpr size_t kMaxMessageBytes = size_t{1} << 20;
constexpr uint8_t kMethodCall = 1;
constexpr uint8_t kMethodReturn = 2;
constexpr uint8_t kError = 3;
constexpr uint8_t kSignal = 4;
enum HeaderField : uint8_t {
  kPath = 1,
  kInterface = 2,
  kMember = 3,
  kErrorName = 4,
  kReplySerial = 5,
  kDestination = 6,
  kSignature = 8,
};

constexpr int kTimeoutMs = 30'000;
constexpr size_t kMaxSignals = 1024;

tl::unexpected<Error> broken() {
  return make_error(ErrorKind::kInternal, "D-Bus: a message that is not one");
}

void header_field(BusWriter& out, HeaderField field, const char* type, const std::string& value) {
  out.align(8);
  out.u8(field);
  out.signature(type);
  if (*type == 'g') {
    out.signature(value);
  } else {
    out.string(value);
  }
}

uint32_t u32_at(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

size_t rounded(size_t value, size_t to) { return (value + to - 1) / to * to; }

// Of the message that begins there; 0: its first 16 bytes are not there yet. Little endian only:
// a bus sends in the order of the sender, and ours is on this host.
Result<size_t> message_size(std::string_view bytes) {
  if (bytes.size() < kFixedHeader) return 0;
  const size_t body = u32_at(bytes, 4);
  const size_t fields = u32_at(bytes, 12);
  if (bytes[0] != 'l' || body > kMaxMessageBytes || fields > kMaxMessageBytes) return broken();
  return rounded(kFixedHeader + fields, 8) + body;
}

}  // namespace

void BusWriter::align(size_t to) { bytes_.resize(rounded(bytes_.size(), to)); }

void BusWriter::u32(uint32_t value) {
  align(4);
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void BusWriter::u64(uint64_t value) {
  align(8);
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void BusWriter::string(std::string_view value) {
  u32(static_cast<uint32_t>(value.size()));
  bytes_.append(value);
  u8(0);
}

void BusWriter::signature(std::string_view value) {
  u8(static_cast<uint8_t>(value.size()));
  bytes_.append(value);
  u8(0);
}

size_t BusWriter::open_array(size_t element_alignment) {
  u32(0);
  const size_t mark = bytes_.size() - 4;
  align(element_alignment);
  starts_.push_back(bytes_.size());
  return mark;
}

void BusWriter::close_array(size_t mark) {
  const auto size = static_cast<uint32_t>(bytes_.size() - starts_.back());
  starts_.pop_back();
  std::memcpy(bytes_.data() + mark, &size, sizeof size);
}

bool BusReader::has(size_t size) {
  if (!failed_ && bytes_.size() - at_ >= size) return true;
  failed_ = true;
  return false;
}

void BusReader::align(size_t to) {
  const size_t next = rounded(at_, to);
  if (has(next - at_)) at_ = next;
}

uint8_t BusReader::u8() {
  if (!has(1)) return 0;
  return static_cast<uint8_t>(bytes_[at_++]);
}

uint32_t BusReader::u32() {
  align(4);
  if (!has(4)) return 0;
  const uint32_t value = u32_at(bytes_, at_);
  at_ += 4;
  return value;
}

std::string BusReader::take_text(size_t size) {
  if (!has(size + 1)) return {};
  std::string text(bytes_.substr(at_, size));
  at_ += size + 1;
  return text;
}

std::string BusReader::string() {
  const size_t size = u32();
  return take_text(size);
}

std::string BusReader::signature() {
  const size_t size = u8();
  return take_text(size);
}

Result<BusMessage> parse_bus_message(std::string_view bytes) {
  const size_t size = TRY(message_size(bytes));
  if (size == 0 || bytes.size() < size) return broken();
  BusMessage message;
  message.type = static_cast<uint8_t>(bytes[1]);
  const size_t fields_end = kFixedHeader + u32_at(bytes, 12);
  BusReader reader(bytes.substr(0, fields_end));
  for (size_t i = 0; i < kFixedHeader; ++i) reader.u8();
  while (!reader.failed() && reader.position() < fields_end) {
    reader.align(8);
    const uint8_t field = reader.u8();
    const std::string type = reader.signature();
    std::string text;
    uint32_t number = 0;
    if (type == "s" || type == "o") {
      text = reader.string();
    } else if (type == "g") {
      text = reader.signature();
    } else if (type == "u") {
      number = reader.u32();
    } else {
      return broken();
    }
    if (field == kReplySerial) message.reply_serial = number;
    if (field == kMember) message.member = text;
    if (field == kErrorName) message.error_name = text;
    if (field == kSignature) message.signature = text;
  }
  if (reader.failed()) return broken();
  const size_t body = u32_at(bytes, 4);
  message.body = bytes.substr(size - body, body);
  return message;
}

std::string encode_bus_call(const BusCall& call, const std::string& destination, uint32_t serial) {
  BusWriter out;
  out.u8('l');
  out.u8(kMethodCall);
  out.u8(0);  // flags
  out.u8(1);  // version of the protocol
  out.u32(static_cast<uint32_t>(call.body.size()));
  out.u32(serial);
  const size_t fields = out.open_array(8);
  header_field(out, kPath, "o", call.path);
  header_field(out, kInterface, "s", call.interface);
  header_field(out, kMember, "s", call.member);
  header_field(out, kDestination, "s", destination);
  if (!call.signature.empty()) header_field(out, kSignature, "g", call.signature);
  out.close_array(fields);
  out.align(8);
  return out.bytes() + call.body;
}

Result<Bus> Bus::connect(const std::string& socket_path, std::string destination) {
  Bus bus(TRY(connect_unix(socket_path)), std::move(destination));
  TRY(wrap(bus.authenticate(), fmt::format("authenticate at `{}`", socket_path)));
  const std::string to = std::exchange(bus.destination_, "org.freedesktop.DBus");
  const std::string peer = bus.destination_;
  TRY(bus.call({"/org/freedesktop/DBus", peer, "Hello", "", ""}));
  BusWriter rule;
  rule.string(fmt::format("type='signal',sender='{}'", to));
  TRY(bus.call({"/org/freedesktop/DBus", peer, "AddMatch", "s", rule.bytes()}));
  bus.destination_ = to;
  return bus;
}

// §Authentication Protocol: EXTERNAL, the user's number in hexadecimal digits of its text.
Result<void> Bus::authenticate() {
  std::string user;
  for (const char digit : fmt::format("{}", geteuid()))
    user += fmt::format("{:02x}", static_cast<unsigned>(digit));
  std::string hello(1, '\0');
  hello += fmt::format("AUTH EXTERNAL {}\r\n", user);
  TRY(send(hello));
  while (incoming_.find("\r\n") == std::string::npos) TRY(receive_more());
  const size_t end = incoming_.find("\r\n");
  if (!incoming_.starts_with("OK "))
    return make_error(ErrorKind::kPermissionDenied, "D-Bus: the bus refuses this user");
  incoming_.erase(0, end + 2);
  return send("BEGIN\r\n");
}

Result<void> Bus::send(const std::string& bytes) { return send_with_fds(socket_.get(), bytes, {}); }

Result<void> Bus::receive_more() {
  pollfd waiting{socket_.get(), POLLIN, 0};
  const int ready = retry_eintr([&] { return poll(&waiting, 1, kTimeoutMs); });
  if (ready < 0) return sys_error("poll");
  if (ready == 0) return make_error(ErrorKind::kDeadlineExceeded, "D-Bus: no answer in time");
  char buffer[4096];
  const ssize_t size = retry_eintr([&] { return recv(socket_.get(), buffer, sizeof buffer, 0); });
  if (size < 0) return sys_error("receive from D-Bus");
  if (size == 0) return make_error(ErrorKind::kUnavailable, "D-Bus: the connection has ended");
  incoming_.append(buffer, static_cast<size_t>(size));
  return {};
}

Result<BusMessage> Bus::receive() {
  while (true) {
    const size_t size = TRY(message_size(incoming_));
    if (size > 0 && incoming_.size() >= size) {
      auto message = parse_bus_message(std::string_view(incoming_).substr(0, size));
      incoming_.erase(0, size);
      return message;
    }
    TRY(receive_more());
  }
}

Result<BusMessage> Bus::call(const BusCall& call) {
  const uint32_t serial = ++serial_;
  TRY(send(encode_bus_call(call, destination_, serial)));
  while (true) {
    BusMessage message = TRY(receive());
    if (message.type == kSignal && signals_.size() < kMaxSignals)
      signals_.push_back(std::move(message));
    if (message.reply_serial != serial) continue;
    if (message.type == kMethodReturn) return message;
    if (message.type != kError) continue;
    BusReader text(message.body);
    const std::string said = message.signature.starts_with('s') ? text.string() : "";
    return make_error(ErrorKind::kAborted,
                      fmt::format("{}: {}", call.member, said.empty() ? message.error_name : said));
  }
}

Result<BusMessage> Bus::wait_signal(const std::string& member) {
  while (true) {
    const auto found =
        std::find_if(signals_.begin(), signals_.end(),
                     [&](const BusMessage& signal) { return signal.member == member; });
    if (found != signals_.end()) {
      BusMessage signal = std::move(*found);
      signals_.erase(found);
      return signal;
    }
    signals_.clear();
    BusMessage message = TRY(receive());
    if (message.type == kSignal) signals_.push_back(std::move(message));
  }
}

}  // namespace kiln::runtime
