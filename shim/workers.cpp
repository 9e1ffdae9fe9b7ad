// SPDX-License-Identifier: Apache-2.0
#include "shim/workers.h"

#include <pthread.h>

namespace kiln::shim {
namespace {

// Paths of PATH_MAX bytes and JSON documents are all that is large there.
constexpr size_t kStackBytes = size_t{512} << 10;

struct Start {
  std::function<void()> run;
};

void* run_thread(void* argument) {
  const std::unique_ptr<Start> start(static_cast<Start*>(argument));
  start->run();
  return nullptr;
}

// Detached: std::thread would bring its default stack.
int start_thread(std::unique_ptr<Start> start) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread{};
  const int failed = pthread_create(&thread, &attributes, run_thread, start.get());
  pthread_attr_destroy(&attributes);
  if (failed == 0) static_cast<void>(start.release());
  return failed;
}

}  // namespace

Result<std::unique_ptr<Workers>> Workers::create(EventLoop& loop) {
  return std::unique_ptr<Workers>(new Workers(TRY(TaskQueue::create(loop))));
}

void Workers::start(std::function<void()> job, std::function<void(Result<void>)> done) {
  ++running_;
  auto start = std::make_unique<Start>();
  start->run = [this, job = std::move(job), done]() mutable {
    job();
    job = nullptr;  // what it holds goes before anybody hears of its end
    queue_->post([this, done = std::move(done)] {
      --running_;
      done({});
    });
  };
  if (const int failed = start_thread(std::move(start)); failed != 0)
    queue_->post([this, failed, done = std::move(done)] {
      --running_;
      done(sys_error("start a thread", failed));
    });
}

}  // namespace kiln::shim
