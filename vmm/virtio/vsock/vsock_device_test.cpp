// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/vsock/vsock_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/unix_socket.h"
#include "tests/support/fake_driver.h"

namespace kiln::vmm {
namespace {

constexpr uint32_t kGuestPort = 4000;
constexpr uint32_t kService = 1;
constexpr uint32_t kBufferSize = 4096;

struct Packet {
  VsockHeader header{};
  std::string data;
};

class VsockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = std::filesystem::temp_directory_path() / "kiln-vsock-test-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
    loop_ = std::move(*EventLoop::create());
    device_ = std::move(*VsockDevice::create(*loop_, {3, directory_ + "/v", UniqueFd()}));
    listener_ = std::move(*listen_unix(directory_ + "/v_1", SOCK_STREAM | SOCK_NONBLOCK));
    activate();
    packet_ = guest_.allocate(70'000);
    buffers_ = guest_.allocate(64 * kBufferSize);
  }
  void TearDown() override {
    device_.reset();
    EXPECT_FALSE(std::filesystem::exists(directory_ + "/v"));
    std::filesystem::remove_all(directory_);
  }

  void activate() {
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {rx_queue_.get(), tx_queue_.get(), nullptr};
    activation.interrupt = [this](unsigned index) { interrupts_ |= 1U << index; };
    activation.broken = [this](unsigned index, const Error&) { broken_ |= 1U << index; };
    ASSERT_TRUE(device_->activate(std::move(activation)));
  }
  void run() {
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(loop_->run_once(0));
  }
  void give_buffers(int count) {
    for (int i = 0; i < count; ++i)
      rx_.add_chain({{buffers_ + (next_buffer_++ % 64) * kBufferSize, kBufferSize, true}});
    ASSERT_TRUE(device_->process_queue(0));
    run();
  }
  static VsockHeader header(uint16_t operation, uint32_t guest_port, uint32_t host_port) {
    VsockHeader out{};
    out.src_cid = 3;
    out.dst_cid = 2;
    out.src_port = guest_port;
    out.dst_port = host_port;
    out.type = VIRTIO_VSOCK_TYPE_STREAM;
    out.op = operation;
    out.buf_alloc = 1 << 18;
    return out;
  }
  void send_header(VsockHeader packet, const std::string& data = {}) {
    packet.len = static_cast<uint32_t>(data.size());
    send_raw(packet, data);
  }
  void send_raw(const VsockHeader& packet, const std::string& data) {
    guest_.put(packet_, packet);
    guest_.put_text(packet_ + sizeof packet, data);
    tx_.add_chain({{packet_, static_cast<uint32_t>(sizeof packet + data.size()), false}});
    ASSERT_TRUE(device_->process_queue(1));
    ASSERT_TRUE(tx_.next_used());
    run();
  }
  void send(uint16_t operation, const std::string& data = {}, uint32_t flags = 0) {
    VsockHeader packet = header(operation, kGuestPort, kService);
    packet.flags = flags;
    send_header(packet, data);
  }
  // What the device has sent to the guest.
  std::vector<Packet> received() {
    std::vector<Packet> out;
    while (const auto used = rx_.next_used()) {
      const auto descriptor =
          guest_.get<vring_desc>(rx_.config().descriptor_table + used->id * sizeof(vring_desc));
      Packet packet;
      packet.header = guest_.get<VsockHeader>(descriptor.addr);
      packet.data =
          guest_.get_text(descriptor.addr + sizeof packet.header, used->len - sizeof packet.header);
      EXPECT_EQ(packet.header.len, packet.data.size());
      out.push_back(std::move(packet));
    }
    return out;
  }
  std::vector<uint16_t> operations() {
    std::vector<uint16_t> out;
    for (const Packet& packet : received()) out.push_back(packet.header.op);
    return out;
  }
  // A connection of the guest to the service; the host's end.
  UniqueFd connect() {
    give_buffers(8);
    send(VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_EQ(operations(), std::vector<uint16_t>{VIRTIO_VSOCK_OP_RESPONSE});
    return std::move(*accept_unix(listener_.get(), SOCK_NONBLOCK));
  }
  static std::string read_some(const UniqueFd& fd) {
    std::string text(1 << 20, '\0');
    const ssize_t got = recv(fd.get(), text.data(), text.size(), MSG_DONTWAIT);
    text.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return text;
  }
  static bool at_end(const UniqueFd& fd) {
    char byte = 0;
    return recv(fd.get(), &byte, 1, MSG_DONTWAIT) == 0;
  }
  // At its end, or cut off with something unread.
  static bool is_closed(const UniqueFd& fd) {
    char byte = 0;
    return recv(fd.get(), &byte, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN;
  }

  FakeGuest guest_;
  FakeDriver rx_{guest_, 64};
  FakeDriver tx_{guest_, 64};
  std::unique_ptr<Queue> rx_queue_ = rx_.queue();
  std::unique_ptr<Queue> tx_queue_ = tx_.queue();
  std::string directory_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<VsockDevice> device_;
  UniqueFd listener_;
  unsigned interrupts_ = 0;
  unsigned broken_ = 0;
  uint64_t packet_ = 0;
  uint64_t buffers_ = 0;
  uint64_t next_buffer_ = 0;
  std::vector<int> kept_;
};

TEST_F(VsockTest, CountsPacketsAndTheBytesOfStreams) {
  const UniqueFd host = connect();
  send(VIRTIO_VSOCK_OP_RW, "from the guest");
  ASSERT_EQ(::send(host.get(), "from the host", 13, 0), 13);
  run();
  const DeviceMetrics metrics = device_->metrics();
  EXPECT_EQ(metrics.requests, 2U);
  EXPECT_EQ(metrics.bytes_from_guest, 14U);
  EXPECT_EQ(metrics.bytes_to_guest, 13U);
  EXPECT_EQ(metrics.failed_requests, 0U);
}

TEST_F(VsockTest, ConfigurationIsTheGuestsContextId) {
  std::array<std::byte, 12> bytes{};
  device_->read_config(0, bytes);
  EXPECT_EQ(bytes[0], std::byte{3});
  for (size_t i = 1; i < bytes.size(); ++i) EXPECT_EQ(bytes[i], std::byte{0});
}

TEST_F(VsockTest, GuestReachesAServiceAndTalks) {
  const UniqueFd host = connect();
  send(VIRTIO_VSOCK_OP_RW, "from the guest");
  EXPECT_EQ(read_some(host), "from the guest");
  ASSERT_EQ(::send(host.get(), "from the host", 13, 0), 13);
  run();
  const auto packets = received();
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].header.op, VIRTIO_VSOCK_OP_RW);
  EXPECT_EQ(packets[0].data, "from the host");
  EXPECT_NE(interrupts_ & 1U, 0U);
}

TEST_F(VsockTest, GuestIsRefusedWhereNobodyListens) {
  give_buffers(2);
  send_header(header(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, 99));
  EXPECT_EQ(operations(), std::vector<uint16_t>{VIRTIO_VSOCK_OP_RST});
  EXPECT_EQ(device_->connections(), 0U);
}

TEST_F(VsockTest, HostReachesTheGuestAndTalks) {
  give_buffers(8);
  const UniqueFd client = std::move(*connect_unix(directory_ + "/v"));
  ASSERT_EQ(::send(client.get(), "CONNECT 1025\nearly", 18, 0), 18);
  run();
  const auto request = received();
  ASSERT_EQ(request.size(), 1U);
  EXPECT_EQ(request[0].header.op, VIRTIO_VSOCK_OP_REQUEST);
  EXPECT_EQ(request[0].header.dst_port, 1025U);
  const uint32_t host_port = request[0].header.src_port;
  send_header(header(VIRTIO_VSOCK_OP_RESPONSE, 1025, host_port));
  EXPECT_EQ(read_some(client), "OK " + std::to_string(host_port) + "\n");
  const auto data = received();
  ASSERT_EQ(data.size(), 1U);
  EXPECT_EQ(data[0].data, "early");
}

TEST_F(VsockTest, HostLearnsThatTheGuestRefuses) {
  give_buffers(8);
  const UniqueFd client = std::move(*connect_unix(directory_ + "/v"));
  ASSERT_EQ(::send(client.get(), "CONNECT 7\n", 10, 0), 10);
  run();
  const auto request = received();
  ASSERT_EQ(request.size(), 1U);
  send_header(header(VIRTIO_VSOCK_OP_RST, 7, request[0].header.src_port));
  EXPECT_TRUE(at_end(client));
}

TEST_F(VsockTest, ClientThatSaysSomethingElseIsDropped) {
  give_buffers(8);
  const UniqueFd client = std::move(*connect_unix(directory_ + "/v"));
  ASSERT_EQ(::send(client.get(), "GET / HTTP/1.1\n", 15, 0), 15);
  run();
  EXPECT_TRUE(is_closed(client));
  EXPECT_TRUE(received().empty());
}

TEST_F(VsockTest, KeepsToTheGuestsCredit) {
  give_buffers(32);
  VsockHeader request = header(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kService);
  request.buf_alloc = 10;
  send_header(request);
  const UniqueFd host = std::move(*accept_unix(listener_.get()));
  ASSERT_EQ(::send(host.get(), "0123456789abcdef", 16, 0), 16);
  run();
  auto packets = received();
  ASSERT_EQ(packets.size(), 3U);  // response, the ten bytes, a request for credit
  EXPECT_EQ(packets[1].data, "0123456789");
  EXPECT_EQ(packets[2].header.op, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
  VsockHeader update = header(VIRTIO_VSOCK_OP_CREDIT_UPDATE, kGuestPort, kService);
  update.buf_alloc = 10;
  update.fwd_cnt = 10;
  send_header(update);
  packets = received();
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].data, "abcdef");
}

TEST_F(VsockTest, GuestThatSendsBeyondItsCreditIsReset) {
  const UniqueFd host = connect();
  const std::string large(60'000, 'x');
  std::vector<uint16_t> seen;
  // The host reads nothing: its socket fills, then our buffer.
  for (int i = 0; i < 40 && device_->connections() != 0; ++i) {
    send(VIRTIO_VSOCK_OP_RW, large);
    for (const uint16_t operation : operations()) seen.push_back(operation);
    give_buffers(1);
  }
  for (const uint16_t operation : operations()) seen.push_back(operation);
  EXPECT_NE(std::find(seen.begin(), seen.end(), VIRTIO_VSOCK_OP_RST), seen.end());
}

TEST_F(VsockTest, SlowHostGetsEveryByteInOrder) {
  const UniqueFd host = connect();
  std::string sent;
  for (int i = 0; i < 8; ++i) {
    const std::string part(30'000, static_cast<char>('a' + i));
    send(VIRTIO_VSOCK_OP_RW, part);
    sent += part;
  }
  std::string got;
  for (int i = 0; i < 100 && got.size() < sent.size(); ++i) {
    got += read_some(host);
    run();
  }
  EXPECT_EQ(got, sent);
}

TEST_F(VsockTest, HalfClosesPassBothWays) {
  const UniqueFd host = connect();
  send(VIRTIO_VSOCK_OP_RW, "last words");
  send(VIRTIO_VSOCK_OP_SHUTDOWN, {}, VIRTIO_VSOCK_SHUTDOWN_SEND);
  EXPECT_EQ(read_some(host), "last words");
  EXPECT_TRUE(at_end(host));
  ASSERT_EQ(::send(host.get(), "answer", 6, 0), 6);
  shutdown(host.get(), SHUT_WR);
  run();
  const auto packets = received();
  ASSERT_EQ(packets.size(), 2U);
  EXPECT_EQ(packets[0].data, "answer");
  EXPECT_EQ(packets[1].header.op, VIRTIO_VSOCK_OP_SHUTDOWN);
  EXPECT_NE(packets[1].header.flags & VIRTIO_VSOCK_SHUTDOWN_SEND, 0U);
}

TEST_F(VsockTest, FullCloseIsAnsweredByReset) {
  const UniqueFd host = connect();
  send(VIRTIO_VSOCK_OP_SHUTDOWN, {}, VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND);
  EXPECT_EQ(operations(), std::vector<uint16_t>{VIRTIO_VSOCK_OP_RST});
  EXPECT_TRUE(at_end(host));
  EXPECT_EQ(device_->connections(), 0U);
}

TEST_F(VsockTest, HostThatClosesIsAnnounced) {
  UniqueFd host = connect();
  host.reset();
  run();
  const auto packets = received();
  ASSERT_FALSE(packets.empty());
  EXPECT_EQ(packets.back().header.op, VIRTIO_VSOCK_OP_SHUTDOWN);
  EXPECT_EQ(packets.back().header.flags,
            static_cast<uint32_t>(VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND));
  send(VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(device_->connections(), 0U);
}

TEST_F(VsockTest, WaitsForBuffers) {
  const UniqueFd host = connect();
  // Seven of the eight buffers are left.
  for (int i = 0; i < 9; ++i) {
    ASSERT_EQ(::send(host.get(), "x", 1, 0), 1);
    run();
  }
  size_t bytes = 0;
  for (const Packet& packet : received()) bytes += packet.data.size();
  EXPECT_EQ(bytes, 7U);
  give_buffers(4);
  for (const Packet& packet : received()) bytes += packet.data.size();
  EXPECT_EQ(bytes, 9U);
}

TEST_F(VsockTest, ForgedSourceIsIgnored) {
  give_buffers(4);
  VsockHeader packet = header(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kService);
  packet.src_cid = 77;
  send_header(packet);
  EXPECT_TRUE(received().empty());
}

TEST_F(VsockTest, NonsenseIsRefusedAndNothingElse) {
  const UniqueFd host = connect();
  VsockHeader other_type = header(VIRTIO_VSOCK_OP_REQUEST, 1, kService);
  other_type.type = 9;
  send_header(other_type);
  VsockHeader unknown = header(99, 2, kService);
  send_header(unknown);
  VsockHeader too_long = header(VIRTIO_VSOCK_OP_RW, 3, kService);
  too_long.len = 5000;
  send_raw(too_long, "short");
  EXPECT_EQ(operations(), (std::vector<uint16_t>(3, VIRTIO_VSOCK_OP_RST)));
  send(VIRTIO_VSOCK_OP_RW, "still there");
  EXPECT_EQ(read_some(host), "still there");
}

TEST_F(VsockTest, PacketWithoutAWholeHeaderIsDropped) {
  give_buffers(2);
  tx_.add_chain({{packet_, 10, false}});
  ASSERT_TRUE(device_->process_queue(1));
  EXPECT_TRUE(tx_.next_used());
  EXPECT_TRUE(received().empty());
}

TEST_F(VsockTest, BoundsConnections) {
  give_buffers(8);
  for (uint32_t port = 0; port < VsockDevice::kMaxConnections + 10; ++port) {
    send_header(header(VIRTIO_VSOCK_OP_REQUEST, port, kService));
    give_buffers(static_cast<int>(received().size()));
    // The backlog of the listener is shorter than that.
    kept_.push_back(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }
  EXPECT_EQ(device_->connections(), VsockDevice::kMaxConnections);
  for (const int fd : kept_) {
    if (fd >= 0) close(fd);
  }
}

TEST_F(VsockTest, KeepsConnectionsWhileItIsSuspended) {
  const UniqueFd host = connect();
  device_->suspend();
  ASSERT_EQ(::send(host.get(), "meanwhile", 9, 0), 9);
  run();
  activate();
  ASSERT_TRUE(device_->process_queue(0));
  run();
  const auto packets = received();
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].data, "meanwhile");
}

TEST_F(VsockTest, ResetDropsConnections) {
  const UniqueFd host = connect();
  device_->reset();
  EXPECT_TRUE(at_end(host));
  EXPECT_EQ(device_->connections(), 0U);
}

TEST_F(VsockTest, BufferWithoutRoomForAHeaderIsTheDriversFault) {
  rx_.add_chain({{buffers_, sizeof(VsockHeader) - 1, true}});
  send(VIRTIO_VSOCK_OP_REQUEST);
  EXPECT_EQ(broken_, 1U);
  EXPECT_TRUE(received().empty());
}

TEST(VsockPaths, ListenerIsBoundAndThePathLeadsIntoTheNewRoot) {
  std::string directory = std::filesystem::temp_directory_path() / "kiln-vsock-paths-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  VsockOptions options;
  options.uds_path = directory + "/v";
  const auto kept = open_vsock_paths(options, "vsock");
  ASSERT_TRUE(kept);
  EXPECT_EQ(*kept, directory);
  EXPECT_EQ(options.uds_path, "/vsock/v");
  EXPECT_TRUE(connect_unix(directory + "/v"));
  std::filesystem::remove_all(directory);
}

TEST(VsockPaths, RelativePathIsRefused) {
  VsockOptions options;
  options.uds_path = "v";
  EXPECT_EQ(open_vsock_paths(options, "vsock").error().kind, ErrorKind::kInvalidArgument);
}

}  // namespace
}  // namespace kiln::vmm
