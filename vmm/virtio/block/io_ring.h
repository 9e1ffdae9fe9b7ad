// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::vmm {

// An io_uring by its bare system calls. Used on one thread. After create() it makes two of them:
// io_uring_enter, and read on its eventfd.
class IoRing {
 public:
  struct Completion {
    uint64_t tag = 0;    // the entry's user_data
    int32_t result = 0;  // what the system call would have returned, or -errno
  };

  // Fails where the host has no io_uring (ENOSYS), forbids it (EPERM) or has one older than Linux
  // 5.12. `entries`: the most that may be in flight; the caller keeps to it.
  static Result<std::unique_ptr<IoRing>> create(unsigned entries);
  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  // The next submission entry, all zero, to be filled in before any other call. Null when all are
  // taken.
  io_uring_sqe* prepare();
  bool has_unsubmitted() const { return unsubmitted() != 0; }
  // Hands the kernel what was prepared. What it copies or reads at once is complete on return. On
  // an error some entries may be left: withdraw() them.
  Result<void> submit() { return enter(0); }
  // The same, and waits for one completion.
  Result<void> submit_and_wait() { return enter(1); }
  // Takes back the youngest entry that the kernel has not taken; its tag.
  std::optional<uint64_t> withdraw();
  // The next completion; false when there is none.
  bool pop(Completion& completion);
  bool has_completions() const;

  // Readable when something was completed while events were enabled.
  int event_fd() const { return event_fd_.get(); }
  void clear_event();
  // Off while the caller looks at the completions anyway. After enabling, look once more.
  void enable_events(bool enabled);

 private:
  // A mapping of the ring's memory, which the kernel writes to.
  struct Mapping {
    void* address = nullptr;
    size_t size = 0;
    Mapping() = default;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();
    Result<void> map(int fd, size_t bytes, uint64_t offset);
    uint32_t* word(uint32_t offset) const;
  };

  IoRing() = default;
  Result<void> map(const io_uring_params& params);
  Result<void> configure();
  Result<void> enter(unsigned wait_for);
  uint32_t unsubmitted() const;

  UniqueFd fd_;
  UniqueFd event_fd_;
  Mapping rings_;
  Mapping entries_;
  uint32_t sq_mask_ = 0;
  uint32_t cq_mask_ = 0;
  uint32_t sq_tail_ = 0;  // ours; published by enter()
  uint32_t cq_head_ = 0;
  uint32_t* sq_head_word_ = nullptr;
  uint32_t* sq_tail_word_ = nullptr;
  uint32_t* cq_head_word_ = nullptr;
  uint32_t* cq_tail_word_ = nullptr;
  uint32_t* cq_flags_word_ = nullptr;
  const io_uring_cqe* completions_ = nullptr;
};

}  // namespace kiln::vmm
