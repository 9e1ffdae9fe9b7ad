// SPDX-License-Identifier: Apache-2.0
// For tests: says what a guest's kernel would say to a FuseSession, over a temporary tree.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "vmm/virtio/fs/fuse_session.h"

namespace kiln::vmm {

class FuseClientTest : public ::testing::Test {
 protected:
  struct Answer {
    int error = 0;
    FuseReply::Kind kind = FuseReply::Kind::kAnswer;
    std::vector<std::byte> body;

    template <typename T>
    T as(size_t offset = 0) const {
      T value{};
      if (offset + sizeof value <= body.size())
        std::memcpy(&value, body.data() + offset, sizeof value);
      return value;
    }
    std::string text() const { return {reinterpret_cast<const char*>(body.data()), body.size()}; }
  };

  void SetUp() override {
    std::string name = std::filesystem::temp_directory_path() / "kiln-fs-test-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    std::filesystem::create_directory(root_ / "rw");
    std::filesystem::create_directory(root_ / "ro");
    start({});
  }
  void TearDown() override {
    session_.reset();
    std::filesystem::remove_all(root_);
  }

  // A session that shares rw and ro, greeted.
  void start(const FuseSession::Limits& limits) {
    session_ = std::move(*FuseSession::create(limits));
    share("rw", root_ / "rw", false);
    share("ro", root_ / "ro", true);
    const Answer answer = greet();
    ASSERT_EQ(answer.error, 0);
    rw_ = lookup(FUSE_ROOT_ID, "rw");
    ro_ = lookup(FUSE_ROOT_ID, "ro");
    ASSERT_NE(rw_, 0U);
    ASSERT_NE(ro_, 0U);
  }
  void share(const std::string& name, const std::filesystem::path& path, bool read_only) {
    FsEntryOptions options;
    options.read_only = read_only;
    ASSERT_TRUE(
        session_->add_entry(name, UniqueFd(::open(path.c_str(), O_PATH | O_CLOEXEC)), options));
  }
  Answer greet() {
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = FUSE_KERNEL_MINOR_VERSION;
    init.max_readahead = 1 << 17;
    init.flags = 0xffffffff;
    return ask(FUSE_INIT, 0, init);
  }

  // One request: a fixed part, then bytes.
  Answer ask_bytes(uint32_t opcode, uint64_t node, const void* fixed, size_t size,
                   const std::string& rest = {}, uint32_t room = 65536) {
    std::vector<std::byte> arguments(size + rest.size());
    if (size != 0) std::memcpy(arguments.data(), fixed, size);
    if (!rest.empty()) std::memcpy(arguments.data() + size, rest.data(), rest.size());
    FuseRequest request;
    request.header.opcode = opcode;
    request.header.nodeid = node;
    request.header.uid = caller_uid_;
    request.header.gid = caller_gid_;
    request.arguments = arguments;
    request.space_size = room;
    FuseReply reply;
    session_->handle(request, reply);
    return {reply.error, reply.kind, std::move(reply.body)};
  }
  template <typename T>
  Answer ask(uint32_t opcode, uint64_t node, const T& fixed, const std::string& rest = {},
             uint32_t room = 65536) {
    return ask_bytes(opcode, node, &fixed, sizeof fixed, rest, room);
  }
  Answer ask_name(uint32_t opcode, uint64_t node, const std::string& name) {
    return ask_bytes(opcode, node, nullptr, 0, z(name));
  }
  // With its NUL, as the protocol has names.
  static std::string z(const std::string& name) { return name + '\0'; }

  // The node; 0 where there is none.
  uint64_t lookup(uint64_t parent, const std::string& name) {
    return ask_name(FUSE_LOOKUP, parent, name).as<fuse_entry_out>().nodeid;
  }
  void forget(uint64_t node, uint64_t count) {
    const Answer answer = ask(FUSE_FORGET, node, fuse_forget_in{count});
    EXPECT_EQ(answer.kind, FuseReply::Kind::kNone);
  }
  Answer open(uint64_t node, int flags) {
    return ask(FUSE_OPEN, node, fuse_open_in{static_cast<uint32_t>(flags), 0});
  }
  uint64_t open_ok(uint64_t node, int flags) {
    const Answer answer = open(node, flags);
    EXPECT_EQ(answer.error, 0);
    return answer.as<fuse_open_out>().fh;
  }
  Answer create(uint64_t parent, const std::string& name, int flags = O_RDWR,
                uint32_t mode = 0644) {
    fuse_create_in wanted{};
    wanted.flags = static_cast<uint32_t>(flags);
    wanted.mode = S_IFREG | mode;
    return ask(FUSE_CREATE, parent, wanted, z(name));
  }
  int release(uint64_t node, uint64_t handle) {
    fuse_release_in wanted{};
    wanted.fh = handle;
    return ask(FUSE_RELEASE, node, wanted).error;
  }
  // Bytes written, or -errno.
  int write(uint64_t node, uint64_t handle, uint64_t offset, std::string data, uint32_t flags = 0) {
    fuse_write_in wanted{};
    wanted.fh = handle;
    wanted.offset = offset;
    wanted.size = static_cast<uint32_t>(data.size());
    wanted.write_flags = flags;
    const iovec part{data.data(), data.size()};
    FuseRequest request;
    request.header.opcode = FUSE_WRITE;
    request.header.nodeid = node;
    request.arguments = std::as_bytes(std::span(&wanted, 1));
    request.payload = std::span(&part, 1);
    request.payload_size = wanted.size;
    FuseReply reply;
    session_->handle(request, reply);
    if (reply.error != 0) return reply.error;
    return static_cast<int>(Answer{0, reply.kind, std::move(reply.body)}.as<fuse_write_out>().size);
  }
  std::string read(uint64_t node, uint64_t handle, uint64_t offset, uint32_t size) {
    std::string buffer(size, '\0');
    const iovec part{buffer.data(), buffer.size()};
    fuse_read_in wanted{};
    wanted.fh = handle;
    wanted.offset = offset;
    wanted.size = size;
    FuseRequest request;
    request.header.opcode = FUSE_READ;
    request.header.nodeid = node;
    request.arguments = std::as_bytes(std::span(&wanted, 1));
    request.space = std::span(&part, 1);
    request.space_size = size;
    FuseReply reply;
    session_->handle(request, reply);
    last_error_ = reply.error;
    buffer.resize(reply.in_place);
    return buffer;
  }
  fuse_attr attributes(uint64_t node) {
    return ask(FUSE_GETATTR, node, fuse_getattr_in{}).as<fuse_attr_out>().attr;
  }
  Answer set(uint64_t node, const fuse_setattr_in& wanted) {
    return ask(FUSE_SETATTR, node, wanted);
  }

  // On the host's side.
  void put_file(const std::string& path, const std::string& content) {
    const UniqueFd fd(::open((root_ / path).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644));
    ASSERT_TRUE(fd.valid());
    ASSERT_EQ(::write(fd.get(), content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
  }
  std::string content(const std::string& path) {
    std::string text(1 << 16, '\0');
    const UniqueFd fd(::open((root_ / path).c_str(), O_RDONLY));
    const ssize_t size = ::read(fd.get(), text.data(), text.size());
    text.resize(size > 0 ? static_cast<size_t>(size) : 0);
    return text;
  }
  struct stat host_stat(const std::string& path) {
    struct stat info {};
    lstat((root_ / path).c_str(), &info);
    return info;
  }

  std::filesystem::path root_;
  std::unique_ptr<FuseSession> session_;
  uint64_t rw_ = 0;
  uint64_t ro_ = 0;
  uint32_t caller_uid_ = getuid();
  uint32_t caller_gid_ = getgid();
  int last_error_ = 0;
};

}  // namespace kiln::vmm
