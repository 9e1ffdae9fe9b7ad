// SPDX-License-Identifier: Apache-2.0
// A vhost-user front-end that says what it likes to our server, with the guest's memory and a few
// other descriptors to hand over, and a guest whose rings hold requests.
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/bytes.h"
#include "base/unix_socket.h"
#include "tests/support/fake_driver.h"
#include "vmm/vhost_user/server.h"

namespace {

using kiln::ByteReader;
using kiln::Result;
using kiln::UniqueFd;
using kiln::vmm::Activation;
using kiln::vmm::FakeDriver;
using kiln::vmm::FakeGuest;
using kiln::vmm::Queue;
using kiln::vmm::VhostUserServer;
namespace vhost_user = kiln::vmm::vhost_user;

constexpr int kMaxSteps = 128;
constexpr uint16_t kRingSize = 16;

// Gives every buffer back, and insists on what the server owes a device.
class Device : public kiln::vmm::VirtioDevice {
 public:
  ~Device() override {
    if (active_) abort();  // the server resets it
  }
  kiln::vmm::DeviceType type() const override { return kiln::vmm::DeviceType::kVsock; }
  uint64_t features() const override { return 1; }
  std::span<const uint16_t> queue_sizes() const override { return sizes_; }
  void read_config(uint32_t offset, std::span<std::byte> out) const override {
    std::fill(out.begin(), out.end(), static_cast<std::byte>(offset));
  }
  Result<void> activate(Activation activation) override {
    if (active_ || activation.queues.size() != sizes_.size()) abort();
    activation_ = std::move(activation);
    active_ = true;
    return {};
  }
  Result<void> process_queue(unsigned index) override {
    if (!active_ || activation_.queues[index] == nullptr) abort();
    Queue& queue = *activation_.queues[index];
    while (auto chain = TRY(queue.pop())) {
      const uint32_t zero = 0;
      if (chain->writable_size >= sizeof zero)
        TRY(activation_.memory->write_ranges(chain->writable, 0,
                                             std::as_bytes(std::span(&zero, 1))));
      TRY(queue.push_used(chain->head, 0));
    }
    if (queue.needs_interrupt()) activation_.interrupt(index);
    return {};
  }
  void reset() override { suspend(); }
  void suspend() override {
    active_ = false;
    activation_ = {};
  }

 private:
  const std::array<uint16_t, 2> sizes_ = {kRingSize, kRingSize};
  Activation activation_;
  bool active_ = false;
};

const UniqueFd& memory_file() {
  static const UniqueFd file = [] {
    UniqueFd made(memfd_create("guest", MFD_CLOEXEC));
    if (ftruncate(made.get(), FakeGuest::kSize) != 0) abort();
    return made;
  }();
  return file;
}

// What the fuzzer chooses of a message.
struct Chosen {
  uint8_t request;
  uint8_t flags;
  uint8_t fds;  // which descriptors: up to four, two bits each, the count in `flags`
  uint8_t size;
};

void drain(int socket) {
  std::array<char, 4096> bytes{};
  while (recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
  }
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteReader input(std::as_bytes(std::span(data, size)));
  auto [front, back] = std::move(*kiln::socket_pair(SOCK_STREAM));
  auto loop = std::move(*kiln::EventLoop::create());
  FakeGuest guest(memory_file());
  // Descriptors at 4096, available ring at 8192, used ring at 12288: the seeds know.
  FakeDriver driver(guest, kRingSize);
  driver.set_available_index(0);
  guest.put(driver.config().used_ring + 2, uint16_t{0});
  const uint64_t buffer = guest.allocate(4096);
  const UniqueFd kick(eventfd(0, EFD_CLOEXEC));
  const UniqueFd call(eventfd(0, EFD_CLOEXEC));
  const std::array<int, 4> choice = {memory_file().get(), kick.get(), call.get(), front.get()};
  Device device;
  int ends = 0;
  auto server =
      VhostUserServer::create(*loop, std::move(back), device, [&](const Result<void>&) { ++ends; });
  if (!server) abort();
  for (int i = 0; i < kMaxSteps && ends == 0; ++i) {
    const auto chosen = input.read<Chosen>();
    if (!chosen) break;
    if (chosen->request == 0xff) {
      // The guest's part: a request, well-formed or not.
      if (chosen->fds % 4 == 0) driver.add_chain({{buffer, chosen->size, true}});
      if (chosen->fds % 4 == 1) driver.set_available_index(chosen->size);
      if (chosen->fds % 4 == 2) driver.set_descriptor(chosen->size % kRingSize, {});
      eventfd_write(kick.get(), 1);
    } else {
      const auto payload = *input.read_bytes(std::min<size_t>(chosen->size, input.rest().size()));
      vhost_user::Header header{chosen->request, chosen->flags & 0xfU,
                                static_cast<uint32_t>(payload.size())};
      if ((chosen->flags & 0x80) != 0) header.size += chosen->fds;  // more than there is, or later
      std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
      bytes.append(reinterpret_cast<const char*>(payload.data()), payload.size());
      std::array<int, 4> fds{};
      for (size_t fd = 0; fd < fds.size(); ++fd) fds[fd] = choice[(chosen->fds >> (2 * fd)) & 3];
      const size_t count = std::min<size_t>((chosen->flags >> 4) & 7, fds.size());
      static_cast<void>(kiln::send_with_fds(front.get(), bytes, std::span(fds).first(count)));
    }
    for (int round = 0; round < 3; ++round)
      if (!loop->run_once(0)) abort();
    drain(front.get());
  }
  if (ends > 1) abort();
  return 0;
}
