// SPDX-License-Identifier: Apache-2.0
// FUSE READ and WRITE requests on a file in the page cache, through FsDevice, beside a loop of
// pread and pwrite. The guest's buffers are single pages, as a guest's page cache has them.
#include <fcntl.h>
#include <linux/fuse.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/bench/datapath.h"
#include "tests/support/fake_driver.h"
#include "vmm/virtio/fs/fs_device.h"

namespace kiln::vmm {
namespace {

constexpr uint64_t kFileSize = 64U << 20;
constexpr uint32_t kPage = 4096;
constexpr uint32_t kMaxTransfer = 1U << 20;

// Pages of the file in an order without pattern.
class Offsets {
 public:
  explicit Offsets(uint32_t size) : places_(kFileSize / size), size_(size) {}
  uint64_t next() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return (state_ >> 33) % places_ * size_;
  }

 private:
  uint64_t state_ = 1;
  uint64_t places_;
  uint64_t size_;
};

class Bench {
 public:
  explicit Bench(const std::string& directory) {
    const std::string path = directory + "/file";
    file_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    const std::string block(1U << 20, 'x');
    for (uint64_t at = 0; at < kFileSize; at += block.size())
      if (write(file_.get(), block.data(), block.size()) < 0) abort();
    if (!session_->add_entry("share", UniqueFd(::open(directory.c_str(), O_PATH | O_CLOEXEC)), {}))
      abort();
    Activation activation;
    activation.memory = guest_.memory();
    activation.queues = {nullptr, queue_.get()};
    activation.interrupt = [this](unsigned) { ++interrupts_; };
    if (!device_.activate(std::move(activation))) abort();
    greet();
    open_file();
  }

  void run(uint32_t size) {
    // Both requests of that size, laid out once; from then on they are only published.
    const uint16_t read = lay_out_read(size);
    const uint16_t write = lay_out_write(size);
    Offsets ours(size);
    Offsets theirs(size);
    bench::compare(
        "fs read", size, 1, [&] { ask_read(read, ours.next()); },
        [&] {
          if (pread(file_.get(), plain_.data(), size, static_cast<off_t>(theirs.next())) !=
              ssize_t{size})
            abort();
        });
    bench::compare(
        "fs write", size, 1, [&] { ask_write(write, ours.next()); },
        [&] {
          if (pwrite(file_.get(), plain_.data(), size, static_cast<off_t>(theirs.next())) !=
              ssize_t{size})
            abort();
        });
  }

 private:
  struct ReadRequest {
    fuse_in_header header;
    fuse_read_in body;
  };
  struct WriteRequest {
    fuse_in_header header;
    fuse_write_in body;
  };

  // The answer's bytes after its header.
  std::string ask(uint32_t opcode, uint64_t node, const void* body, size_t size) {
    fuse_in_header header{};
    header.opcode = opcode;
    header.nodeid = node;
    header.len = static_cast<uint32_t>(sizeof header + size);
    guest_.put(request_, header);
    guest_.put_text(request_ + sizeof header, {static_cast<const char*>(body), size});
    driver_.add_chain({{request_, header.len, false}, {answer_, kPage, true}});
    serve();
    const auto out = guest_.get<fuse_out_header>(answer_);
    if (out.error != 0) abort();
    return guest_.get_text(answer_ + sizeof out, out.len - sizeof out);
  }
  template <typename T>
  static T as(const std::string& bytes) {
    T value{};
    if (bytes.size() < sizeof value) abort();
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  void greet() {
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = FUSE_KERNEL_MINOR_VERSION;
    init.flags = 0xffffffff;
    ask(FUSE_INIT, 0, &init, sizeof init);
  }
  void open_file() {
    const auto share = as<fuse_entry_out>(ask(FUSE_LOOKUP, FUSE_ROOT_ID, "share", 6));
    node_ = as<fuse_entry_out>(ask(FUSE_LOOKUP, share.nodeid, "file", 5)).nodeid;
    const fuse_open_in wanted{O_RDWR, 0};
    handle_ = as<fuse_open_out>(ask(FUSE_OPEN, node_, &wanted, sizeof wanted)).fh;
  }

  // A chain at `first` of the descriptor table: the request, the pages, the answer.
  uint16_t lay_out(uint16_t first, uint64_t request, uint32_t request_size, uint32_t data,
                   bool reads, uint32_t answer_size) {
    std::vector<FakeBuffer> buffers = {{request, request_size, false}};
    if (reads) buffers.push_back({answer_, answer_size, true});
    for (uint32_t at = 0; at < data; at += kPage) buffers.push_back({data_ + at, kPage, reads});
    if (!reads) buffers.push_back({answer_, answer_size, true});
    for (size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      const auto at = static_cast<uint16_t>(first + i);
      driver_.set_descriptor(at,
                             {buffers[i].address, buffers[i].size,
                              static_cast<uint16_t>((last ? 0 : VRING_DESC_F_NEXT) |
                                                    (buffers[i].writable ? VRING_DESC_F_WRITE : 0)),
                              static_cast<uint16_t>(last ? 0 : at + 1)});
    }
    return first;
  }
  uint16_t lay_out_read(uint32_t size) {
    ReadRequest request{};
    request.header.len = sizeof request;
    request.header.opcode = FUSE_READ;
    request.header.nodeid = node_;
    request.body.fh = handle_;
    request.body.size = size;
    guest_.put(request_, request);
    return lay_out(0, request_, sizeof request, size, true, sizeof(fuse_out_header));
  }
  uint16_t lay_out_write(uint32_t size) {
    WriteRequest request{};
    request.header.len = static_cast<uint32_t>(sizeof request + size);
    request.header.opcode = FUSE_WRITE;
    request.header.nodeid = node_;
    request.body.fh = handle_;
    request.body.size = size;
    guest_.put(write_request_, request);
    return lay_out(512, write_request_, sizeof request, size, false,
                   sizeof(fuse_out_header) + sizeof(fuse_write_out));
  }
  void ask_read(uint16_t head, uint64_t offset) {
    guest_.put(request_ + offsetof(ReadRequest, body.offset), offset);
    driver_.publish(head);
    serve();
  }
  void ask_write(uint16_t head, uint64_t offset) {
    guest_.put(write_request_ + offsetof(WriteRequest, body.offset), offset);
    driver_.publish(head);
    serve();
  }
  void serve() {
    if (!device_.process_queue(1) || !driver_.next_used()) abort();
    if (guest_.get<fuse_out_header>(answer_).error != 0) abort();
  }

  FakeGuest guest_;
  FakeDriver driver_{guest_, 1024};
  std::unique_ptr<Queue> queue_ = driver_.queue();
  const uint64_t request_ = guest_.allocate(kPage);
  const uint64_t write_request_ = guest_.allocate(kPage);
  const uint64_t answer_ = guest_.allocate(kPage);
  const uint64_t data_ = guest_.allocate(kMaxTransfer);
  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  std::unique_ptr<FuseSession> session_ = std::move(*FuseSession::create({64, 64}));
  FsDevice device_{*loop_, *session_};
  UniqueFd file_;
  uint64_t node_ = 0;
  uint64_t handle_ = 0;
  uint64_t interrupts_ = 0;
  bench::PlainBuffer plain_{FakeGuest::kSize};
};

}  // namespace
}  // namespace kiln::vmm

// An argument: the directory for the file, instead of the one for temporary files.
int main(int argc, char** argv) {
  const std::filesystem::path place =
      argc > 1 ? std::filesystem::path(argv[1]) : std::filesystem::temp_directory_path();
  std::string directory = place / "kiln-bench-fs-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) {
    std::perror("make a directory");
    return 1;
  }
  {
    kiln::vmm::Bench bench(directory);
    for (const uint32_t size : {4U << 10, 128U << 10, 1U << 20}) bench.run(size);
  }
  std::filesystem::remove_all(directory);
  return 0;
}
