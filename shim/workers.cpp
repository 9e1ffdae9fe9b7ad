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

// std::thread would bring its default stack.
int start_thread(std::unique_ptr<Start> start, pthread_t& thread) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
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
  const auto thread = std::make_shared<pthread_t>();  // the loop's thread alone looks into it
  auto start = std::make_unique<Start>();
  start->run = [this, job = std::move(job), done, thread]() mutable {
    job();
    job = nullptr;  // what it holds goes before anybody hears of its end
    queue_->post([this, done = std::move(done), thread = std::move(thread)] {
      // It may still be on its way out of post(): whoever hears that all is idle may destroy us.
      pthread_join(*thread, nullptr);
      --running_;
      done({});
    });
  };
  if (const int failed = start_thread(std::move(start), *thread); failed != 0)
    queue_->post([this, failed, done = std::move(done)] {
      --running_;
      done(sys_error("start a thread", failed));
    });
}

}  // namespace kiln::shim
