// SPDX-License-Identifier: Apache-2.0
// For the data-path benchmarks: what a device costs beside the system calls that it makes anyway. A
// device and a plain loop of the same calls take turns on one thread; what counts is the thread's
// processor time, so that a busy machine does not show in it.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace kiln::bench {

constexpr int kRounds = 7;
constexpr double kRoundSeconds = 0.1;

// Memory as a guest's is: whole pages. Copies to other places can take three times as long.
class PlainBuffer {
 public:
  explicit PlainBuffer(size_t size)
      : size_(size),
        data_(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (data_ == MAP_FAILED) abort();
    std::memset(data_, 1, size);
  }
  ~PlainBuffer() { munmap(data_, size_); }
  PlainBuffer(const PlainBuffer&) = delete;
  PlainBuffer& operator=(const PlainBuffer&) = delete;
  char* data() const { return static_cast<char*>(data_); }
  size_t size() const { return size_; }

 private:
  size_t size_;
  void* data_;
};

inline double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// Seconds for one call, over one round.
template <typename Call>
double time_round(Call& call) {
  uint64_t calls = 0;
  const double start = thread_seconds();
  double spent = 0;
  do {
    for (int i = 0; i < 8; ++i) call();
    calls += 8;
    spent = thread_seconds() - start;
  } while (spent < kRoundSeconds);
  return spent / static_cast<double>(calls);
}

inline double median(std::array<double, kRounds> values) {
  std::sort(values.begin(), values.end());
  return values[kRounds / 2];
}

// Each call of `device` and of `plain` moves `requests` requests of `size` bytes.
template <typename Device, typename Plain>
void compare(const char* name, uint64_t size, uint64_t requests, Device device, Plain plain) {
  std::array<double, kRounds> with{};
  std::array<double, kRounds> without{};
  for (int i = 0; i < kRounds; ++i) {
    with[static_cast<size_t>(i)] = time_round(device);
    without[static_cast<size_t>(i)] = time_round(plain);
  }
  const double device_rate = static_cast<double>(requests) / median(with);
  const double plain_rate = static_cast<double>(requests) / median(without);
  std::printf("%-22s %8llu B  device %9.0f/s %8.1f MB/s  plain %9.0f/s %8.1f MB/s  ratio %.2f\n",
              name, static_cast<unsigned long long>(size), device_rate,
              device_rate * static_cast<double>(size) / 1e6, plain_rate,
              plain_rate * static_cast<double>(size) / 1e6, device_rate / plain_rate);
  std::fflush(stdout);
}

}  // namespace kiln::bench
