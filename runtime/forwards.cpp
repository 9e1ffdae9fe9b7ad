// SPDX-License-Identifier: Apache-2.0
#include "runtime/forwards.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "runtime/descriptor_room.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kDialTimeoutMs = 30'000;
constexpr int64_t kLookMs = 10;

}  // namespace

Result<std::unique_ptr<Forwards>> Forwards::open(EventLoop& loop, ForwardPlaces places,
                                                 const std::string& vsock_path) {
  std::unique_ptr<Forwards> made(new Forwards(loop, vsock_path));
  make_room_for_connections((places.sockets.size() + places.served.size()) *
                            ForwardRelay::kMaxConnections);
  std::vector<ForwardRelay::Target> targets;
  for (HostSocket& socket : places.sockets)
    targets.push_back({socket.path, std::move(socket.file)});
  made->sockets_ = std::move(places.sockets);
  if (!targets.empty())
    made->relay_ = TRY(ForwardRelay::listen(loop, vsock_path, std::move(targets)));
  for (ServedPath& served : places.served) {
    auto socket = SharedSocket::listen(std::move(served.place));
    if (!socket) return tl::unexpected(about_forward(served.forward, std::move(socket.error())));
    made->served_.push_back({served.forward.path, std::move(*socket), nullptr});
  }
  return made;
}

Forwards::~Forwards() { loop_.cancel_timer(timer_); }

std::vector<SharedSocketRecord> Forwards::records() const {
  std::vector<SharedSocketRecord> out;
  for (const Served& served : served_) out.push_back(served.socket.record());
  return out;
}

void Forwards::describe(protocol::CreateRequest& request) const {
  Json& mounts = request.config["mounts"];
  if (mounts.is_null()) mounts = Json::array();
  for (size_t i = 0; i < sockets_.size(); ++i) {
    const HostSocket& socket = sockets_[i];
    size_t mount = mounts.size();
    if (socket.mount) {
      mount = *socket.mount;
    } else {
      mounts.push_back({{"destination", socket.path},
                        {"type", "bind"},
                        {"source", socket.path},
                        {"options", {"bind"}}});
    }
    request.forwards.sockets[mount] = {relay_->token(i), socket.mode, socket.uid, socket.gid};
  }
  if (relay_) request.forwards.port = relay_->port();
  for (const Served& served : served_) request.forwards.served.push_back(served.path);
}

Result<void> Forwards::serve(const std::string& container_id) {
  for (size_t i = 0; i < served_.size(); ++i) {
    const protocol::StreamHeader header{container_id, "", protocol::served_stream(i)};
    served_[i].listener = TRY(PassedListener::create(loop_, served_[i].socket.take_listener(),
                                                     {vsock_path_, header, kDialTimeoutMs}));
  }
  return {};
}

bool Forwards::guest_has_ended() const {
  return (!relay_ || relay_->guest_has_ended()) &&
         std::all_of(served_.begin(), served_.end(), [](const Served& served) {
           return !served.listener || served.listener->guest_has_ended();
         });
}

uint64_t Forwards::bytes_copied() const {
  uint64_t sum = relay_ ? relay_->bytes_copied() : 0;
  for (const Served& served : served_) sum += served.listener ? served.listener->bytes_copied() : 0;
  return sum;
}

void Forwards::drain(int64_t idle_ms, std::function<void()> done) {
  for (const Served& served : served_)
    if (served.listener) served.listener->stop_accepting();
  look_again(idle_ms, idle_ms, bytes_copied(), std::move(done));
}

void Forwards::look_again(int64_t idle_ms, int64_t left_ms, uint64_t seen,
                          std::function<void()> done) {
  if (guest_has_ended() || left_ms <= 0) return done();
  timer_ = loop_.add_timer(kLookMs, [this, idle_ms, left_ms, seen, done = std::move(done)] {
    const uint64_t bytes = bytes_copied();
    look_again(idle_ms, bytes == seen ? left_ms - kLookMs : idle_ms, bytes, done);
  });
}

}  // namespace kiln::runtime
