// SPDX-License-Identifier: Apache-2.0
// FUSE requests, one after the other, against a small tree that is made anew for every input. Each
// request is an opcode, a node, a handle and arguments; small numbers stand for nodes and handles
// that exist, so that most requests reach a file.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/bytes.h"
#include "vmm/virtio/fs/fuse_session.h"

namespace {

using kiln::ByteReader;
using kiln::UniqueFd;
using kiln::vmm::FsEntryOptions;
using kiln::vmm::FuseReply;
using kiln::vmm::FuseRequest;
using kiln::vmm::FuseSession;

constexpr int kMaxRequests = 64;
constexpr rlim_t kMaxFileBytes = 1 << 20;

// The directory that everything happens in; removed at exit.
const std::filesystem::path& workplace() {
  static const std::filesystem::path path = [] {
    // A request that would fill the disk fails instead of killing us.
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{kMaxFileBytes, kMaxFileBytes};
    setrlimit(RLIMIT_FSIZE, &limit);
    std::string name = std::filesystem::temp_directory_path() / "kiln-fuzz-fuse-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) abort();
    static std::filesystem::path made = name;
    atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(made, ignored);
    });
    return made;
  }();
  return path;
}

void make_tree(const std::filesystem::path& root) {
  std::error_code ignored;
  std::filesystem::remove_all(root, ignored);
  std::filesystem::create_directories(root / "rw/dir/below");
  std::filesystem::create_directories(root / "ro/dir");
  for (const char* name : {"rw/file", "rw/dir/other", "ro/file"}) {
    const UniqueFd fd(open((root / name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (write(fd.get(), "content", 7) != 7) abort();
  }
  static_cast<void>(symlink("/etc/passwd", (root / "rw/link").c_str()));
  static_cast<void>(mkfifo((root / "rw/pipe").c_str(), 0644));
}

// What the fuzzer chooses; the rest of a request is built around it.
struct Chosen {
  uint8_t opcode;
  uint8_t node;
  uint8_t size;
  uint8_t room;
};

void greet(FuseSession& session) {
  fuse_init_in init{};
  init.major = FUSE_KERNEL_VERSION;
  init.minor = FUSE_KERNEL_MINOR_VERSION;
  init.flags = 0xffffffff;
  FuseRequest request;
  request.header.opcode = FUSE_INIT;
  request.arguments = std::as_bytes(std::span(&init, 1));
  FuseReply reply;
  session.handle(request, reply);
}

void lookup(FuseSession& session, uint64_t parent, const std::string& name) {
  const std::string text = name + '\0';
  FuseRequest request;
  request.header.opcode = FUSE_LOOKUP;
  request.header.nodeid = parent;
  request.arguments = std::as_bytes(std::span(text.data(), text.size()));
  FuseReply reply;
  session.handle(request, reply);
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer names it
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::filesystem::path& root = workplace();
  make_tree(root);
  auto session = FuseSession::create({8, 8});
  if (!session) abort();
  for (const char* name : {"rw", "ro"}) {
    FsEntryOptions options;
    options.read_only = name[1] == 'o';
    UniqueFd fd(open((root / name).c_str(), O_PATH | O_CLOEXEC));
    if (!(*session)->add_entry(name, std::move(fd), options)) abort();
  }
  ByteReader input(std::as_bytes(std::span(data, size)));
  greet(**session);
  // Nodes 2, 3, 4, 5: rw, ro, rw/file, rw/dir.
  for (const char* name : {"rw", "ro"}) lookup(**session, FUSE_ROOT_ID, name);
  lookup(**session, 2, "file");
  lookup(**session, 2, "dir");
  std::array<std::byte, 4096> guest{};
  for (int i = 0; i < kMaxRequests; ++i) {
    const auto chosen = input.read<Chosen>();
    if (!chosen) break;
    const auto arguments = input.read_bytes(std::min<size_t>(chosen->size, input.rest().size()));
    FuseRequest request;
    request.header.opcode = chosen->opcode;
    request.header.nodeid = chosen->node;
    request.arguments = *arguments;
    const iovec part{guest.data(), chosen->room * size_t{16}};
    request.space = std::span(&part, 1);
    request.space_size = static_cast<uint32_t>(part.iov_len);
    request.payload = std::span(&part, 1);
    request.payload_size = static_cast<uint32_t>(part.iov_len);
    FuseReply reply;
    (*session)->handle(request, reply);
    // Whatever was asked, the answer fits what the guest gave, and an error has no body.
    if (reply.error > 0 || reply.in_place > part.iov_len) abort();
    if (reply.error != 0 && !reply.body.empty()) abort();
  }
  // A read-only share is what it was.
  struct stat info {};
  if (stat((root / "ro/file").c_str(), &info) != 0 || info.st_size != 7) abort();
  return 0;
}
