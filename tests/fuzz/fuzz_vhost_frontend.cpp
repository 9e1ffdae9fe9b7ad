// SPDX-License-Identifier: Apache-2.0
// A vhost-user back-end that says what it likes to our front-end. What it says in each part of a
// device's life is written before that part begins, and the front-end does not wait.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/unix_socket.h"
#include "tests/support/fake_driver.h"
#include "vmm/vhost_user/frontend.h"

namespace {

using kiln::ByteReader;
using kiln::UniqueFd;
using kiln::vmm::Activation;
using kiln::vmm::DeviceType;
using kiln::vmm::FakeDriver;
using kiln::vmm::FakeGuest;
using kiln::vmm::VhostUserFrontend;
using kiln::vmm::VhostUserOptions;
namespace vhost_user = kiln::vmm::vhost_user;

constexpr int kMaxMessages = 64;  // in one part; they must fit the socket
constexpr size_t kQueues = 2;

// Kinds of a message, besides answers to the request of that number.
constexpr uint8_t kRaw = 0x80;      // bytes as they are
constexpr uint8_t kWithFds = 0x40;  // an answer with descriptors
constexpr uint8_t kEndOfPart = 0xff;
constexpr uint8_t kClose = 0xfe;
constexpr uint8_t kRingError = 0xfd;

// The back-end, which has the descriptors that the front-end has sent.
class BackEnd {
 public:
  BackEnd(UniqueFd socket, ByteReader& input) : socket_(std::move(socket)), input_(input) {}

  void speak() {
    for (int i = 0; i < kMaxMessages; ++i) {
      const uint8_t kind = input_.read<uint8_t>().value_or(kEndOfPart);
      if (kind == kEndOfPart) return;
      if (kind == kClose) {
        shutdown(socket_.get(), SHUT_WR);
      } else if (kind == kRingError) {
        signal_all();
      } else {
        say(kind);
      }
    }
  }

 private:
  void say(uint8_t kind) {
    const size_t size = input_.read<uint8_t>().value_or(0);
    const auto payload = *input_.read_bytes(std::min(size, input_.rest().size()));
    std::string bytes;
    if ((kind & kRaw) == 0) {
      const vhost_user::Header header{static_cast<uint32_t>(kind & 0x3f),
                                      vhost_user::kVersion | vhost_user::kFlagReply,
                                      static_cast<uint32_t>(payload.size())};
      bytes.assign(reinterpret_cast<const char*>(&header), sizeof header);
    }
    bytes.append(reinterpret_cast<const char*>(payload.data()), payload.size());
    if (bytes.empty()) return;
    const std::array fds = {socket_.get(), socket_.get()};
    const size_t count = (kind & kRaw) == 0 && (kind & kWithFds) != 0 ? fds.size() : 0;
    static_cast<void>(kiln::send_with_fds(socket_.get(), bytes, std::span(fds).first(count)));
  }
  // Every eventfd that it was given: calls, kicks, errors.
  void signal_all() {
    while (true) {
      std::array<char, CMSG_SPACE(sizeof(int) * 8)> control{};
      std::array<char, 512> bytes{};
      iovec part{bytes.data(), bytes.size()};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      if (recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0) return;
      for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
           header = CMSG_NXTHDR(&message, header)) {
        for (size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
          int fd = -1;
          std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
          const UniqueFd owned(fd);
          const uint64_t one = 1;
          if (write(fd, &one, sizeof one) < 0) continue;  // not an eventfd
        }
      }
    }
  }

  UniqueFd socket_;
  ByteReader& input_;
};

const UniqueFd& memory_file() {
  static const UniqueFd file = [] {
    UniqueFd made(memfd_create("guest", MFD_CLOEXEC));
    if (ftruncate(made.get(), FakeGuest::kSize) != 0) abort();
    return made;
  }();
  return file;
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::array kTypes = {DeviceType::kFs,     DeviceType::kVsock,   DeviceType::kBlock,
                                 DeviceType::kNet,    DeviceType::kConsole, DeviceType::kEntropy,
                                 DeviceType::kBalloon};
  ByteReader input(std::as_bytes(std::span(data, size)));
  const auto choice = input.read<uint8_t>().value_or(0);
  auto [front, back] = std::move(*kiln::socket_pair(SOCK_STREAM));
  // One that fills its socket loses what does not fit.
  fcntl(back.get(), F_SETFL, O_NONBLOCK);
  BackEnd backend(std::move(back), input);
  auto loop = std::move(*kiln::EventLoop::create());
  FakeGuest guest(memory_file());
  FakeDriver first(guest, 16);
  FakeDriver second(guest, 16);
  const UniqueFd interrupt(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const UniqueFd kick(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  int lost = 0;
  VhostUserOptions options;
  options.socket = std::move(front);
  options.type = kTypes[choice % kTypes.size()];
  options.queue_sizes = {16, 16};
  if ((choice & 0x80) != 0) options.config.resize(40);
  options.patience_ms = 0;
  backend.speak();
  auto made =
      VhostUserFrontend::create(*loop, std::move(options), [&](const kiln::Error&) { ++lost; });
  if (!made) return 0;
  VhostUserFrontend& device = **made;
  // virtio 1.2 §2.2: the transport's bits are not the device's to offer.
  if ((device.features() >> 24 & 0x3ff'ffff) != 0) abort();
  std::array<std::byte, 300> config{};
  device.read_config(choice, config);
  Activation activation;
  activation.memory = guest.memory();
  activation.acked_features = device.features() | uint64_t{1} << 32;
  activation.interrupt_fd = interrupt.get();
  activation.broken = [](unsigned index, const kiln::Error&) {
    if (index >= kQueues) abort();
  };
  for (const FakeDriver* driver : {&first, &second})
    activation.remote_queues.push_back({true, driver->config(), kick.get()});
  for (int part = 0; part < 8; ++part) {
    backend.speak();
    switch (part % 4) {
      case 0:
        static_cast<void>(device.activate(activation));
        break;
      case 2:
        part == 2 ? device.suspend() : device.reset();
        break;
      default:
        break;
    }
    for (int i = 0; i < 3; ++i)
      if (!loop->run_once(0)) abort();
  }
  if (lost > 1) abort();
  return 0;
}
