// SPDX-License-Identifier: Apache-2.0
#include "shim/publisher.h"

#include <ctime>

#include "base/format.h"
#include "base/log.h"
#include "base/unix_socket.h"

namespace kiln::shim {
namespace {

constexpr int64_t kTimeoutMs = 5000;
constexpr int64_t kRetryMs = 500;
constexpr std::string_view kScheme = "unix://";
// As containerd's own clients name it.
constexpr const char* kNamespaceKey = "containerd-namespace-ttrpc";

}  // namespace

api::Timestamp now() {
  timespec time{};
  clock_gettime(CLOCK_REALTIME, &time);
  api::Timestamp out;
  out.set_seconds(time.tv_sec);
  out.set_nanos(static_cast<int32_t>(time.tv_nsec));
  return out;
}

Publisher::Publisher(EventLoop& loop, std::string address, std::string namespace_name)
    : loop_(loop), path_(std::move(address)), namespace_(std::move(namespace_name)) {
  if (path_.starts_with(kScheme)) path_.erase(0, kScheme.size());
}

Publisher::~Publisher() {
  *alive_ = false;
  if (retry_timer_ != 0) loop_.cancel_timer(retry_timer_);
  if (drain_timer_ != 0) loop_.cancel_timer(drain_timer_);
}

void Publisher::enqueue(const char* topic, const char* type, std::string event) {
  if (path_.empty()) return;
  api::ForwardRequest request;
  api::Envelope& envelope = *request.mutable_envelope();
  *envelope.mutable_timestamp() = now();
  envelope.set_namespace_(namespace_);
  envelope.set_topic(topic);
  envelope.mutable_event()->set_type_url(fmt::format("containerd.events.{}", type));
  envelope.mutable_event()->set_value(std::move(event));
  if (waiting_.size() >= kMaxWaiting) {
    log_warning("event {} is lost: containerd takes none, and {} wait", topic, waiting_.size());
    return;
  }
  waiting_.push_back(request.SerializeAsString());
  send_next();
}

void Publisher::connect() {
  auto socket = connect_unix(path_);
  if (!socket) {
    log_debug("connect to containerd: {}", socket.error().message);
    return;
  }
  auto client = ttrpc::Client::create(loop_, std::move(*socket), [this](const Error&) {
    loop_.defer([this, alive = alive_] {
      // There may be another one by now.
      if (*alive && client_ && client_->closed()) client_.reset();
    });
  });
  if (client) client_ = std::move(*client);
}

void Publisher::send_next() {
  if (sending_ || waiting_.empty() || retry_timer_ != 0) return;
  if (!client_ || client_->closed()) connect();
  if (!client_) return try_again();
  sending_ = true;
  client_->call({"containerd.services.events.ttrpc.v1.Events",
                 "Forward",
                 waiting_.front(),
                 kTimeoutMs,
                 {{kNamespaceKey, namespace_}}},
                [this, alive = alive_](const Result<std::string>& answer) {
                  if (*alive) sent(answer);
                });
}

void Publisher::sent(const Result<std::string>& answer) {
  sending_ = false;
  if (!answer) {
    const bool away = answer.error().kind == ErrorKind::kUnavailable ||
                      answer.error().kind == ErrorKind::kDeadlineExceeded;
    if (away) return try_again();
    // It would be refused again.
    log_warning("publish an event: {}, ignoring", answer.error().message);
  }
  waiting_.pop_front();
  send_next();
  check_drained();
}

void Publisher::try_again() {
  if (retry_timer_ != 0) return;
  retry_timer_ = loop_.add_timer(kRetryMs, [this] {
    retry_timer_ = 0;
    send_next();
  });
}

void Publisher::drain(int64_t timeout_ms, std::function<void()> callback) {
  drained_ = std::move(callback);
  if (drain_timer_ != 0) loop_.cancel_timer(drain_timer_);
  drain_timer_ = loop_.add_timer(timeout_ms, [this] {
    drain_timer_ = 0;
    if (const auto done = std::exchange(drained_, nullptr)) done();
  });
  check_drained();
}

void Publisher::check_drained() {
  if (!waiting_.empty() || !drained_) return;
  loop_.defer([this, alive = alive_] {
    if (!*alive) return;
    if (const auto done = std::exchange(drained_, nullptr)) done();
  });
}

}  // namespace kiln::shim
