// SPDX-License-Identifier: Apache-2.0
// The front-end against our own server.
#include "vmm/vhost_user/frontend.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>

#include "tests/support/fake_driver.h"
#include "vmm/vhost_user/backend_thread.h"
#include "vmm/virtio/fs/fs_device.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kEventIdx = uint64_t{1} << 29;
constexpr uint64_t kVersion1 = uint64_t{1} << 32;
constexpr int kPatienceMs = 20'000;

// Writes the number of the request, counted since the last reset, into each buffer.
class CountingDevice : public VirtioDevice {
 public:
  DeviceType type() const override { return DeviceType::kVsock; }
  uint64_t features() const override { return 0b10; }
  std::span<const uint16_t> queue_sizes() const override { return sizes_; }
  void read_config(uint32_t offset, std::span<std::byte> out) const override {
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(offset + i + 1);
  }
  Result<void> activate(Activation activation) override {
    activation_ = std::move(activation);
    acked = activation_.acked_features;
    return {};
  }
  Result<void> process_queue(unsigned index) override {
    Queue* queue = activation_.queues[index];
    while (auto chain = TRY(queue->pop())) {
      const uint32_t number = ++served;
      TRY(activation_.memory->write_ranges(chain->writable, 0,
                                           std::as_bytes(std::span(&number, 1))));
      TRY(queue->push_used(chain->head, sizeof number));
    }
    if (queue->needs_interrupt()) activation_.interrupt(index);
    return {};
  }
  void reset() override {
    served = 0;
    ++resets;
  }
  void suspend() override { ++suspensions; }

  uint32_t served = 0;
  int resets = 0;
  int suspensions = 0;
  uint64_t acked = 0;

 private:
  const std::vector<uint16_t> sizes_ = {16, 16};
  Activation activation_;
};

// A guest whose memory can be shared, the machine's part of a device, and its loop.
class FrontendTest : public ::testing::Test {
 protected:
  // The transport's part: what it gives a device at DRIVER_OK.
  Activation activation(const std::vector<FakeDriver*>& drivers) {
    Activation out;
    out.memory = guest_.memory();
    out.acked_features = kVersion1;
    out.interrupt_fd = interrupt_.get();
    out.broken = [this](unsigned, const Error& why) { broken_.push_back(why.message); };
    for (size_t i = 0; i < drivers.size(); ++i)
      out.remote_queues.push_back({drivers[i] != nullptr,
                                   drivers[i] != nullptr ? drivers[i]->config() : QueueConfig{},
                                   kicks_[i].get()});
    return out;
  }
  void make(BackendThread& backend, VhostUserOptions options) {
    options.socket = backend.take_socket();
    auto made = VhostUserFrontend::create(
        *loop_, std::move(options), [this](const Error& why) { lost_.push_back(why.message); });
    ASSERT_TRUE(made) << made.error().message;
    device_ = std::move(*made);
  }
  static VhostUserOptions vsock_options() {
    VhostUserOptions options;
    options.type = DeviceType::kVsock;
    options.queue_sizes = {16, 16};
    return options;
  }
  void kick(unsigned index) { eventfd_write(kicks_[index].get(), 1); }
  // Waits until the device has given back a buffer; its bytes used.
  uint32_t await(FakeDriver& driver) {
    for (int waited = 0; waited < kPatienceMs; waited += 100) {
      if (const auto used = driver.next_used()) return used->len;
      pollfd one{interrupt_.get(), POLLIN, 0};
      poll(&one, 1, 100);
      eventfd_t count = 0;
      eventfd_read(interrupt_.get(), &count);
    }
    ADD_FAILURE() << "no answer";
    return 0;
  }
  // One request; what the device has written.
  uint32_t ask(FakeDriver& driver, unsigned index) {
    driver.add_chain({{kBuffer, 4, true}});
    kick(index);
    await(driver);
    return guest_.get<uint32_t>(kBuffer);
  }
  void run_until(const std::function<bool()>& done) {
    for (int waited = 0; waited < kPatienceMs && !done(); waited += 100)
      ASSERT_TRUE(loop_->run_once(100));
    ASSERT_TRUE(done());
  }
  static UniqueFd memory_file() {
    UniqueFd file(memfd_create("guest", MFD_CLOEXEC));
    if (ftruncate(file.get(), FakeGuest::kSize) != 0) abort();
    return file;
  }

  FakeGuest guest_{memory_file()};
  const uint64_t kBuffer = guest_.allocate(4096);
  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  UniqueFd interrupt_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::vector<UniqueFd> kicks_ = [] {
    std::vector<UniqueFd> out;
    for (int i = 0; i < 2; ++i) out.emplace_back(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    return out;
  }();
  std::vector<std::string> broken_;
  std::vector<std::string> lost_;
  std::unique_ptr<VhostUserFrontend> device_;
};

// With a CountingDevice behind it, both queues.
class CountingFrontendTest : public FrontendTest {
 protected:
  void SetUp() override { make(backend_, vsock_options()); }
  void activate() {
    const auto done = device_->activate(activation({&first_, &second_}));
    ASSERT_TRUE(done) << done.error().message;
  }
  CountingDevice state() {
    int resets = 0;
    int suspensions = 0;
    CountingDevice out;
    backend_.run([&](VirtioDevice& device) {
      const auto& counting = static_cast<const CountingDevice&>(device);
      out.served = counting.served;
      out.acked = counting.acked;
      resets = counting.resets;
      suspensions = counting.suspensions;
    });
    out.resets = resets;
    out.suspensions = suspensions;
    return out;
  }

  BackendThread backend_{[](EventLoop&) { return std::make_unique<CountingDevice>(); }};
  FakeDriver first_{guest_, 16};
  FakeDriver second_{guest_, 16};
};

TEST_F(CountingFrontendTest, ShowsTheBackEndsDevice) {
  EXPECT_EQ(device_->type(), DeviceType::kVsock);
  EXPECT_EQ(device_->features(), 0b10U);
  EXPECT_NE(device_->ring_features() & kEventIdx, 0U);
  EXPECT_TRUE(device_->served_remotely());
  std::array<unsigned char, 4> config{};
  device_->read_config(6, std::as_writable_bytes(std::span(config)));
  // Eight bytes, as the socket device has; zeros behind them.
  EXPECT_EQ(config, (std::array<unsigned char, 4>{7, 8, 0, 0}));
}

TEST_F(CountingFrontendTest, ServesBothQueues) {
  activate();
  EXPECT_EQ(ask(first_, 0), 1U);
  EXPECT_EQ(ask(second_, 1), 2U);
  EXPECT_EQ(ask(first_, 0), 3U);
  EXPECT_EQ(state().acked, kVersion1);
}

TEST_F(CountingFrontendTest, ServesWhatWasKickedBeforeItWasActive) {
  first_.add_chain({{kBuffer, 4, true}});
  kick(0);
  activate();
  EXPECT_EQ(await(first_), 4U);
}

TEST_F(CountingFrontendTest, ServesAloneTheQueueThatTheDriverHasSetUp) {
  ASSERT_TRUE(device_->activate(activation({nullptr, &second_})));
  EXPECT_EQ(ask(second_, 1), 1U);
}

TEST_F(CountingFrontendTest, GoesOnWhereItWasSuspended) {
  activate();
  EXPECT_EQ(ask(first_, 0), 1U);
  device_->suspend();
  first_.add_chain({{kBuffer, 4, true}});
  kick(0);
  EXPECT_EQ(state().served, 1U);
  activate();
  await(first_);
  EXPECT_EQ(guest_.get<uint32_t>(kBuffer), 2U);
  EXPECT_EQ(ask(second_, 1), 3U);
  EXPECT_EQ(state().resets, 0);
}

TEST_F(CountingFrontendTest, TellsTheBackEndOfAReset) {
  activate();
  EXPECT_EQ(ask(first_, 0), 1U);
  device_->reset();
  EXPECT_EQ(state().resets, 1);
  FakeDriver again(guest_, 8);
  ASSERT_TRUE(device_->activate(activation({&again})));
  EXPECT_EQ(ask(again, 0), 1U);
}

// Even where no ring has moved, so that no base tells.
TEST_F(CountingFrontendTest, TellsOfAResetBeforeAnyRequest) {
  activate();
  device_->reset();
  EXPECT_EQ(state().resets, 1);
}

// Drivers reset a device before they set it up; there is nothing to tell then.
TEST_F(CountingFrontendTest, DoesNotBotherTheBackEndBeforeItIsUsed) {
  device_->reset();
  device_->reset();
  EXPECT_EQ(state().resets, 0);
}

TEST_F(CountingFrontendTest, RefusesARingOutsideOfMemoryAndServesTheNext) {
  Activation bad = activation({&first_, &second_});
  bad.remote_queues[1].config.used_ring = FakeGuest::kSize - 16;
  const auto done = device_->activate(bad);
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().message.find("outside memory"), std::string::npos) << done.error().message;
  ASSERT_TRUE(loop_->run_once(0));
  EXPECT_TRUE(lost_.empty());
  device_->reset();
  activate();
  EXPECT_EQ(ask(second_, 1), 1U);
}

TEST_F(CountingFrontendTest, RefusesRingsThatWrapOrAreMisaligned) {
  Activation wraps = activation({&first_});
  wraps.remote_queues[0].config.descriptor_table = ~uint64_t{15};
  EXPECT_FALSE(device_->activate(wraps));
  Activation misaligned = activation({&first_});
  misaligned.remote_queues[0].config.available_ring += 1;
  EXPECT_FALSE(device_->activate(misaligned));
  Activation odd = activation({&first_});
  odd.remote_queues[0].config.size = 12;
  EXPECT_FALSE(device_->activate(odd));
  Activation large = activation({&first_});
  large.remote_queues[0].config.size = 32;
  EXPECT_FALSE(device_->activate(large));
}

TEST_F(CountingFrontendTest, NeedsSharedMemory) {
  FakeGuest alone;
  FakeDriver driver(alone, 16);
  Activation given = activation({&driver});
  given.memory = alone.memory();
  const auto done = device_->activate(given);
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().message.find("needs shared memory"), std::string::npos);
}

TEST_F(CountingFrontendTest, ReportsADriverThatBreaksItsRing) {
  activate();
  first_.set_available_index(400);  // more than the ring has
  kick(0);
  run_until([&] { return !broken_.empty(); });
  EXPECT_NE(broken_[0].find("queue 0"), std::string::npos);
  EXPECT_TRUE(lost_.empty());
  // And after a reset all is well again.
  device_->reset();
  FakeDriver again(guest_, 16);
  ASSERT_TRUE(device_->activate(activation({&again})));
  EXPECT_EQ(ask(again, 0), 1U);
}

TEST_F(CountingFrontendTest, ReportsABackEndThatDiesOnce) {
  activate();
  backend_.stop();
  run_until([&] { return !lost_.empty(); });
  EXPECT_EQ(broken_.size(), 1U);
  EXPECT_NE(lost_[0].find("closed"), std::string::npos) << lost_[0];
  device_->suspend();
  EXPECT_FALSE(device_->activate(activation({&first_, &second_})));
  device_->reset();
  ASSERT_TRUE(loop_->run_once(0));
  EXPECT_EQ(lost_.size(), 1U);
}

TEST_F(CountingFrontendTest, NoticesADeadBackEndAtASuspension) {
  activate();
  backend_.stop();
  device_->suspend();
  run_until([&] { return !lost_.empty(); });
}

TEST_F(CountingFrontendTest, MayBeDestroyedByWhoLearnsOfTheLoss) {
  backend_.stop();
  run_until([&] {
    if (!lost_.empty()) device_.reset();
    return device_ == nullptr;
  });
}

TEST_F(FrontendTest, KeepsTheConfigurationThatItWasGiven) {
  BackendThread backend([](EventLoop&) { return std::make_unique<CountingDevice>(); });
  VhostUserOptions options = vsock_options();
  options.config = {std::byte{42}};
  make(backend, std::move(options));
  std::array<unsigned char, 2> config{1, 1};
  device_->read_config(0, std::as_writable_bytes(std::span(config)));
  EXPECT_EQ(config, (std::array<unsigned char, 2>{42, 0}));
}

TEST_F(FrontendTest, RefusesABackEndWithTooFewQueues) {
  BackendThread backend([](EventLoop&) { return std::make_unique<CountingDevice>(); });
  VhostUserOptions options = vsock_options();
  options.queue_sizes = {16, 16, 16};
  options.socket = backend.take_socket();
  const auto made = VhostUserFrontend::create(*loop_, std::move(options), [](const Error&) {});
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message.find("2 queues, and 3"), std::string::npos)
      << made.error().message;
}

// A file system, as kiln-vmm fs serves it.
class FsBackend : public VirtioDevice {
 public:
  explicit FsBackend(EventLoop& loop)
      : session_(std::move(*FuseSession::create({64, 64}))), device_(loop, *session_) {
    if (!session_->add_entry("tmp", UniqueFd(::open("/", O_PATH | O_CLOEXEC)), {})) abort();
  }
  DeviceType type() const override { return device_.type(); }
  uint64_t features() const override { return device_.features(); }
  std::span<const uint16_t> queue_sizes() const override { return device_.queue_sizes(); }
  void read_config(uint32_t offset, std::span<std::byte> out) const override {
    device_.read_config(offset, out);
  }
  bool has_config() const override { return device_.has_config(); }
  Result<void> activate(Activation given) override { return device_.activate(std::move(given)); }
  Result<void> process_queue(unsigned index) override { return device_.process_queue(index); }
  void reset() override { device_.reset(); }
  void suspend() override { device_.suspend(); }

 private:
  std::unique_ptr<FuseSession> session_;
  FsDevice device_;
};

class FsFrontendTest : public FrontendTest {
 protected:
  void SetUp() override {
    VhostUserOptions options;
    options.type = DeviceType::kFs;
    options.queue_sizes = {64, 64};
    options.config.resize(40);
    options.config[0] = std::byte{'k'};
    options.config[36] = std::byte{1};
    make(backend_, std::move(options));
    ASSERT_TRUE(device_->activate(activation({&*hiprio_, &*requests_})));
  }
  // A request in the request queue; the error in the answer, whose bytes are at kBuffer + 2048.
  int ask_fs(uint32_t opcode, uint64_t node, const void* arguments, size_t size) {
    fuse_in_header header{};
    header.opcode = opcode;
    header.nodeid = node;
    header.unique = ++unique_;
    header.len = static_cast<uint32_t>(sizeof header + size);
    guest_.put(kBuffer, header);
    guest_.put_text(kBuffer + sizeof header, {static_cast<const char*>(arguments), size});
    requests_->add_chain({{kBuffer, header.len, false}, {kBuffer + 2048, 2048, true}});
    kick(1);
    await(*requests_);
    const auto answer = guest_.get<fuse_out_header>(kBuffer + 2048);
    EXPECT_EQ(answer.unique, unique_);
    return answer.error;
  }
  int greet() {
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = FUSE_KERNEL_MINOR_VERSION;
    return ask_fs(FUSE_INIT, 0, &init, sizeof init);
  }
  int lookup() { return ask_fs(FUSE_LOOKUP, FUSE_ROOT_ID, "tmp", 4); }

  BackendThread backend_{[](EventLoop& loop) { return std::make_unique<FsBackend>(loop); }};
  std::optional<FakeDriver> hiprio_{std::in_place, guest_, 64};
  std::optional<FakeDriver> requests_{std::in_place, guest_, 64};
  uint64_t unique_ = 0;
};

TEST_F(FsFrontendTest, ServesFileSystemRequests) {
  EXPECT_EQ(greet(), 0);
  EXPECT_EQ(lookup(), 0);
}

TEST_F(FsFrontendTest, KeepsTheSessionOverAPause) {
  EXPECT_EQ(greet(), 0);
  device_->suspend();
  ASSERT_TRUE(device_->activate(activation({&*hiprio_, &*requests_})));
  EXPECT_EQ(lookup(), 0);
}

TEST_F(FsFrontendTest, EndsTheSessionWhenTheDriverResetsTheDevice) {
  EXPECT_EQ(greet(), 0);
  device_->reset();
  hiprio_.emplace(guest_, 64);
  requests_.emplace(guest_, 64);
  ASSERT_TRUE(device_->activate(activation({&*hiprio_, &*requests_})));
  EXPECT_NE(lookup(), 0);  // not before INIT
  EXPECT_EQ(greet(), 0);
  EXPECT_EQ(lookup(), 0);
}

}  // namespace
}  // namespace kiln::vmm
