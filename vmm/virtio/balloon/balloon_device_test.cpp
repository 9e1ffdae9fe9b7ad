// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/balloon/balloon_device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "tests/support/fake_driver.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMiB = 1U << 20;
constexpr unsigned kInflate = 0;
constexpr unsigned kDeflate = 1;
constexpr unsigned kStatistics = 2;
constexpr unsigned kReporting = 4;
constexpr uint32_t kActual = offsetof(virtio_balloon_config, actual);

BalloonOptions polling() {
  BalloonOptions options;
  options.stats_polling_interval_s = 3600;
  return options;
}

class VirtioBalloon : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*EventLoop::create());
    for (int i = 0; i < 5; ++i) {
      drivers_.emplace_back(guest_, uint16_t{64});
      queues_.push_back(drivers_.back().queue());
    }
    list_ = guest_.allocate(kMiB / 4);
    // Pages to give up, with something in them.
    pages_ = guest_.allocate(16 * kPage);
    for (uint64_t i = 0; i < 16; ++i) guest_.put_text(pages_ + i * kPage, "secret");
    make({});
  }
  void make(const BalloonOptions& options) {
    device_ = std::move(*BalloonDevice::create(*loop_, options));
    activate(device_->features());
  }
  void activate(uint64_t features) {
    Activation activation;
    activation.memory = guest_.memory();
    for (const auto& queue : queues_) activation.queues.push_back(queue.get());
    activation.acked_features = features;
    activation.interrupt = [this](unsigned index) { ++interrupts_[index]; };
    activation.broken = [this](unsigned index, const Error&) { ++broken_[index]; };
    activation.config_changed = [this] { ++config_changes_; };
    ASSERT_TRUE(device_->activate(std::move(activation)));
  }
  void renew_queues() {
    for (size_t i = 0; i < queues_.size(); ++i)
      queues_[i] = std::move(
          *Queue::create(guest_.memory(), drivers_[i].config(), queues_[i]->next_available()));
  }
  void inflate(const std::vector<uint32_t>& numbers) {
    for (size_t i = 0; i < numbers.size(); ++i) guest_.put(list_ + i * 4, numbers[i]);
    drivers_[kInflate].add_chain({{list_, static_cast<uint32_t>(numbers.size() * 4), false}});
  }
  uint32_t number(uint64_t page) const { return static_cast<uint32_t>(pages_ / kPage + page); }
  bool kept(uint64_t page) const { return guest_.get_text(pages_ + page * kPage, 6) == "secret"; }
  bool zero(uint64_t page) const {
    return guest_.get_text(pages_ + page * kPage, kPage) == std::string(kPage, '\0');
  }
  void give_statistics(const std::vector<virtio_balloon_stat>& entries, uint32_t extra_bytes = 0) {
    for (size_t i = 0; i < entries.size(); ++i) guest_.put(list_ + i * 10, entries[i]);
    drivers_[kStatistics].add_chain(
        {{list_, static_cast<uint32_t>(entries.size() * 10) + extra_bytes, false}});
    ASSERT_TRUE(device_->process_queue(kStatistics));
  }
  uint32_t config(uint32_t offset) const {
    uint32_t value = 0;
    device_->read_config(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  FakeGuest guest_;
  std::vector<FakeDriver> drivers_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<BalloonDevice> device_;
  uint64_t list_ = 0;
  uint64_t pages_ = 0;
  std::array<int, 5> interrupts_{};
  std::array<int, 5> broken_{};
  int config_changes_ = 0;
};

TEST_F(VirtioBalloon, OffersWhatWasAskedFor) {
  EXPECT_EQ(device_->features(),
            (1U << VIRTIO_BALLOON_F_DEFLATE_ON_OOM) | (1U << VIRTIO_BALLOON_F_REPORTING));
  make({.deflate_on_oom = false, .free_page_reporting = false});
  EXPECT_EQ(device_->features(), 0U);
  make(polling());
  EXPECT_NE(device_->features() & (1U << VIRTIO_BALLOON_F_STATS_VQ), 0U);
}

// ---- inflate and deflate

TEST_F(VirtioBalloon, DiscardsInflatedPagesAndNoOthers) {
  inflate({number(1), number(2), number(5)});
  ASSERT_TRUE(device_->process_queue(kInflate));
  EXPECT_TRUE(zero(1) && zero(2) && zero(5));
  EXPECT_TRUE(kept(0) && kept(3) && kept(4) && kept(6));
  EXPECT_EQ(device_->discarded_bytes(), 3 * kPage);
  EXPECT_EQ(drivers_[kInflate].next_used()->len, 0U);
  EXPECT_EQ(interrupts_[kInflate], 1);
}

TEST_F(VirtioBalloon, TakesPagesInAnyOrderAndTwice) {
  inflate({number(7), number(3), number(2), number(3), number(6), number(2)});
  ASSERT_TRUE(device_->process_queue(kInflate));
  EXPECT_TRUE(zero(2) && zero(3) && zero(6) && zero(7));
  EXPECT_TRUE(kept(1) && kept(4) && kept(5) && kept(8));
  EXPECT_EQ(device_->discarded_bytes(), 4 * kPage);
}

TEST_F(VirtioBalloon, SkipsPagesOutsideMemory) {
  inflate({0, number(1), FakeGuest::kSize / kPage, UINT32_MAX, UINT32_MAX - 1});
  guest_.put_text(0, "zero page");
  ASSERT_TRUE(device_->process_queue(kInflate));
  EXPECT_TRUE(zero(1));
  EXPECT_EQ(device_->discarded_bytes(), 2 * kPage);
  EXPECT_EQ(device_->metrics().failed_requests, 3U);
  EXPECT_TRUE(drivers_[kInflate].next_used());
}

TEST_F(VirtioBalloon, DiscardsTheInsideOfARunThatLeavesMemory) {
  const auto last = static_cast<uint32_t>(FakeGuest::kSize / kPage - 1);
  guest_.put_text(FakeGuest::kSize - kPage, "secret");
  inflate({last, last + 1, last + 2});
  ASSERT_TRUE(device_->process_queue(kInflate));
  EXPECT_EQ(guest_.get_text(FakeGuest::kSize - kPage, 6), std::string(6, '\0'));
  EXPECT_EQ(device_->discarded_bytes(), kPage);
}

TEST_F(VirtioBalloon, ReadsAListOverSeveralBuffers) {
  guest_.put(list_ + 100, number(1));
  guest_.put(list_ + 200, number(2));
  // The first number lies in two buffers.
  drivers_[kInflate].add_chain(
      {{list_ + 100, 2, false}, {list_ + 102, 2, false}, {list_ + 200, 4, false}});
  ASSERT_TRUE(device_->process_queue(kInflate));
  EXPECT_TRUE(zero(1) && zero(2));
  EXPECT_EQ(device_->discarded_bytes(), 2 * kPage);
}

TEST_F(VirtioBalloon, IgnoresTheRestOfANumber) {
  guest_.put(list_, number(1));
  guest_.put(list_ + 4, number(2));
  drivers_[kInflate].add_chain({{list_, 7, false}});
  drivers_[kInflate].add_chain({{list_, 0, false}});
  drivers_[kInflate].add_chain({{list_, 4, true}});
  ASSERT_TRUE(device_->process_queue(kInflate));
  EXPECT_TRUE(zero(1));
  EXPECT_TRUE(kept(2));
  EXPECT_EQ(device_->metrics().failed_requests, 3U);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(drivers_[kInflate].next_used());
}

TEST_F(VirtioBalloon, ServesALongListInTurnsAndOverAPause) {
  const std::vector<uint32_t> numbers(kMiB / 16, number(1));
  inflate(numbers);
  drivers_[kInflate].add_chain({{list_, 4, false}});
  ASSERT_TRUE(device_->process_queue(kInflate));
  EXPECT_FALSE(drivers_[kInflate].next_used());
  device_->suspend();
  const uint64_t before = device_->metrics().bytes_from_guest;
  ASSERT_TRUE(loop_->run_once(2));
  EXPECT_EQ(device_->metrics().bytes_from_guest, before);
  renew_queues();
  activate(device_->features());
  ASSERT_TRUE(device_->process_queue(kInflate));
  int used = 0;
  while (used < 2) {
    ASSERT_TRUE(loop_->run_once(100));
    while (drivers_[kInflate].next_used()) ++used;
  }
  EXPECT_EQ(device_->metrics().bytes_from_guest, numbers.size() * 4 + 4);
  EXPECT_EQ(device_->metrics().requests, 2U);
}

TEST_F(VirtioBalloon, ForgetsALongListOnReset) {
  inflate(std::vector<uint32_t>(kMiB / 16, number(1)));
  ASSERT_TRUE(device_->process_queue(kInflate));
  device_->reset();
  renew_queues();
  activate(device_->features());
  inflate({number(2)});
  ASSERT_TRUE(device_->process_queue(kInflate));
  EXPECT_TRUE(zero(2));
  EXPECT_EQ(drivers_[kInflate].next_used()->id, 1U);
}

TEST_F(VirtioBalloon, LeavesDeflatedPagesAlone) {
  guest_.put(list_, number(1));
  drivers_[kDeflate].add_chain({{list_, 4, false}});
  ASSERT_TRUE(device_->process_queue(kDeflate));
  EXPECT_TRUE(kept(1));
  EXPECT_TRUE(drivers_[kDeflate].next_used());
}

TEST_F(VirtioBalloon, ReportsListsOutsideMemoryAsBroken) {
  drivers_[kInflate].add_chain({{FakeGuest::kSize - 4, 8, false}});
  EXPECT_FALSE(device_->process_queue(kInflate));
}

// ---- free page reporting

TEST_F(VirtioBalloon, DiscardsReportedPages) {
  drivers_[kReporting].add_chain({{pages_, 2 * kPage, true}, {pages_ + 4 * kPage, kPage, true}});
  ASSERT_TRUE(device_->process_queue(kReporting));
  EXPECT_TRUE(zero(0) && zero(1) && zero(4));
  EXPECT_TRUE(kept(2) && kept(3) && kept(5));
  EXPECT_EQ(device_->discarded_bytes(), 3 * kPage);
  EXPECT_EQ(drivers_[kReporting].next_used()->len, 0U);
}

TEST_F(VirtioBalloon, KeepsWhatIsReportedReadable) {
  drivers_[kReporting].add_chain({{pages_, kPage, false}});
  drivers_[kReporting].add_chain({{pages_, kPage, false}, {pages_ + kPage, kPage, true}});
  ASSERT_TRUE(device_->process_queue(kReporting));
  EXPECT_TRUE(kept(0) && kept(1));
  EXPECT_EQ(device_->metrics().failed_requests, 2U);
}

TEST_F(VirtioBalloon, KeepsPagesThatAreOnlyPartlyReported) {
  drivers_[kReporting].add_chain({{pages_ + 100, 2 * kPage, true}});
  ASSERT_TRUE(device_->process_queue(kReporting));
  EXPECT_TRUE(kept(0) && kept(2));
  EXPECT_TRUE(zero(1));
}

// Linux does not leave out the numbers of queues that it does not have.
TEST_F(VirtioBalloon, TakesReportsOnTheQueueThatLinuxPutsThemIn) {
  drivers_[2].add_chain({{pages_, kPage, true}});
  ASSERT_TRUE(device_->process_queue(2));
  EXPECT_TRUE(zero(0));
  make(polling());
  drivers_[3].add_chain({{pages_ + kPage, kPage, true}});
  ASSERT_TRUE(device_->process_queue(3));
  EXPECT_TRUE(zero(1));
}

TEST_F(VirtioBalloon, TakesNoReportsThatWereNotNegotiated) {
  activate(0);
  drivers_[kReporting].add_chain({{pages_, kPage, true}});
  ASSERT_TRUE(device_->process_queue(kReporting));
  EXPECT_TRUE(kept(0));
  EXPECT_FALSE(drivers_[kReporting].next_used());
}

// ---- the configuration

TEST_F(VirtioBalloon, AsksForItsTargetAndSaysWhenItChanges) {
  make({.amount_mib = 64});
  EXPECT_EQ(config(0), 64U * 256);
  EXPECT_EQ(device_->target_mib(), 64U);
  ASSERT_TRUE(device_->set_target_mib(32));
  EXPECT_EQ(config(0), 32U * 256);
  EXPECT_EQ(config_changes_, 1);
  ASSERT_TRUE(device_->set_target_mib(32));
  EXPECT_EQ(config_changes_, 1);
}

TEST_F(VirtioBalloon, TellsOfATargetThatChangedDuringAPause) {
  device_->suspend();
  ASSERT_TRUE(device_->set_target_mib(16));
  EXPECT_EQ(config_changes_, 0);
  activate(device_->features());
  EXPECT_EQ(config_changes_, 1);
  device_->suspend();
  activate(device_->features());
  EXPECT_EQ(config_changes_, 1);
}

TEST_F(VirtioBalloon, RefusesTargetsThatHaveNoPageNumber) {
  EXPECT_EQ(device_->set_target_mib(1U << 24).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_TRUE(device_->set_target_mib((1U << 24) - 1));
  EXPECT_FALSE(BalloonDevice::create(*loop_, {.amount_mib = UINT32_MAX}));
}

TEST_F(VirtioBalloon, LetsTheDriverWriteTheActualSizeAlone) {
  make({.amount_mib = 1});
  const std::array<uint32_t, 4> all = {0x11111111, 0x22222222, 0x33333333, 0x44444444};
  device_->write_config(0, std::as_bytes(std::span(all)));
  EXPECT_EQ(config(0), 256U);
  EXPECT_EQ(config(kActual), 0x22222222U);
  EXPECT_EQ(config(8), 0U);
  EXPECT_EQ(config(12), 0U);
  EXPECT_EQ(config(UINT32_MAX), 0U);
}

TEST_F(VirtioBalloon, TakesTheActualSizeInParts) {
  const uint32_t pages = 512;
  device_->write_config(kActual, std::as_bytes(std::span(&pages, 1)));
  EXPECT_EQ(device_->actual_mib(), 2U);
  const std::byte upper{1};
  device_->write_config(kActual + 2, std::span(&upper, 1));
  EXPECT_EQ(config(kActual), 0x10200U);
  device_->write_config(UINT32_MAX, std::as_bytes(std::span(&pages, 1)));
  EXPECT_EQ(config(kActual), 0x10200U);
}

TEST_F(VirtioBalloon, ForgetsTheActualSizeOnResetAndKeepsTheTarget) {
  const uint32_t pages = 512;
  device_->write_config(kActual, std::as_bytes(std::span(&pages, 1)));
  ASSERT_TRUE(device_->set_target_mib(2));
  device_->suspend();
  EXPECT_EQ(device_->actual_mib(), 2U);
  device_->reset();
  EXPECT_EQ(device_->actual_mib(), 0U);
  EXPECT_EQ(device_->target_mib(), 2U);
}

// ---- statistics

TEST_F(VirtioBalloon, ReadsStatisticsAndKeepsTheBuffer) {
  make(polling());
  give_statistics({{VIRTIO_BALLOON_S_MEMTOT, 1000}, {VIRTIO_BALLOON_S_MEMFREE, 400}});
  EXPECT_EQ(device_->statistics(),
            (std::map<std::string_view, uint64_t>{{"free_memory", 400}, {"total_memory", 1000}}));
  EXPECT_FALSE(drivers_[kStatistics].next_used());
}

// §5.5.6.3.2.
TEST_F(VirtioBalloon, IgnoresUnknownStatisticsAndTakesAnyOrder) {
  make(polling());
  give_statistics({{0xffff, 1},
                   {VIRTIO_BALLOON_S_HTLB_PGFAIL, 5},
                   {VIRTIO_BALLOON_S_NR, 2},
                   {VIRTIO_BALLOON_S_SWAP_IN, 0}});
  EXPECT_EQ(device_->statistics(),
            (std::map<std::string_view, uint64_t>{{"swap_in", 0}, {"hugetlb_failures", 5}}));
}

TEST_F(VirtioBalloon, IgnoresTheRestOfAStatistic) {
  make(polling());
  guest_.put(list_ + 10, virtio_balloon_stat{VIRTIO_BALLOON_S_MEMTOT, 7});
  give_statistics({{VIRTIO_BALLOON_S_MEMFREE, 4}}, 9);
  EXPECT_EQ(device_->statistics().size(), 1U);
}

TEST_F(VirtioBalloon, BoundsHowManyStatisticsItReads) {
  make(polling());
  std::vector<virtio_balloon_stat> entries(1000, {VIRTIO_BALLOON_S_MEMFREE, 4});
  entries.back() = {VIRTIO_BALLOON_S_MEMTOT, 9};
  give_statistics(entries);
  EXPECT_EQ(device_->statistics(), (std::map<std::string_view, uint64_t>{{"free_memory", 4}}));
}

TEST_F(VirtioBalloon, AsksForNewStatisticsByGivingTheBufferBack) {
  make({.stats_polling_interval_s = 1});
  give_statistics({{VIRTIO_BALLOON_S_MEMFREE, 4}});
  while (interrupts_[kStatistics] == 0) ASSERT_TRUE(loop_->run_once(2000));
  EXPECT_EQ(drivers_[kStatistics].next_used()->len, 0U);
  give_statistics({{VIRTIO_BALLOON_S_MEMFREE, 8}});
  EXPECT_EQ(device_->statistics().at("free_memory"), 8U);
}

TEST_F(VirtioBalloon, GivesTheOlderOfTwoStatisticsBuffersBack) {
  make(polling());
  give_statistics({{VIRTIO_BALLOON_S_MEMFREE, 4}});
  give_statistics({{VIRTIO_BALLOON_S_MEMFREE, 5}});
  EXPECT_EQ(drivers_[kStatistics].next_used()->id, 0U);
  EXPECT_FALSE(drivers_[kStatistics].next_used());
  EXPECT_EQ(device_->statistics().at("free_memory"), 5U);
  EXPECT_EQ(device_->metrics().failed_requests, 1U);
}

TEST_F(VirtioBalloon, KeepsTheStatisticsBufferOverAPauseAndNotOverAReset) {
  make(polling());
  give_statistics({{VIRTIO_BALLOON_S_MEMFREE, 4}});
  device_->suspend();
  renew_queues();
  activate(device_->features());
  // Had it forgotten the first, it would not have to give it back for the second.
  give_statistics({{VIRTIO_BALLOON_S_MEMFREE, 4}});
  EXPECT_EQ(drivers_[kStatistics].next_used()->id, 0U);
  device_->reset();
  EXPECT_TRUE(device_->statistics().empty());
  renew_queues();
  activate(device_->features());
  give_statistics({{VIRTIO_BALLOON_S_MEMFREE, 6}});
  EXPECT_FALSE(drivers_[kStatistics].next_used());
}

TEST_F(VirtioBalloon, IgnoresQueuesThatAreNotThere) {
  Activation activation;
  activation.memory = guest_.memory();
  activation.queues = {nullptr, nullptr};
  activation.acked_features = UINT64_MAX;
  ASSERT_TRUE(device_->activate(std::move(activation)));
  for (unsigned index = 0; index < 7; ++index) EXPECT_TRUE(device_->process_queue(index));
}

}  // namespace
}  // namespace kiln::vmm
