// SPDX-License-Identifier: Apache-2.0
// A network device with a fake driver, for its tests. Where the tap would be is a socket that keeps
// frames apart, or a descriptor that the test gives.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <optional>
#include <string>
#include <vector>

#include "tests/support/fake_driver.h"
#include "vmm/virtio/net/net_device.h"

namespace kiln::vmm {

constexpr uint64_t net_bit(unsigned bit) { return uint64_t{1} << bit; }
inline constexpr uint64_t kMergeable = net_bit(VIRTIO_NET_F_MRG_RXBUF);

class NetFixture : public ::testing::Test {
 protected:
  static constexpr MacAddress kMac = {2, 0, 0, 0, 0, 1};

  struct Frame {
    virtio_net_hdr_v1 header{};
    std::string bytes;
  };

  // A device on one end of a socket pair; the other is `peer_`.
  void create_on_socket(NetOptions options = {}) {
    int ends[2] = {-1, -1};
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    peer_.reset(ends[1]);
    options.tap.reset(ends[0]);
    options.control.prepare = [](int) { return Result<void>(); };
    options.control.set_offloads = [this](int, unsigned offloads) {
      offloads_.push_back(offloads);
      return Result<void>();
    };
    create(std::move(options));
  }
  void create(NetOptions options) {
    options.mac = kMac;
    auto created = NetDevice::create(*loop_, std::move(options));
    ASSERT_TRUE(created) << created.error().message;
    device_ = std::move(*created);
  }
  void activate(uint64_t features = kMergeable) {
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {rx_queue_.get(), tx_queue_.get()};
    activation.acked_features = features;
    activation.interrupt = [this](unsigned index) { ++interrupts_[index]; };
    activation.broken = [this](unsigned index, const Error&) { broken_.push_back(index); };
    activation.config_changed = [this] { ++config_changes_; };
    ASSERT_TRUE(device_->activate(std::move(activation)));
    settle();
  }
  // Lets the loop do what it can without waiting.
  void settle() {
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(loop_->run_once(0));
  }
  // Lets it wait, for as long as `done` is not the case.
  template <typename Done>
  void run_until(Done done) {
    for (int i = 0; i < 200 && !done(); ++i) ASSERT_TRUE(loop_->run_once(50));
  }

  // Receive buffers of `size` bytes each.
  void post(uint32_t size, unsigned count = 1) {
    for (unsigned i = 0; i < count; ++i) {
      const uint64_t at = guest_.allocate(size);
      posted_[rx_.add_chain({{at, size, true}})] = {at, size};
    }
  }
  void kick(unsigned index = NetDevice::kRx) { ASSERT_TRUE(device_->process_queue(index)); }
  // What the driver finds: the next frame, put together as num_buffers says.
  std::optional<Frame> next_received() {
    auto used = rx_.next_used();
    if (!used) return std::nullopt;
    Frame frame{guest_.get<virtio_net_hdr_v1>(posted_[used->id].address), {}};
    for (unsigned left = frame.header.num_buffers; left != 0; --left) {
      if (!used) {
        ADD_FAILURE() << left << " buffers are missing";
        return frame;
      }
      const FakeBuffer& buffer = posted_[used->id];
      EXPECT_LE(used->len, buffer.size);
      frame.bytes += guest_.get_text(buffer.address, used->len);
      if (left > 1) used = rx_.next_used();
    }
    frame.bytes.erase(0, sizeof frame.header);
    return frame;
  }
  // A frame on the wire towards the guest.
  void arrive(const std::string& bytes, virtio_net_hdr_v1 header = {}) const {
    const std::string all = text_of(header) + bytes;
    ASSERT_EQ(send(peer_.get(), all.data(), all.size(), 0), static_cast<ssize_t>(all.size()));
  }
  // What the guest has sent, with its header.
  std::optional<std::string> next_sent() const {
    std::string bytes(70'000, '\0');
    const ssize_t size = recv(peer_.get(), bytes.data(), bytes.size(), 0);
    if (size < 0) return std::nullopt;
    bytes.resize(static_cast<size_t>(size));
    return bytes;
  }
  // The guest sends; the frame is in one buffer behind its header.
  void transmit(const std::string& bytes, virtio_net_hdr_v1 header = {}) {
    const std::string all = text_of(header) + bytes;
    const uint64_t at = guest_.allocate(all.size());
    guest_.put_text(at, all);
    tx_.add_chain({{at, static_cast<uint32_t>(all.size()), false}});
  }
  static std::string text_of(const virtio_net_hdr_v1& header) {
    return std::string(reinterpret_cast<const char*>(&header), sizeof header);
  }
  // Bytes that are not the same everywhere.
  static std::string frame_of(size_t size, unsigned seed = 1) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 31 + i / 251 + seed);
    return bytes;
  }
  uint16_t link_status() const {
    uint16_t status = 0;
    device_->read_config(6, std::as_writable_bytes(std::span(&status, 1)));
    return status;
  }

  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  FakeGuest guest_;
  FakeDriver rx_{guest_, 32};
  FakeDriver tx_{guest_, 128};
  std::unique_ptr<Queue> rx_queue_ = rx_.queue();
  std::unique_ptr<Queue> tx_queue_ = tx_.queue();
  UniqueFd peer_;
  std::array<FakeBuffer, 32> posted_{};  // by head
  std::array<unsigned, 2> interrupts_{};
  std::vector<unsigned> broken_;    // queues
  std::vector<unsigned> offloads_;  // as they were set
  unsigned config_changes_ = 0;
  std::unique_ptr<NetDevice> device_;  // the last, because its end calls back
};

}  // namespace kiln::vmm
