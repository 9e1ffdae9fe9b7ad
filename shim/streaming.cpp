// SPDX-License-Identifier: Apache-2.0
#include "shim/streaming.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/format.h"
#include "shim.pb.h"

namespace kiln::shim {
namespace {

constexpr std::string_view kParameter = "streaming_id=";
constexpr const char* kInitType = "containerd.services.streaming.v1.StreamInit";
constexpr const char* kDataType = "containerd.types.transfer.Data";
constexpr const char* kWindowType = "containerd.types.transfer.WindowUpdate";
// As containerd's own end has them.
constexpr int64_t kChunkBytes = 32 * 1024;
constexpr int64_t kWindowBytes = 2 * kChunkBytes;
constexpr int64_t kMaxWindowBytes = int64_t{1} << 30;
constexpr size_t kMaxEarly = 256;

template <typename Message>
std::string wrapped(const char* type, const Message& message) {
  api::Any any;
  any.set_type_url(type);
  any.set_value(message.SerializeAsString());
  return any.SerializeAsString();
}

template <typename Message>
bool unwrap(const std::string& data, const char* type, Message& out) {
  api::Any any;
  if (!any.ParseFromString(data)) return false;
  const std::string& url = any.type_url();
  return url.substr(url.rfind('/') + 1) == type && out.ParseFromString(any.value());
}

std::string window_update(int64_t bytes) {
  api::WindowUpdate update;
  update.set_update(static_cast<int32_t>(bytes));
  return wrapped(kWindowType, update);
}

}  // namespace

Streaming::~Streaming() {
  for (auto& [id, endpoint] : endpoints_) watch(id, endpoint, false);
}

std::string Streaming::stream_id(const std::string& uri) {
  const size_t query = uri.find('?');
  if (query == std::string::npos) return {};
  const size_t at = uri.find(kParameter, query);
  if (at == std::string::npos) return {};
  const size_t start = at + kParameter.size();
  return uri.substr(start, uri.find('&', start) - start);
}

ttrpc::Server::Method Streaming::method() {
  ttrpc::Server::Method out;
  out.service = "containerd.services.streaming.v1.Streaming";
  out.name = "Stream";
  out.streaming = [this](const ttrpc::Server::Incoming&,
                         const std::shared_ptr<ttrpc::Stream>& stream) { take(stream); };
  return out;
}

Result<void> Streaming::prepare(StdioPaths& paths) {
  const std::array<std::string*, 3> uris = {&paths.in, &paths.out, &paths.err};
  for (size_t i = 0; i < uris.size(); ++i) {
    const std::string id = stream_id(*uris[i]);
    if (id.empty()) continue;
    auto made = add(id, i == 0);
    if (!made) {
      // The one in use is another process's.
      for (size_t j = 0; j < i; ++j)
        if (std::exchange(paths.streams[j], nullptr)) remove(stream_id(*uris[j]));
      return tl::unexpected(std::move(made.error()));
    }
    paths.streams[i] = std::make_shared<UniqueFd>(std::move(*made));
  }
  return {};
}

void Streaming::forget(const StdioPaths& paths) {
  for (const std::string* uri : {&paths.in, &paths.out, &paths.err}) {
    const std::string id = stream_id(*uri);
    if (!id.empty()) remove(id);
  }
}

Result<UniqueFd> Streaming::add(const std::string& id, bool input) {
  if (endpoints_.contains(id))
    return make_error(ErrorKind::kAlreadyExists, fmt::format("stream `{}` is in use", id));
  std::array<int, 2> fds{};
  if (pipe2(fds.data(), O_CLOEXEC | O_NONBLOCK) != 0) return sys_error("create a pipe");
  UniqueFd read_end(fds[0]);
  UniqueFd write_end(fds[1]);
  Endpoint& endpoint = endpoints_[id];
  endpoint.input = input;
  endpoint.pipe = std::move(input ? write_end : read_end);
  const auto early = std::find_if(early_.begin(), early_.end(),
                                  [&](const auto& item) { return item.first == id; });
  if (early != early_.end()) {
    auto stream = std::move(early->second);
    early_.erase(early);
    // Not while the process's end is on its way to it.
    loop_.defer([this, id, stream] {
      const auto found = endpoints_.find(id);
      if (found != endpoints_.end() && !found->second.stream) attach(id, found->second, stream);
    });
  }
  return std::move(input ? read_end : write_end);
}

// The first message says which stream it is.
void Streaming::take(const std::shared_ptr<ttrpc::Stream>& stream) {
  const ttrpc::Stream* key = stream.get();
  nameless_[key] = stream;
  stream->receive(
      [this, key](const std::string& data) {
        const auto found = nameless_.find(key);
        if (found == nameless_.end()) return;
        const auto named = std::move(found->second);
        nameless_.erase(found);
        named->receive(nullptr, nullptr);
        identify(named, data);
      },
      [this, key] { nameless_.erase(key); });
}

void Streaming::identify(const std::shared_ptr<ttrpc::Stream>& stream, const std::string& data) {
  if (stream->finished()) return;
  api::StreamInit init;
  if (!unwrap(data, kInitType, init) || init.id().empty())
    return stream->finish(invalid_argument("a stream begins with its id"));
  stream->send(api::Any().SerializeAsString());  // it is known
  const auto found = endpoints_.find(init.id());
  if (found != endpoints_.end()) return attach(init.id(), found->second, stream);
  std::erase_if(early_, [](const auto& item) { return item.second->finished(); });
  if (early_.size() >= kMaxEarly) early_.pop_front();
  early_.emplace_back(init.id(), stream);
}

void Streaming::attach(const std::string& id, Endpoint& endpoint,
                       std::shared_ptr<ttrpc::Stream> stream) {
  if (stream->finished()) return;
  // Of a client that has come again.
  if (endpoint.stream) std::exchange(endpoint.stream, nullptr)->finish({});
  endpoint.stream = stream;
  endpoint.window = 0;
  const ttrpc::Stream* key = stream.get();
  stream->receive([this, id](const std::string& data) { received(id, data); },
                  [this, id, key] { stream_ended(id, key); });
  pump(id);
}

void Streaming::received(const std::string& id, const std::string& data) {
  const auto found = endpoints_.find(id);
  if (found == endpoints_.end()) return;
  Endpoint& endpoint = found->second;
  if (endpoint.input) {
    api::Data piece;
    if (!unwrap(data, kDataType, piece)) return;
    endpoint.window -= static_cast<int64_t>(piece.data().size());
    if (endpoint.window < -kWindowBytes && endpoint.stream)
      return std::exchange(endpoint.stream, nullptr)
          ->finish(make_error(ErrorKind::kResourceExhausted, "more than the window was sent"));
    endpoint.pending += piece.data();
  } else {
    api::WindowUpdate update;
    if (!unwrap(data, kWindowType, update) || update.update() < 0) return;
    endpoint.window = std::min(endpoint.window + update.update(), kMaxWindowBytes);
  }
  pump(id);
}

void Streaming::stream_ended(const std::string& id, const ttrpc::Stream* stream) {
  const auto found = endpoints_.find(id);
  if (found == endpoints_.end() || found->second.stream.get() != stream) return;
  Endpoint& endpoint = found->second;
  if (endpoint.stream->finished()) {  // its connection has gone
    watch(id, endpoint, false);
    endpoint.stream.reset();
    return;
  }
  if (!endpoint.input) return;  // it only reads
  endpoint.ending = true;
  pump(id);
}

void Streaming::pump(const std::string& id) {
  const auto found = endpoints_.find(id);
  if (found == endpoints_.end()) return;
  if (found->second.input) return pump_input(id, found->second);
  pump_output(id, found->second);
}

void Streaming::pump_output(const std::string& id, Endpoint& endpoint) {
  std::array<char, kChunkBytes> buffer;
  while (endpoint.stream && endpoint.window > 0 && endpoint.pipe) {
    const auto room = static_cast<size_t>(std::min(endpoint.window, kChunkBytes));
    const ssize_t got = retry_eintr([&] { return read(endpoint.pipe.get(), buffer.data(), room); });
    if (got < 0 && errno == EAGAIN) return watch(id, endpoint, true);
    if (got <= 0) {
      close_pipe(endpoint);
      break;
    }
    endpoint.window -= got;
    api::Data data;
    data.set_data(buffer.data(), static_cast<size_t>(got));
    endpoint.stream->send(wrapped(kDataType, data));
  }
  watch(id, endpoint, false);
  if (endpoint.stream && !endpoint.pipe) std::exchange(endpoint.stream, nullptr)->finish({});
}

void Streaming::pump_input(const std::string& id, Endpoint& endpoint) {
  while (!endpoint.pending.empty() && endpoint.pipe) {
    const ssize_t written = retry_eintr([&] {
      return write(endpoint.pipe.get(), endpoint.pending.data(), endpoint.pending.size());
    });
    if (written < 0 && errno == EAGAIN) return watch(id, endpoint, true);
    if (written <= 0) {  // nobody reads any more
      close_pipe(endpoint);
      break;
    }
    endpoint.pending.erase(0, static_cast<size_t>(written));
  }
  watch(id, endpoint, false);
  if (endpoint.ending || !endpoint.pipe) {
    close_pipe(endpoint);
    endpoint.pending.clear();
    if (endpoint.stream) std::exchange(endpoint.stream, nullptr)->finish({});
    return;
  }
  if (endpoint.stream && endpoint.window <= kChunkBytes) {
    const int64_t granted = kWindowBytes - std::max<int64_t>(endpoint.window, 0);
    endpoint.window += granted;
    endpoint.stream->send(window_update(granted));
  }
}

void Streaming::watch(const std::string& id, Endpoint& endpoint, bool wanted) {
  if (endpoint.watched == wanted) return;
  if (!wanted) {
    loop_.remove_fd(endpoint.pipe.get());
  } else if (!loop_.add_fd(endpoint.pipe.get(), endpoint.input ? EPOLLOUT : EPOLLIN,
                           [this, id](uint32_t) { pump(id); })) {
    return;
  }
  endpoint.watched = wanted;
}

void Streaming::close_pipe(Endpoint& endpoint) {
  if (std::exchange(endpoint.watched, false)) loop_.remove_fd(endpoint.pipe.get());
  endpoint.pipe.reset();
}

void Streaming::remove(const std::string& id) {
  auto node = endpoints_.extract(id);
  if (node.empty()) return;
  Endpoint& endpoint = node.mapped();
  close_pipe(endpoint);
  if (endpoint.stream) std::exchange(endpoint.stream, nullptr)->finish({});
}

}  // namespace kiln::shim
