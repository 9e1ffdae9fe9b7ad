// SPDX-License-Identifier: Apache-2.0
#include "vmm/qemu/qmp_client.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"

namespace kiln::vmm {
namespace {

constexpr size_t kMaxLineBytes = 1U << 20;

}  // namespace

QmpClient::QmpClient(EventLoop& loop, UniqueFd socket, Callbacks callbacks)
    : loop_(loop), socket_(std::move(socket)), callbacks_(std::move(callbacks)) {}

QmpClient::~QmpClient() {
  if (socket_) loop_.remove_fd(socket_.get());
}

Result<std::unique_ptr<QmpClient>> QmpClient::create(EventLoop& loop, UniqueFd socket,
                                                     Callbacks callbacks) {
  if (fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0) return sys_error("set a socket non-blocking");
  std::unique_ptr<QmpClient> client(new QmpClient(loop, std::move(socket), std::move(callbacks)));
  TRY(loop.add_fd(client->socket_.get(), EPOLLIN,
                  [self = client.get()](uint32_t) { self->receive(); }));
  // Answered by QEMU's main loop, so the answer says that the machine has been set up.
  client->execute("qmp_capabilities", [self = client.get()](const Result<Json>& answer) {
    if (answer) self->callbacks_.on_ready();
  });
  return client;
}

void QmpClient::execute(const std::string& command, Done done) {
  if (!socket_) return done(make_error(ErrorKind::kUnavailable, "qemu has closed its monitor"));
  const uint64_t id = next_id_++;
  const std::string line = dump_json(Json{{"execute", command}, {"id", id}}) + "\n";
  waiting_[id] = std::move(done);
  // A few dozen bytes into a buffer that QEMU empties: a short write is a QEMU that is stuck.
  const ssize_t sent = send(socket_.get(), line.data(), line.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(line.size())) shutdown(socket_.get(), SHUT_RDWR);
}

void QmpClient::receive() {
  std::array<char, 4096> buffer{};
  const ssize_t got =
      retry_eintr([&] { return recv(socket_.get(), buffer.data(), buffer.size(), 0); });
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) return close();
  incoming_.append(buffer.data(), static_cast<size_t>(got));
  size_t end = 0;
  while ((end = incoming_.find('\n')) != std::string::npos) {
    const std::string line = incoming_.substr(0, end);
    incoming_.erase(0, end + 1);
    handle_line(line);
    if (!socket_) return;
  }
  if (incoming_.size() > kMaxLineBytes) close();
}

void QmpClient::handle_line(const std::string& line) {
  const auto message = parse_json(line);
  if (!message || !message->is_object()) return close();
  if (message->contains("event") && (*message)["event"].is_string()) {
    const Json data = message->value("data", Json::object());
    return callbacks_.on_event((*message)["event"].get<std::string>(), data);
  }
  if (!message->contains("id") || !(*message)["id"].is_number_unsigned()) return;  // the greeting
  const auto found = waiting_.find((*message)["id"].get<uint64_t>());
  if (found == waiting_.end()) return;
  const Done done = std::move(found->second);
  waiting_.erase(found);
  if (!message->contains("error")) return done(message->value("return", Json::object()));
  const Json& error = (*message)["error"];
  std::string text = "qemu refused";
  if (error.is_object() && error.contains("desc") && error["desc"].is_string())
    text = error["desc"].get<std::string>();
  done(make_error(ErrorKind::kUnknown, std::move(text)));
}

void QmpClient::close() {
  if (!socket_) return;
  loop_.remove_fd(socket_.get());
  socket_.reset();
  auto waiting = std::move(waiting_);
  waiting_.clear();
  for (auto& [id, done] : waiting)
    done(make_error(ErrorKind::kUnavailable, "qemu has closed its monitor"));
  callbacks_.on_closed();
}

}  // namespace kiln::vmm
