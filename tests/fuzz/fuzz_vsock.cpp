// SPDX-License-Identifier: Apache-2.0
// A guest that sends what packets it likes, while a service and a client on the host do their part.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/unix_socket.h"
#include "tests/support/fake_driver.h"
#include "vmm/virtio/vsock/vsock_device.h"

namespace {

using kiln::ByteReader;
using kiln::EventLoop;
using kiln::UniqueFd;
using kiln::vmm::Activation;
using kiln::vmm::FakeDriver;
using kiln::vmm::FakeGuest;
using kiln::vmm::VsockDevice;
using kiln::vmm::VsockHeader;

constexpr int kMaxSteps = 128;
constexpr uint32_t kBufferSize = 512;
constexpr size_t kMaxHostSockets = 16;

// Where the sockets are; removed at exit.
const std::string& place() {
  static const std::string path = [] {
    std::string name = std::filesystem::temp_directory_path() / "kiln-fuzz-vsock-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) abort();
    static std::string made = name;
    atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(made, ignored);
    });
    return made;
  }();
  return path;
}

// The service on port 1 and the clients of the host: they read, write and close at random.
struct Host {
  UniqueFd listener;
  std::vector<UniqueFd> sockets;

  void accept() {
    while (sockets.size() < kMaxHostSockets) {
      auto socket = kiln::accept_unix(listener.get(), SOCK_NONBLOCK);
      if (!socket) return;
      sockets.push_back(std::move(*socket));
    }
  }
  void act(uint8_t choice, ByteReader& input) {
    accept();
    if (choice % 8 == 7 && sockets.size() < kMaxHostSockets) {
      auto socket = kiln::connect_unix(place() + "/v", SOCK_STREAM | SOCK_NONBLOCK);
      if (!socket) return;
      static_cast<void>(send(socket->get(), "CONNECT 5\n", 10, MSG_NOSIGNAL));
      sockets.push_back(std::move(*socket));
      return;
    }
    if (sockets.empty()) return;
    const size_t which = (choice / 8) % sockets.size();
    const int fd = sockets[which].get();
    std::array<char, 1024> buffer{};
    switch (choice % 8) {
      case 0:
      case 1:
        static_cast<void>(recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT));
        break;
      case 2:
      case 3:
        static_cast<void>(send(fd, buffer.data(), input.read<uint8_t>().value_or(1) * size_t{4},
                               MSG_NOSIGNAL | MSG_DONTWAIT));
        break;
      case 4:
        shutdown(fd, SHUT_WR);
        break;
      case 5:
        shutdown(fd, SHUT_RD);
        break;
      default:
        sockets.erase(sockets.begin() + static_cast<ptrdiff_t>(which));
    }
  }
};

void run(EventLoop& loop) {
  for (int i = 0; i < 3; ++i) {
    if (!loop.run_once(0)) abort();
  }
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const char* name : {"/v", "/v_1"}) unlink((place() + name).c_str());
  ByteReader input(std::as_bytes(std::span(data, size)));
  FakeGuest guest;
  FakeDriver rx(guest, 32);
  FakeDriver tx(guest, 32);
  FakeDriver events(guest, 4);
  const auto rx_queue = rx.queue();
  const auto tx_queue = tx.queue();
  const auto event_queue = events.queue();
  auto loop = EventLoop::create();
  Host host;
  host.listener = std::move(*kiln::listen_unix(place() + "/v_1", SOCK_STREAM | SOCK_NONBLOCK));
  auto device = VsockDevice::create(**loop, {3, place() + "/v", UniqueFd()});
  if (!device) abort();
  Activation activation;
  activation.memory = guest.memory();
  activation.queues = {rx_queue.get(), tx_queue.get(), event_queue.get()};
  activation.interrupt = [](unsigned) {};
  if (!(*device)->activate(activation)) abort();
  const uint64_t packets = guest.allocate(32 * 1024);
  const uint64_t buffers = guest.allocate(32 * kBufferSize);
  for (int i = 0; i < kMaxSteps; ++i) {
    const auto step = input.read<uint8_t>();
    if (!step) break;
    if (*step < 128) {
      // A packet: the guest's own header, with addresses that mostly are right, and some bytes.
      auto header = input.read<VsockHeader>().value_or(VsockHeader{});
      if (*step % 4 != 0) {
        header.src_cid = 3;
        header.dst_cid = 2;
        header.type = 1;
        header.src_port %= 8;
        header.dst_port = *step % 4 == 1 ? 1 : (1U << 30) + header.dst_port % 4;
        header.op %= 9;
        header.len %= 600;
      }
      const uint64_t at = packets + (static_cast<uint64_t>(i) % 32) * 1024;
      guest.put(at, header);
      const uint32_t length = *step % 16 == 15 ? *step : 44 + 600;
      tx.add_chain({{at, length, false}});
      static_cast<void>((*device)->process_queue(1));
      while (tx.next_used()) {
      }
    } else if (*step < 192) {
      const uint64_t at = buffers + (static_cast<uint64_t>(i) % 32) * kBufferSize;
      rx.add_chain({{at, *step % 8 == 7 ? 20 : kBufferSize, true}});
      static_cast<void>((*device)->process_queue(0));
      while (const auto used = rx.next_used()) {
        // A packet that the device sends is whole, and of the size that it says.
        if (used->len < sizeof(VsockHeader) || used->len > kBufferSize) abort();
      }
    } else if (*step < 250) {
      host.act(static_cast<uint8_t>(*step - 192), input);
    } else if (*step < 254) {
      (*device)->suspend();
      run(**loop);
      if (!(*device)->activate(activation)) abort();
    } else {
      (*device)->reset();
      if ((*device)->connections() != 0) abort();
      if (!(*device)->activate(activation)) abort();
    }
    run(**loop);
    host.accept();
  }
  return 0;
}
