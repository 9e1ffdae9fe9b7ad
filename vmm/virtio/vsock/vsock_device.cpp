// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/vsock/vsock_device.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <climits>
#include <filesystem>

#include "base/file.h"
#include "base/format.h"
#include "base/unix_socket.h"
#include "vmm/virtio/vsock/greeting.h"

namespace kiln::vmm {
namespace {

constexpr std::array<uint16_t, 3> kQueueSizes = {256, 256, 64};
constexpr size_t kMaxClients = 128;
constexpr size_t kMaxResets = 256;
// A guest that does not answer the host's request, and a host that does not read its last bytes.
constexpr int64_t kRequestTimeoutMs = 10'000;
constexpr int64_t kLingerTimeoutMs = 30'000;
// Packets of one connection before the others have their turn.
constexpr int kPacketsPerTurn = 64;
constexpr unsigned kBothWays = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;

}  // namespace

Result<std::string> open_vsock_paths(VsockOptions& options, const std::string& place) {
  const std::filesystem::path path(options.uds_path);
  if (!path.is_absolute() || !path.has_filename())
    return invalid_argument(format("`{}` is no absolute path of a socket", options.uds_path));
  options.listener = TRY(listen_unix(options.uds_path));
  options.uds_path = format("/{}/{}", place, path.filename().native());
  return path.parent_path().native();
}

VsockDevice::VsockDevice(EventLoop& loop, VsockOptions options)
    : loop_(loop),
      guest_cid_(options.guest_cid),
      uds_path_(std::move(options.uds_path)),
      listener_(std::move(options.listener)) {}

Result<std::unique_ptr<VsockDevice>> VsockDevice::create(EventLoop& loop, VsockOptions options) {
  std::unique_ptr<VsockDevice> device(new VsockDevice(loop, std::move(options)));
  if (!device->listener_) {
    device->listener_ = TRY(listen_unix(device->uds_path_));
    device->bound_ = true;
  }
  if (fcntl(device->listener_.get(), F_SETFL, O_NONBLOCK) != 0)
    return sys_error("set a socket non-blocking");
  TRY(loop.add_fd(device->listener_.get(), EPOLLIN,
                  [self = device.get()](uint32_t) { self->accept_client(); }));
  return device;
}

VsockDevice::~VsockDevice() {
  VsockDevice::reset();
  while (!clients_.empty()) drop_client(clients_.begin()->first);
  if (listener_) loop_.remove_fd(listener_.get());
  if (bound_) unlink(uds_path_.c_str());
}

std::span<const uint16_t> VsockDevice::queue_sizes() const { return kQueueSizes; }

void VsockDevice::read_config(uint32_t offset, std::span<std::byte> out) const {
  // virtio 1.2 §5.10.4: the guest's context id, and nothing else.
  const auto bytes = std::as_bytes(std::span(&guest_cid_, 1));
  for (size_t i = 0; i < out.size(); ++i) {
    const uint64_t at = uint64_t{offset} + i;
    out[i] = at < bytes.size() ? bytes[at] : std::byte{0};
  }
}

Queue* VsockDevice::queue(QueueIndex index) const {
  return active_ && index < activation_.queues.size() ? activation_.queues[index] : nullptr;
}

Result<void> VsockDevice::activate(Activation activation) {
  activation_ = std::move(activation);
  active_ = true;
  rx_broken_ = false;
  return {};
}

Result<void> VsockDevice::process_queue(unsigned index) {
  if (index == kRx) {
    for (auto& [key, connection] : connections_) {
      if (!connection->waits_for_buffers) continue;
      connection->waits_for_buffers = false;
      watch(*connection);
    }
    send_owed();
    return {};
  }
  if (index != kTx || queue(kTx) == nullptr) return {};  // events: we never have one
  TRY(drain_tx(*queue(kTx)));
  send_owed();
  return {};
}

void VsockDevice::suspend() {
  active_ = false;
  activation_ = {};
  // Sockets are left alone until there is a queue again.
  for (auto& [key, connection] : connections_) {
    connection->waits_for_buffers = true;
    watch(*connection);
  }
}

void VsockDevice::reset() {
  active_ = false;
  activation_ = {};
  owing_.clear();
  resets_.clear();
  while (!connections_.empty()) {
    connections_.begin()->second->drop_output();
    remove(connections_.begin()->first);
  }
  while (!lingering_.empty()) {
    lingering_.begin()->second->drop_output();
    handle_lingering(lingering_.begin()->first);
  }
}

// ---- the host's side

void VsockDevice::accept_client() {
  auto client = accept_unix(listener_.get(), SOCK_NONBLOCK);
  if (!client) return;
  // Nobody in the guest could answer yet.
  if (!active_ || clients_.size() >= kMaxClients) return;
  const int fd = client->get();
  // Edge-triggered: an unfinished line stays in the socket.
  if (!loop_.add_fd(fd, EPOLLIN | EPOLLRDHUP | EPOLLET, [this, fd](uint32_t) { greet(fd); }))
    return;
  clients_[fd] = std::move(*client);
}

void VsockDevice::drop_client(int fd) {
  loop_.remove_fd(fd);
  clients_.erase(fd);
}

void VsockDevice::greet(int fd) {
  const auto port = receive_connect_line(fd);
  if (port && !*port) return;
  if (!port) return drop_client(fd);
  loop_.remove_fd(fd);
  UniqueFd socket = std::move(clients_[fd]);
  clients_.erase(fd);
  // A client that finds its connection closed was refused.
  static_cast<void>(begin_request(std::move(socket), **port));
}

Result<void> VsockDevice::begin_request(UniqueFd socket, uint32_t guest_port) {
  if (connections() >= kMaxConnections)
    return make_error(ErrorKind::kResourceExhausted, "too many connections");
  VsockPorts ports{next_port_, guest_port};
  while (connections_.contains(ports.key())) ++ports.host;
  // 2^30 and up, so that they never look like a service's.
  next_port_ = ports.host == UINT32_MAX - 1 ? 1U << 30 : ports.host + 1;
  auto connection = std::make_unique<VsockConnection>(ports, std::move(socket),
                                                      VsockConnection::State::kRequested);
  VsockConnection& added = *connection;
  connections_[ports.key()] = std::move(connection);
  added.timer = loop_.add_timer(kRequestTimeoutMs, [this, key = ports.key()] {
    const auto found = connections_.find(key);
    if (found == connections_.end()) return;
    found->second->timer.reset();
    remove(key);
  });
  owe(added, VsockConnection::kRequest);
  watch(added);
  send_owed();
  return {};
}

void VsockDevice::handle_socket(Key key, uint32_t events) {
  const auto found = connections_.find(key);
  if (found == connections_.end()) return;
  VsockConnection& connection = *found->second;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    connection.hung_up = true;
    if (connection.state == VsockConnection::State::kRequested) {
      // The client did not wait: the guest is told if it has heard of it.
      VsockHeader header = connection.header(guest_cid_, VIRTIO_VSOCK_OP_RST);
      if ((connection.pending & VsockConnection::kRequest) == 0 && resets_.size() < kMaxResets)
        resets_.push_back(header);
      remove(key);
      send_owed();
      return;
    }
  }
  if ((events & EPOLLOUT) != 0 || connection.hung_up) {
    connection.flush();
    if (connection.owes_credit()) owe(connection, VsockConnection::kCreditUpdate);
    end_output(connection);
  }
  pump(connection);
  if (connection.output_broken()) announce_shutdown(connection, VIRTIO_VSOCK_SHUTDOWN_RCV);
  if (connection.hung_up && connection.input_ended) announce_shutdown(connection, kBothWays);
  send_owed();
  const auto still = connections_.find(key);
  if (still != connections_.end()) watch(*still->second);
}

void VsockDevice::handle_lingering(int fd) {
  const auto found = lingering_.find(fd);
  if (found == lingering_.end()) return;
  VsockConnection& connection = *found->second;
  connection.flush();
  if (connection.kept() != 0) return;
  if (connection.timer) loop_.cancel_timer(*connection.timer);
  loop_.remove_fd(fd);
  lingering_.erase(found);
}

// ---- the guest's side

Result<void> VsockDevice::drain_tx(Queue& tx) {
  bool pushed = false;
  tx.set_notification(false);
  while (true) {
    while (TRY(tx.pop(chain_))) {
      VsockHeader header{};
      ++metrics_.requests;
      switch (read_vsock_header(*activation_.memory, chain_, guest_cid_, header)) {
        case VsockVerdict::kAccept:
          TRY(handle_packet(header, chain_));
          break;
        case VsockVerdict::kRefuse:
          ++metrics_.failed_requests;
          refuse(header);
          break;
        case VsockVerdict::kDrop:
          ++metrics_.failed_requests;
          break;
      }
      TRY(tx.push_used(chain_.head, 0));
      pushed = true;
    }
    tx.set_notification(true);
    if (!tx.has_available()) break;
    tx.set_notification(false);
  }
  if (pushed && tx.needs_interrupt()) activation_.interrupt(kTx);
  return {};
}

Result<void> VsockDevice::handle_packet(const VsockHeader& header, const DescriptorChain& chain) {
  const VsockPorts ports{header.dst_port, header.src_port};
  const auto found = connections_.find(ports.key());
  if (found == connections_.end()) {
    if (header.op == VIRTIO_VSOCK_OP_REQUEST) {
      handle_request(header);
    } else {
      refuse(header);
    }
    return {};
  }
  VsockConnection& connection = *found->second;
  connection.learn_credit(header);
  const bool established = connection.state == VsockConnection::State::kEstablished;
  switch (header.op) {
    case VIRTIO_VSOCK_OP_RST:
      remove(ports.key());
      return {};
    case VIRTIO_VSOCK_OP_RESPONSE:
      if (established) break;
      handle_response(connection);
      return {};
    case VIRTIO_VSOCK_OP_SHUTDOWN:
      if (!established) break;
      handle_shutdown(connection, header.flags);
      return {};
    case VIRTIO_VSOCK_OP_RW:
      if (!established || (connection.guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 ||
          !connection.may_receive(header.len))
        break;
      return handle_data(connection, header, chain);
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
      owe(connection, VsockConnection::kCreditUpdate);
      return {};
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
      watch(connection);
      return {};
    default:
      break;
  }
  // A second request, or what does not fit the connection's state.
  refuse(header);
  remove(ports.key());
  return {};
}

void VsockDevice::handle_request(const VsockHeader& header) {
  if (connections() >= kMaxConnections) return refuse(header);
  // Non-blocking: a listener whose backlog is full refuses.
  auto socket = connect_unix(format("{}_{}", uds_path_, header.dst_port),
                             static_cast<int>(SOCK_STREAM) | static_cast<int>(SOCK_NONBLOCK));
  if (!socket) return refuse(header);
  const VsockPorts ports{header.dst_port, header.src_port};
  auto connection = std::make_unique<VsockConnection>(ports, std::move(*socket),
                                                      VsockConnection::State::kEstablished);
  VsockConnection& added = *connection;
  connections_[ports.key()] = std::move(connection);
  added.learn_credit(header);
  owe(added, VsockConnection::kResponse);
  watch(added);
}

void VsockDevice::handle_response(VsockConnection& connection) {
  if (connection.timer) loop_.cancel_timer(*connection.timer);
  connection.timer.reset();
  connection.state = VsockConnection::State::kEstablished;
  const std::string answer = connect_answer(connection.ports.host);
  // The first bytes into an empty socket: there is room.
  if (send(connection.socket.get(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT) !=
      static_cast<ssize_t>(answer.size()))
    connection.drop_output();
  watch(connection);
}

void VsockDevice::handle_shutdown(VsockConnection& connection, uint32_t flags) {
  connection.guest_shutdown |= flags & kBothWays;
  if (connection.guest_shutdown == kBothWays) {
    // §5.10.6.5: answered by RST, so that the guest can use the port again.
    if (resets_.size() < kMaxResets)
      resets_.push_back(connection.header(guest_cid_, VIRTIO_VSOCK_OP_RST));
    return remove(connection.ports.key());
  }
  end_output(connection);
  watch(connection);
}

Result<void> VsockDevice::handle_data(VsockConnection& connection, const VsockHeader& header,
                                      const DescriptorChain& chain) {
  if (header.len == 0) return {};
  metrics_.bytes_from_guest += header.len;
  parts_.clear();
  TRY(activation_.memory->append_iovecs(chain.readable, sizeof header, header.len, parts_));
  const size_t written = connection.write_to_host(parts_, header.len);
  if (written < header.len) {
    const std::span<std::byte> room = connection.keep(header.len - written);
    TRY(activation_.memory->read_ranges(chain.readable, sizeof header + written, room));
    watch(connection);
  }
  if (connection.output_broken()) announce_shutdown(connection, VIRTIO_VSOCK_SHUTDOWN_RCV);
  if (connection.owes_credit()) owe(connection, VsockConnection::kCreditUpdate);
  return {};
}

void VsockDevice::refuse(const VsockHeader& header) {
  if (header.op == VIRTIO_VSOCK_OP_RST || resets_.size() >= kMaxResets) return;
  VsockHeader answer{};
  answer.src_cid = header.dst_cid;
  answer.dst_cid = guest_cid_;
  answer.src_port = header.dst_port;
  answer.dst_port = header.src_port;
  answer.type = header.type;
  answer.op = VIRTIO_VSOCK_OP_RST;
  resets_.push_back(answer);
}

// A receive buffer into chain_. False: there is none, and the driver will kick when there is.
Result<bool> VsockDevice::take_buffer(Queue& rx) {
  if (TRY(rx.pop(chain_))) return true;
  rx.set_notification(true);
  return TRY(rx.pop(chain_));  // one may have come in between
}

Result<bool> VsockDevice::send_packet(const VsockHeader& header) {
  Queue* rx = queue(kRx);
  if (rx == nullptr || rx_broken_ || !TRY(take_buffer(*rx))) return false;
  if (chain_.writable_size < sizeof header) return invalid_argument("receive buffer is too small");
  TRY(activation_.memory->write_ranges(chain_.writable, 0, std::as_bytes(std::span(&header, 1))));
  TRY(rx->push_used(chain_.head, sizeof header));
  rx_used_ = true;
  return true;
}

// One of the control packets that it owes; false when there is no buffer.
Result<bool> VsockDevice::send_control(VsockConnection& connection) {
  struct Step {
    unsigned pending;
    uint16_t operation;
  };
  constexpr Step kOrder[] = {
      {VsockConnection::kRequest, VIRTIO_VSOCK_OP_REQUEST},
      {VsockConnection::kResponse, VIRTIO_VSOCK_OP_RESPONSE},
      {VsockConnection::kCreditUpdate, VIRTIO_VSOCK_OP_CREDIT_UPDATE},
      {VsockConnection::kCreditRequest, VIRTIO_VSOCK_OP_CREDIT_REQUEST},
      {VsockConnection::kShutdown, VIRTIO_VSOCK_OP_SHUTDOWN},
  };
  for (const Step& step : kOrder) {
    if ((connection.pending & step.pending) == 0) continue;
    VsockHeader header = connection.header(guest_cid_, step.operation);
    if (step.operation == VIRTIO_VSOCK_OP_SHUTDOWN) header.flags = connection.host_shutdown;
    if (!TRY(send_packet(header))) return false;
    connection.pending &= ~step.pending;
  }
  return true;
}

Result<void> VsockDevice::fill_rx() {
  if (queue(kRx) == nullptr || rx_broken_) return {};
  size_t sent = 0;
  while (sent < resets_.size() && TRY(send_packet(resets_[sent]))) ++sent;
  resets_.erase(resets_.begin(), resets_.begin() + static_cast<ptrdiff_t>(sent));
  if (!resets_.empty()) return {};
  size_t done = 0;
  for (; done < owing_.size(); ++done) {
    const auto found = connections_.find(owing_[done]);
    if (found == connections_.end()) continue;
    if (!TRY(send_control(*found->second))) break;
    found->second->queued = false;
    watch(*found->second);
  }
  owing_.erase(owing_.begin(), owing_.begin() + static_cast<ptrdiff_t>(done));
  return {};
}

// One packet of the host's bytes. False: no more for now (no bytes, no buffer, no credit), or ever.
Result<bool> VsockDevice::send_data(VsockConnection& connection) {
  Queue* rx = queue(kRx);
  if (!TRY(take_buffer(*rx))) {
    connection.waits_for_buffers = true;
    return false;
  }
  if (chain_.writable_size <= sizeof(VsockHeader))
    return invalid_argument("receive buffer is too small");
  const uint32_t room = std::min<uint32_t>(
      {connection.credit(), chain_.writable_size - static_cast<uint32_t>(sizeof(VsockHeader)),
       VsockConnection::kBufferSize});
  parts_.clear();
  TRY(activation_.memory->append_iovecs(chain_.writable, sizeof(VsockHeader), room, parts_));
  msghdr message{};
  message.msg_iov = parts_.data();
  message.msg_iovlen = std::min<size_t>(parts_.size(), IOV_MAX);
  const ssize_t got =
      retry_eintr([&] { return recvmsg(connection.socket.get(), &message, MSG_DONTWAIT); });
  if (got <= 0) {
    rx->undo_pop();
    if (got < 0 && errno == EAGAIN) return false;
    connection.input_ended = true;
    announce_shutdown(connection, got < 0 ? kBothWays : unsigned{VIRTIO_VSOCK_SHUTDOWN_SEND});
    return false;
  }
  VsockHeader header = connection.header(guest_cid_, VIRTIO_VSOCK_OP_RW);
  header.len = static_cast<uint32_t>(got);
  TRY(activation_.memory->write_ranges(chain_.writable, 0, std::as_bytes(std::span(&header, 1))));
  TRY(rx->push_used(chain_.head, static_cast<uint32_t>(sizeof header) + header.len));
  rx_used_ = true;
  connection.sent(header.len);
  metrics_.bytes_to_guest += header.len;
  // A short read has emptied the socket; should more have come since, epoll says so again.
  return header.len == room;
}

void VsockDevice::pump(VsockConnection& connection) {
  constexpr unsigned kFirst = VsockConnection::kRequest | VsockConnection::kResponse;
  for (int i = 0; i < kPacketsPerTurn; ++i) {
    if (queue(kRx) == nullptr || rx_broken_ || connection.input_ended ||
        connection.state != VsockConnection::State::kEstablished ||
        (connection.pending & kFirst) != 0 ||
        (connection.guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0)
      return;
    if (connection.credit() == 0) {
      if (!std::exchange(connection.credit_requested, true))
        owe(connection, VsockConnection::kCreditRequest);
      return;
    }
    const auto sent = send_data(connection);
    if (!sent) return break_rx(sent.error());
    if (!*sent) return;
  }
}

void VsockDevice::send_owed() {
  const auto sent = fill_rx();
  signal_rx();
  if (!sent) break_rx(sent.error());
}

void VsockDevice::signal_rx() {
  if (!std::exchange(rx_used_, false)) return;
  Queue* rx = queue(kRx);
  if (rx != nullptr && rx->needs_interrupt()) activation_.interrupt(kRx);
}

// ---- both sides

void VsockDevice::owe(VsockConnection& connection, unsigned pending) {
  connection.pending |= pending;
  if (std::exchange(connection.queued, true)) return;
  owing_.push_back(connection.ports.key());
}

void VsockDevice::announce_shutdown(VsockConnection& connection, unsigned flags) {
  if ((connection.host_shutdown & flags) == flags) return;
  connection.host_shutdown |= flags;
  owe(connection, VsockConnection::kShutdown);
}

// What the socket is watched for follows from the connection's state.
void VsockDevice::watch(VsockConnection& connection) {
  const int fd = connection.socket.get();
  const bool reads = connection.state == VsockConnection::State::kEstablished && active_ &&
                     !rx_broken_ && !connection.input_ended && !connection.waits_for_buffers &&
                     connection.credit() != 0 &&
                     (connection.pending & VsockConnection::kResponse) == 0 &&
                     (connection.guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0;
  // Without credit its next byte is what makes us ask for some: once.
  const bool asks = connection.state == VsockConnection::State::kEstablished && active_ &&
                    !connection.input_ended && connection.credit() == 0 &&
                    !connection.credit_requested;
  uint32_t wanted = 0;
  if (reads || asks) wanted |= EPOLLIN;
  if (connection.kept() != 0) wanted |= EPOLLOUT;
  // Hang-ups are reported whether asked for or not: once known they would only spin.
  if (wanted == 0 && connection.hung_up) {
    if (connection.watched) loop_.remove_fd(fd);
    connection.watched.reset();
    return;
  }
  if (connection.watched && *connection.watched == wanted) return;
  const bool watched = connection.watched.has_value();
  connection.watched = wanted;
  const auto done =
      watched ? loop_.modify_fd(fd, wanted)
              : loop_.add_fd(fd, wanted, [this, key = connection.ports.key()](uint32_t events) {
                  handle_socket(key, events);
                });
  if (!done) connection.watched.reset();
}

// Passes the guest's half-close on once everything before it is with the host.
void VsockDevice::end_output(VsockConnection& connection) {
  if ((connection.guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) == 0 || connection.kept() != 0)
    return;
  if (!std::exchange(connection.output_ended, true)) shutdown(connection.socket.get(), SHUT_WR);
}

void VsockDevice::remove(Key key) {
  const auto found = connections_.find(key);
  if (found == connections_.end()) return;
  std::unique_ptr<VsockConnection> connection = std::move(found->second);
  connections_.erase(found);
  if (connection->timer) loop_.cancel_timer(*connection->timer);
  connection->timer.reset();
  const int fd = connection->socket.get();
  if (connection->watched) loop_.remove_fd(fd);
  connection->watched.reset();
  if (connection->kept() == 0 || connection->output_broken()) return;
  connection->state = VsockConnection::State::kLingering;
  if (!loop_.add_fd(fd, EPOLLOUT, [this, fd](uint32_t) { handle_lingering(fd); })) return;
  connection->timer = loop_.add_timer(kLingerTimeoutMs, [this, fd] {
    const auto late = lingering_.find(fd);
    if (late == lingering_.end()) return;
    late->second->timer.reset();
    late->second->drop_output();
    handle_lingering(fd);
  });
  lingering_[fd] = std::move(connection);
}

// The driver's receive queue is unusable: it has cut itself off.
void VsockDevice::break_rx(const Error& why) {
  rx_broken_ = true;
  if (activation_.broken) activation_.broken(kRx, why);
}

}  // namespace kiln::vmm
