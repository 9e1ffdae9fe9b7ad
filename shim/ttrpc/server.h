// SPDX-License-Identifier: Apache-2.0
// A ttrpc server: unary and streaming calls on any number of connections.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/acceptor.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "shim/ttrpc/message_connection.h"

namespace kiln::ttrpc {

using Metadata = std::multimap<std::string, std::string>;

class Stream;

// Used by the event loop's thread, with everything it hands out. Calls are answered in any order.
class Server {
 public:
  struct Incoming {
    std::string payload;  // the request message, not parsed
    Metadata metadata;
  };
  // The way back of one unary call.
  class Reply {
   public:
    // Once; what comes after the first, after the caller's deadline or after its connection's end
    // is dropped. An error's kind becomes the status's code. When the last copy goes without it,
    // the call is answered with kAborted.
    void operator()(const Result<std::string>& response) const;
    // False: cancelled, by one of the above.
    bool wanted() const;

   private:
    friend class Server;
    struct Way;
    Reply(Server& server, uint64_t peer, uint32_t stream);
    std::shared_ptr<const Way> way_;
  };
  using Unary = std::function<void(const Incoming& request, const Reply& reply)>;
  // The stream lives as long as somebody keeps it; one that nobody keeps is finished at once.
  using Streaming =
      std::function<void(const Incoming& request, const std::shared_ptr<Stream>& stream)>;

  struct Method {
    std::string service;  // containerd.task.v2.Task
    std::string name;     // Create
    Unary unary;          // one of the two
    Streaming streaming;
  };

  // `listener`: non-blocking.
  static Result<std::unique_ptr<Server>> create(EventLoop& loop, UniqueFd listener,
                                                std::vector<Method> methods);
  // Tells nobody of what is under way; not from within a method.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  size_t connections() const { return peers_.size(); }
  // Whether everything that was answered has been taken by the peers' sockets.
  bool sent_everything() const;

  // One connection, for tests and fuzzers: as if it had been accepted.
  Result<void> adopt(UniqueFd socket);

 private:
  friend class Stream;
  struct Call {
    EventLoop::TimerId timer = 0;
    std::weak_ptr<Stream> open;  // of a streaming call
    bool streaming = false;
    bool remote_closed = false;
  };
  struct Peer {
    std::unique_ptr<MessageConnection> connection;
    uint32_t last_stream = 0;
    std::map<uint32_t, Call> calls;
  };

  Server(EventLoop& loop, std::vector<Method> methods);
  void handle(uint64_t peer, Message message);
  void handle_request(uint64_t peer, Message message);
  void handle_data(uint64_t peer, Message message);
  void run(uint64_t peer, uint32_t stream, uint8_t flags, const std::string& data);
  void start_stream(uint64_t peer, uint32_t stream, const Method& method, const Incoming& request);
  void set_deadline(uint64_t peer, uint32_t stream, int64_t timeout_ns);
  void answer(uint64_t peer, uint32_t stream, const Result<std::string>& response);
  void refuse(uint64_t peer, uint32_t stream, const Error& error);
  void send(uint64_t peer, uint32_t stream, MessageType type, uint8_t flags, std::string_view data);
  void forget(uint64_t peer, uint32_t stream);
  void closed(uint64_t peer);
  const Method* find(const std::string& service, const std::string& name) const;
  bool has_service(const std::string& service) const;

  EventLoop& loop_;
  std::vector<Method> methods_;
  std::unique_ptr<Acceptor> acceptor_;
  std::map<uint64_t, Peer> peers_;
  uint64_t next_peer_ = 1;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// The server's end of a streaming call.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // What the client sends, from the first; `on_end` once, when it sends no more or has gone away,
  // or the stream is finished. After that both are destroyed, so that they may keep the stream.
  // Both may be replaced at any time, also from within; null: let it wait.
  void receive(std::function<void(std::string data)> on_data, std::function<void()> on_end);
  // More than kMaxDataBytes finish the stream with kResourceExhausted.
  void send(std::string_view data);
  // Nothing follows; an error goes to the client as a status.
  void finish(const Result<void>& outcome);
  bool finished() const { return finished_; }

 private:
  friend class Server;
  using DataCallback = std::function<void(std::string data)>;
  Stream(Server& server, uint64_t peer, uint32_t id);
  void deliver(std::string data);
  void end();
  void tell_end();
  void drop();  // tells nobody

  Server* server_;
  std::weak_ptr<bool> server_alive_;
  uint64_t peer_;
  uint32_t id_;
  std::shared_ptr<const DataCallback> on_data_;
  std::function<void()> on_end_;
  std::vector<std::string> early_;  // what nobody has taken
  size_t early_bytes_ = 0;
  bool passing_early_ = false;
  bool ended_ = false;  // the client sends no more
  bool end_told_ = false;
  bool finished_ = false;
};

}  // namespace kiln::ttrpc
