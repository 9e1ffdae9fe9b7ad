// SPDX-License-Identifier: Apache-2.0
#include "runtime/main_thread.h"

#include <csignal>
#include <thread>

namespace kiln::runtime {

int MainThread::run(const std::function<int()>& body) {
  // Signals are the second thread's: it has an event loop for them.
  sigset_t all{};
  sigset_t before{};
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int value = 0;
  std::thread second([&] {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    value = body();
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  });
  {
    std::unique_lock lock(mutex_);
    while (!over_) {
      if (errand_ != nullptr) {
        outcome_ = (*errand_)();
        errand_ = nullptr;
        changed_.notify_all();
      }
      changed_.wait(lock, [this] { return over_ || errand_ != nullptr; });
    }
  }
  second.join();
  return value;
}

Result<void> MainThread::perform(const std::function<Result<void>()>& errand) {
  std::unique_lock lock(mutex_);
  errand_ = &errand;
  changed_.notify_all();
  changed_.wait(lock, [this] { return errand_ == nullptr; });
  return std::move(outcome_);
}

}  // namespace kiln::runtime
