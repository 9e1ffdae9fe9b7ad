// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/block/io_ring.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>

namespace kiln::vmm {
namespace {

// One mapping for both rings, no lost completions, and workers that are threads of this process:
// the last came with Linux 5.12, and with it everything else that is used here.
constexpr uint32_t kNeededFeatures =
    IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_NATIVE_WORKERS;
// Threads that the kernel adds to this process for what blocks: they count as its tasks. Writes to
// one file are done one after the other anyway.
constexpr uint32_t kMostWorkers = 4;

int setup(unsigned entries, io_uring_params* params) {
  return static_cast<int>(syscall(SYS_io_uring_setup, entries, params));
}

int register_with(int fd, unsigned operation, const void* argument, unsigned count) {
  return static_cast<int>(syscall(SYS_io_uring_register, fd, operation, argument, count));
}

uint32_t load_acquire(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
void store_release(uint32_t* word, uint32_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

}  // namespace

IoRing::Mapping::~Mapping() {
  if (address != nullptr) munmap(address, size);
}

Result<void> IoRing::Mapping::map(int fd, size_t bytes, uint64_t offset) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
                  static_cast<off_t>(offset));
  if (at == MAP_FAILED) return sys_error("map an io_uring");
  address = at;
  size = bytes;
  return {};
}

uint32_t* IoRing::Mapping::word(uint32_t offset) const {
  return reinterpret_cast<uint32_t*>(static_cast<std::byte*>(address) + offset);
}

Result<std::unique_ptr<IoRing>> IoRing::create(unsigned entries) {
  std::unique_ptr<IoRing> ring(new IoRing);
  io_uring_params params{};
  ring->fd_.reset(setup(entries, &params));
  if (!ring->fd_) return sys_error("set up an io_uring");
  if ((params.features & kNeededFeatures) != kNeededFeatures)
    return make_error(ErrorKind::kUnimplemented, "set up an io_uring: the kernel's is too old");
  TRY(ring->map(params));
  TRY(ring->configure());
  return ring;
}

Result<void> IoRing::map(const io_uring_params& params) {
  const size_t submissions = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
  const size_t completions = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  TRY(rings_.map(fd_.get(), std::max(submissions, completions), IORING_OFF_SQ_RING));
  TRY(entries_.map(fd_.get(), params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
  sq_mask_ = *rings_.word(params.sq_off.ring_mask);
  cq_mask_ = *rings_.word(params.cq_off.ring_mask);
  sq_head_word_ = rings_.word(params.sq_off.head);
  sq_tail_word_ = rings_.word(params.sq_off.tail);
  cq_head_word_ = rings_.word(params.cq_off.head);
  cq_tail_word_ = rings_.word(params.cq_off.tail);
  cq_flags_word_ = rings_.word(params.cq_off.flags);
  completions_ = reinterpret_cast<const io_uring_cqe*>(rings_.word(params.cq_off.cqes));
  // Slot i of the submission ring always names entry i.
  uint32_t* array = rings_.word(params.sq_off.array);
  for (uint32_t i = 0; i < params.sq_entries; ++i) array[i] = i;
  return {};
}

Result<void> IoRing::configure() {
  event_fd_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd_) return sys_error("create an eventfd");
  const int event = event_fd_.get();
  if (register_with(fd_.get(), IORING_REGISTER_EVENTFD, &event, 1) != 0)
    return sys_error("register an eventfd with an io_uring");
  // Bounded and unbounded ones. Linux 5.15; before it the number of processors is the limit.
  std::array<uint32_t, 2> workers = {kMostWorkers, 1};
  static_cast<void>(register_with(fd_.get(), IORING_REGISTER_IOWQ_MAX_WORKERS, workers.data(), 2));
  return {};
}

IoRing::~IoRing() = default;

uint32_t IoRing::unsubmitted() const { return sq_tail_ - load_acquire(sq_head_word_); }

io_uring_sqe* IoRing::prepare() {
  if (unsubmitted() > sq_mask_) return nullptr;
  auto* entry = static_cast<io_uring_sqe*>(entries_.address) + (sq_tail_ & sq_mask_);
  ++sq_tail_;
  *entry = io_uring_sqe{};
  return entry;
}

std::optional<uint64_t> IoRing::withdraw() {
  if (unsubmitted() == 0) return std::nullopt;
  --sq_tail_;
  store_release(sq_tail_word_, sq_tail_);
  return static_cast<const io_uring_sqe*>(entries_.address)[sq_tail_ & sq_mask_].user_data;
}

Result<void> IoRing::enter(unsigned wait_for) {
  store_release(sq_tail_word_, sq_tail_);
  while (true) {
    const uint32_t count = unsubmitted();
    if (count == 0 && wait_for == 0) return {};
    const long taken = syscall(SYS_io_uring_enter, fd_.get(), count, wait_for,
                               wait_for != 0 ? IORING_ENTER_GETEVENTS : 0U, nullptr, size_t{0});
    if (taken < 0) {
      if (errno == EINTR) continue;
      return sys_error("submit to an io_uring");
    }
    // The kernel stops early at an entry that it finds wrong, and completes that one.
    if (static_cast<uint32_t>(taken) == count) return {};
    if (taken == 0) return make_error(ErrorKind::kInternal, "an io_uring takes nothing");
  }
}

bool IoRing::has_completions() const { return load_acquire(cq_tail_word_) != cq_head_; }

bool IoRing::pop(Completion& completion) {
  if (!has_completions()) return false;
  const io_uring_cqe& entry = completions_[cq_head_ & cq_mask_];
  completion = {entry.user_data, entry.res};
  store_release(cq_head_word_, ++cq_head_);
  return true;
}

void IoRing::clear_event() {
  uint64_t count = 0;
  static_cast<void>(read(event_fd_.get(), &count, sizeof count));
}

void IoRing::enable_events(bool enabled) {
  store_release(cq_flags_word_, enabled ? 0 : IORING_CQ_EVENTFD_DISABLED);
  // The wish must be visible before the caller looks for completions again.
  if (enabled) std::atomic_thread_fence(std::memory_order_seq_cst);
}

}  // namespace kiln::vmm
