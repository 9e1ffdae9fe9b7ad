// SPDX-License-Identifier: Apache-2.0
// A stream between guest and host through VsockDevice, beside a loop of send and recv over a Unix
// socket pair. Packets go in turns of 64 KiB, as a window of a stream does.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/unix_socket.h"
#include "tests/bench/datapath.h"
#include "tests/support/fake_driver.h"
#include "vmm/virtio/vsock/vsock_device.h"

namespace kiln::vmm {
namespace {

constexpr uint32_t kTurn = 64U << 10;
constexpr uint32_t kGuestPort = 4000;
constexpr uint32_t kService = 1;
constexpr uint16_t kRingSize = 64;
constexpr uint64_t kSlot = kTurn + 4096;  // of guest memory, for one packet

// Until `size` bytes have come.
void receive_all(int fd, const bench::PlainBuffer& buffer, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
    if (got <= 0) abort();
    done += static_cast<size_t>(got);
  }
}

void send_all(int fd, const bench::PlainBuffer& buffer, size_t packet) {
  for (size_t done = 0; done < kTurn; done += packet)
    if (send(fd, buffer.data(), packet, MSG_NOSIGNAL) != static_cast<ssize_t>(packet)) abort();
}

class Bench {
 public:
  Bench(const std::string& directory, uint32_t packet) : packet_(packet), buffer_(kTurn) {
    device_ = std::move(*VsockDevice::create(*loop_, {3, directory + "/v", UniqueFd()}));
    const std::string service = directory + "/v_1";
    const auto listener = listen_unix(service);
    if (!listener) abort();
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {rx_queue_.get(), tx_queue_.get(), nullptr};
    activation.interrupt = [](unsigned) {};
    if (!device_->activate(std::move(activation))) abort();
    for (uint64_t i = 0; i < slots_; ++i) give_buffer();
    send_control(VIRTIO_VSOCK_OP_REQUEST);
    host_ = std::move(*accept_unix(listener->get()));
    unlink(service.c_str());
    take_packets();
  }

  void run() {
    auto [here, there] = std::move(*socket_pair(SOCK_STREAM));
    const int left = here.get();
    const int right = there.get();
    const uint64_t packets = kTurn / packet_;
    bench::compare(
        "vsock guest to host", packet_, packets, [&] { guest_to_host(); },
        [&] {
          send_all(left, buffer_, packet_);
          receive_all(right, buffer_, kTurn);
        });
    const bench::PlainBuffer small(packet_);
    bench::compare(
        "vsock host to guest", packet_, packets, [&] { host_to_guest(); },
        [&] {
          send_all(left, buffer_, packet_);
          receive_all(right, small, kTurn);
        });
  }

 private:
  static constexpr uint64_t kMaxSlots = 16;

  VsockHeader header(uint16_t operation) const {
    VsockHeader out{};
    out.src_cid = 3;
    out.dst_cid = kVsockHostCid;
    out.src_port = kGuestPort;
    out.dst_port = kService;
    out.type = VIRTIO_VSOCK_TYPE_STREAM;
    out.op = operation;
    out.buf_alloc = 256U << 10;
    out.fwd_cnt = taken_;
    return out;
  }
  void give_buffer() {
    const uint64_t at = rx_slots_ + (next_rx_++ % slots_) * kSlot;
    rx_.add_chain({{at, static_cast<uint32_t>(sizeof(VsockHeader)) + packet_, true}});
  }
  void send_control(uint16_t operation) {
    guest_.put(control_, header(operation));
    tx_.add_chain({{control_, sizeof(VsockHeader), false}});
    kick_tx();
  }
  void kick_tx() {
    if (!device_->process_queue(1)) abort();
    while (tx_.next_used()) {
    }
  }
  // What the device has sent: data is counted, and its buffers go back.
  uint32_t take_packets() {
    uint32_t bytes = 0;
    bool any = false;
    while (const auto used = rx_.next_used()) {
      if (used->len < sizeof(VsockHeader)) abort();
      bytes += used->len - static_cast<uint32_t>(sizeof(VsockHeader));
      give_buffer();
      any = true;
    }
    taken_ += bytes;
    if (any && !device_->process_queue(0)) abort();
    return bytes;
  }
  void guest_to_host() {
    for (uint32_t done = 0; done < kTurn; done += packet_) {
      const uint64_t at = tx_slots_ + (next_tx_++ % slots_) * kSlot;
      VsockHeader packet = header(VIRTIO_VSOCK_OP_RW);
      packet.len = packet_;
      guest_.put(at, packet);
      tx_.add_chain({{at, sizeof packet, false}, {at + sizeof packet, packet_, false}});
    }
    kick_tx();
    receive_all(host_.get(), buffer_, kTurn);
    take_packets();  // credit
  }
  void host_to_guest() {
    send_all(host_.get(), buffer_, packet_);
    for (uint32_t done = 0; done < kTurn;) {
      if (!loop_->run_once(0)) abort();
      done += take_packets();
    }
    send_control(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  }

  const uint32_t packet_;
  // Buffers of each kind: few, as the plain loop has one, so that both stay in the cache.
  const uint64_t slots_ = packet_ == kTurn ? 2 : kMaxSlots;
  FakeGuest guest_;
  FakeDriver rx_{guest_, kRingSize};
  FakeDriver tx_{guest_, kRingSize};
  std::unique_ptr<Queue> rx_queue_ = rx_.queue();
  std::unique_ptr<Queue> tx_queue_ = tx_.queue();
  const uint64_t control_ = guest_.allocate(4096);
  const uint64_t rx_slots_ = guest_.allocate(kMaxSlots * kSlot);
  const uint64_t tx_slots_ = guest_.allocate(kMaxSlots * kSlot);
  uint64_t next_rx_ = 0;
  uint64_t next_tx_ = 0;
  uint32_t taken_ = 0;
  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  std::unique_ptr<VsockDevice> device_;
  UniqueFd host_;
  bench::PlainBuffer buffer_;
};

}  // namespace
}  // namespace kiln::vmm

int main() {
  std::string directory = std::filesystem::temp_directory_path() / "kiln-bench-vsock-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) {
    std::perror("make a directory");
    return 1;
  }
  for (const uint32_t packet : {4U << 10, 64U << 10}) kiln::vmm::Bench(directory, packet).run();
  std::filesystem::remove_all(directory);
  return 0;
}
