// SPDX-License-Identifier: Apache-2.0
#include "shim/publisher.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <optional>
#include <vector>

#include "base/temporary_directory.h"
#include "base/unix_socket.h"
#include "shim/ttrpc/server.h"
#include "tests/support/ttrpc_frames.h"

namespace kiln::shim {
namespace {

using ttrpc::turn_until;

// A containerd that comes and goes.
class PublisherTest : public testing::Test {
 protected:
  void come() {
    unlink(path_.c_str());
    containerd_ = *ttrpc::Server::create(
        *loop_, *listen_unix(path_, SOCK_STREAM | SOCK_NONBLOCK),
        {{"containerd.services.events.ttrpc.v1.Events", "Forward",
          [this](const ttrpc::Server::Incoming& incoming, const ttrpc::Server::Reply& reply) {
            forwarded(incoming, reply);
          },
          nullptr}});
  }
  void forwarded(const ttrpc::Server::Incoming& incoming, const ttrpc::Server::Reply& reply) {
    api::ForwardRequest request;
    ASSERT_TRUE(request.ParseFromString(incoming.payload));
    metadata_ = incoming.metadata;
    events_.push_back(request.envelope());
    if (silent_) {
      unanswered_.push_back(reply);
    } else if (refused_) {
      reply(make_error(*refused_, "no"));
    } else {
      reply(std::string());
    }
  }
  void publish(int number) {
    api::TaskEvent event;
    event.set_container_id(std::to_string(number));
    publisher_.publish("/tasks/oom", "TaskOOM", event);
  }
  static std::string id_of(const api::Envelope& envelope) {
    api::TaskEvent event;
    EXPECT_TRUE(event.ParseFromString(envelope.event().value()));
    return event.container_id();
  }
  void expect_ids(const std::vector<std::string>& ids) {
    ASSERT_TRUE(turn_until(*loop_, [&] { return events_.size() >= ids.size(); }));
    ttrpc::turn(*loop_);
    std::vector<std::string> got;
    for (const api::Envelope& envelope : events_) got.push_back(id_of(envelope));
    EXPECT_EQ(got, ids);
  }

  TemporaryDirectory directory_ = *TemporaryDirectory::create(testing::TempDir(), "publisher-");
  std::string path_ = directory_.path() + "/s";
  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
  std::vector<ttrpc::Server::Reply> unanswered_;
  std::unique_ptr<ttrpc::Server> containerd_;
  std::vector<api::Envelope> events_;
  ttrpc::Metadata metadata_;
  bool silent_ = false;
  std::optional<ErrorKind> refused_;
  Publisher publisher_{*loop_, "unix://" + path_, "k8s.io"};
};

TEST_F(PublisherTest, TellsContainerdInItsOwnWords) {
  come();
  publish(1);
  expect_ids({"1"});
  EXPECT_EQ(events_[0].namespace_(), "k8s.io");
  EXPECT_EQ(events_[0].topic(), "/tasks/oom");
  EXPECT_EQ(events_[0].event().type_url(), "containerd.events.TaskOOM");
  EXPECT_GT(events_[0].timestamp().seconds(), 1'500'000'000);
  EXPECT_EQ(metadata_.find("containerd-namespace-ttrpc")->second, "k8s.io");
}

TEST_F(PublisherTest, KeepsTheOrder) {
  come();
  std::vector<std::string> ids;
  for (int i = 0; i < 100; ++i) {
    publish(i);
    ids.push_back(std::to_string(i));
  }
  expect_ids(ids);
}

TEST_F(PublisherTest, WaitsForAContainerdThatIsAway) {
  publish(1);
  publish(2);
  ttrpc::turn(*loop_);
  come();
  publish(3);
  expect_ids({"1", "2", "3"});
}

TEST_F(PublisherTest, TellsTheNextOneWhatWasNotAnswered) {
  come();
  silent_ = true;
  publish(1);
  publish(2);
  expect_ids({"1"});
  containerd_.reset();
  ttrpc::turn(*loop_);
  silent_ = false;
  come();
  expect_ids({"1", "1", "2"});
}

TEST_F(PublisherTest, AnEventThatIsRefusedDoesNotHoldTheOthers) {
  come();
  refused_ = ErrorKind::kInvalidArgument;
  publish(1);
  expect_ids({"1"});
  refused_.reset();
  publish(2);
  expect_ids({"1", "2"});
}

TEST_F(PublisherTest, AnEventThatContainerdIsNotReadyForIsToldAgain) {
  come();
  refused_ = ErrorKind::kUnavailable;
  publish(1);
  expect_ids({"1"});
  refused_.reset();
  expect_ids({"1", "1"});
}

TEST_F(PublisherTest, AConnectionThatEndsWhileIdleIsMadeAnew) {
  come();
  publish(1);
  expect_ids({"1"});
  containerd_.reset();
  ttrpc::turn(*loop_);
  come();
  publish(2);
  expect_ids({"1", "2"});
}

TEST_F(PublisherTest, AnEventInTheTurnOfTheConnectionsEndIsTold) {
  come();
  publish(1);
  expect_ids({"1"});
  const UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ASSERT_TRUE(loop_->add_fd(event.get(), EPOLLIN | EPOLLET, [this](uint32_t) { publish(2); }));
  containerd_.reset();
  come();
  ASSERT_EQ(eventfd_write(event.get(), 1), 0);
  expect_ids({"1", "2"});
  publish(3);
  expect_ids({"1", "2", "3"});
  loop_->remove_fd(event.get());
}

TEST_F(PublisherTest, KeepsSoManyAndNoMore) {
  for (int i = 0; i < static_cast<int>(Publisher::kMaxWaiting) + 10; ++i) publish(i);
  come();
  ASSERT_TRUE(turn_until(*loop_, [this] { return events_.size() == Publisher::kMaxWaiting; }));
  ttrpc::turn(*loop_, 10);
  EXPECT_EQ(events_.size(), Publisher::kMaxWaiting);
  EXPECT_EQ(id_of(events_.back()), std::to_string(Publisher::kMaxWaiting - 1));
}

TEST_F(PublisherTest, IsDrainedWhenAllIsAnswered) {
  come();
  publish(1);
  publish(2);
  bool drained = false;
  publisher_.drain(10'000, [&] {
    drained = true;
    EXPECT_EQ(events_.size(), 2U);
  });
  EXPECT_FALSE(drained);
  EXPECT_TRUE(turn_until(*loop_, [&] { return drained; }));
}

TEST_F(PublisherTest, DrainingEndsAnyway) {
  publish(1);
  int drained = 0;
  publisher_.drain(30, [&] { ++drained; });
  EXPECT_TRUE(turn_until(*loop_, [&] { return drained == 1; }));
}

TEST_F(PublisherTest, TheTimeOfADrainThatIsOverDoesNotEndTheNext) {
  come();
  int first = 0;
  publisher_.drain(40, [&] { ++first; });
  ASSERT_TRUE(turn_until(*loop_, [&] { return first == 1; }));
  silent_ = true;
  publish(1);
  int second = 0;
  publisher_.drain(10'000, [&] { ++second; });
  bool later = false;
  loop_->add_timer(80, [&] { later = true; });
  ASSERT_TRUE(turn_until(*loop_, [&] { return later; }));
  EXPECT_EQ(second, 0);
  EXPECT_EQ(first, 1);
}

TEST_F(PublisherTest, WithoutAnAddressNobodyIsTold) {
  Publisher mute(*loop_, "", "k8s.io");
  mute.publish("/tasks/oom", "TaskOOM", api::TaskEvent());
  bool drained = false;
  mute.drain(10'000, [&] { drained = true; });
  EXPECT_TRUE(turn_until(*loop_, [&] { return drained; }));
}

TEST_F(PublisherTest, MayGoWithEventsUnderWay) {
  come();
  silent_ = true;
  auto publisher = std::make_unique<Publisher>(*loop_, path_, "k8s.io");
  publisher->publish("/tasks/oom", "TaskOOM", api::TaskEvent());
  publisher->publish("/tasks/oom", "TaskOOM", api::TaskEvent());
  ASSERT_TRUE(turn_until(*loop_, [this] { return events_.size() == 1; }));
  publisher->drain(10, [] { FAIL(); });
  publisher.reset();
  bool later = false;
  loop_->add_timer(30, [&] { later = true; });
  EXPECT_TRUE(turn_until(*loop_, [&] { return later; }));
}

}  // namespace
}  // namespace kiln::shim
