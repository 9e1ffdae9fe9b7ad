// SPDX-License-Identifier: Apache-2.0
#include "runtime/network/localhost_taker.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "base/bpf_instruction.h"
#include "runtime/network/namespace.h"

namespace kiln::runtime {
namespace {

// Keys of the map.
constexpr uint32_t kIpv4 = 0;
constexpr uint32_t kIpv6 = 1;

// What the program keeps in registers, beside those that calls take and return.
constexpr uint8_t kContext = BPF_REG_6;
constexpr uint8_t kSocket = BPF_REG_7;
constexpr uint8_t kValue = BPF_REG_8;
constexpr int16_t kKeyOnStack = -4;

constexpr bpf_insn copy(uint8_t to, uint8_t from) {
  return bpf_instruction(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0);
}

constexpr bpf_insn set(uint8_t to, int32_t value) {
  return bpf_instruction(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value);
}

constexpr bpf_insn call(int32_t function) {
  return bpf_instruction(BPF_JMP | BPF_CALL, 0, 0, 0, function);
}

class Program {
 public:
  explicit Program(int map) : map_(map) {}

  std::vector<bpf_insn> assemble() {
    code_ = {copy(kContext, BPF_REG_1)};
    pass_unless(offsetof(bpf_sk_lookup, protocol), IPPROTO_TCP);
    code_.push_back(load(offsetof(bpf_sk_lookup, family)));
    const size_t to_ipv6 = code_.size();
    code_.push_back(bpf_instruction(BPF_JMP | BPF_JNE | BPF_K, kValue, 0, 0, AF_INET));
    pass_unless(offsetof(bpf_sk_lookup, local_ip4), static_cast<int32_t>(htonl(INADDR_LOOPBACK)));
    code_.push_back(store_key(kIpv4));
    const size_t to_lookup = code_.size();
    code_.push_back(bpf_instruction(BPF_JMP | BPF_JA, 0, 0, 0, 0));
    lead_here(to_ipv6);
    pass_unless(offsetof(bpf_sk_lookup, family), AF_INET6);
    for (size_t word = 0; word < 4; ++word)
      pass_unless(offsetof(bpf_sk_lookup, local_ip6) + word * sizeof(uint32_t),
                  word == 3 ? static_cast<int32_t>(htonl(1)) : 0);
    code_.push_back(store_key(kIpv6));
    lead_here(to_lookup);
    append_assignment();
    for (const size_t jump : to_pass_) lead_here(jump);
    code_.push_back(set(BPF_REG_0, SK_PASS));
    code_.push_back(bpf_instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
    return std::move(code_);
  }

 private:
  static bpf_insn load(size_t offset) {
    return bpf_instruction(BPF_LDX | BPF_MEM | BPF_W, kValue, kContext, static_cast<int>(offset),
                           0);
  }

  static bpf_insn store_key(uint32_t key) {
    return bpf_instruction(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, kKeyOnStack,
                           static_cast<int32_t>(key));
  }

  void lead_here(size_t jump) { code_[jump].off = static_cast<int16_t>(code_.size() - jump - 1); }

  // No constant here has its highest bit set, which a comparison would extend.
  void pass_unless(size_t offset, int32_t value) {
    code_.push_back(load(offset));
    to_pass_.push_back(code_.size());
    code_.push_back(bpf_instruction(BPF_JMP | BPF_JNE | BPF_K, kValue, 0, 0, value));
  }

  // An empty place in the map: somebody else's connection after all.
  void append_assignment() {
    code_.push_back(copy(BPF_REG_2, BPF_REG_10));
    code_.push_back(bpf_instruction(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, kKeyOnStack));
    // An immediate of 64 bits is two instructions.
    code_.push_back(
        bpf_instruction(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map_));
    code_.push_back(bpf_instruction(0, 0, 0, 0, 0));
    code_.push_back(call(BPF_FUNC_map_lookup_elem));
    to_pass_.push_back(code_.size());
    code_.push_back(bpf_instruction(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 0, 0));
    code_.push_back(copy(kSocket, BPF_REG_0));
    code_.push_back(copy(BPF_REG_1, kContext));
    code_.push_back(copy(BPF_REG_2, kSocket));
    code_.push_back(set(BPF_REG_3, 0));
    code_.push_back(call(BPF_FUNC_sk_assign));
    code_.push_back(copy(BPF_REG_1, kSocket));
    code_.push_back(call(BPF_FUNC_sk_release));
  }

  int map_;
  std::vector<bpf_insn> code_;
  std::vector<size_t> to_pass_;
};

uint64_t pointer(const void* to) { return reinterpret_cast<uint64_t>(to); }

// The kernel makes each of its descriptors close-on-exec.
Result<UniqueFd> bpf_fd(bpf_cmd command, bpf_attr& attributes, const char* what) {
  UniqueFd fd(static_cast<int>(syscall(SYS_bpf, command, &attributes, sizeof attributes)));
  if (!fd) return sys_error(what);
  return fd;
}

Result<UniqueFd> make_map() {
  bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_SOCKMAP;
  attributes.key_size = sizeof(uint32_t);
  attributes.value_size = sizeof(uint64_t);
  attributes.max_entries = 2;
  return bpf_fd(BPF_MAP_CREATE, attributes, "create a BPF map of sockets");
}

Result<void> put_into(int map, uint32_t key, int listener) {
  const auto value = static_cast<uint64_t>(listener);
  bpf_attr attributes{};
  attributes.map_fd = static_cast<uint32_t>(map);
  attributes.key = pointer(&key);
  attributes.value = pointer(&value);
  if (syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attributes, sizeof attributes) != 0)
    return sys_error("put a listener into a BPF map");
  return {};
}

Result<UniqueFd> load_program(int map) {
  const std::vector<bpf_insn> code = Program(map).assemble();
  bpf_attr attributes{};
  attributes.prog_type = BPF_PROG_TYPE_SK_LOOKUP;
  attributes.expected_attach_type = BPF_SK_LOOKUP;
  attributes.insns = pointer(code.data());
  attributes.insn_cnt = static_cast<uint32_t>(code.size());
  attributes.license = pointer("Apache-2.0");  // it calls nothing that is for GPL programs alone
  return bpf_fd(BPF_PROG_LOAD, attributes, "load a BPF program for socket lookups");
}

Result<UniqueFd> attach(int program) {
  const UniqueFd target = TRY(current_network_namespace());
  bpf_attr attributes{};
  attributes.link_create.prog_fd = static_cast<uint32_t>(program);
  attributes.link_create.target_fd = static_cast<uint32_t>(target.get());
  attributes.link_create.attach_type = BPF_SK_LOOKUP;
  return bpf_fd(BPF_LINK_CREATE, attributes, "attach a BPF program to a network namespace");
}

// The address need not be there yet: `lo` may be down, and IPv6 come later.
Result<UniqueFd> listen_at(const sockaddr* address, socklen_t size) {
  UniqueFd fd(socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sys_error("create a socket");
  const int on = 1;
  const bool ipv4 = address->sa_family == AF_INET;
  setsockopt(fd.get(), ipv4 ? IPPROTO_IP : IPPROTO_IPV6, ipv4 ? IP_FREEBIND : IPV6_FREEBIND, &on,
             sizeof on);
  // These two what it accepts inherits. The end of a connection must not be in the way of whoever
  // wants the port himself after us; and whoever writes has waited already, on the way here.
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (bind(fd.get(), address, size) != 0) return sys_error("bind a listener");
  if (listen(fd.get(), SOMAXCONN) != 0) return sys_error("listen");
  return fd;
}

Result<UniqueFd> listen_ipv4() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return wrap(listen_at(reinterpret_cast<const sockaddr*>(&address), sizeof address), "127.0.0.1");
}

Result<UniqueFd> listen_ipv6() {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  return wrap(listen_at(reinterpret_cast<const sockaddr*>(&address), sizeof address), "::1");
}

}  // namespace

Result<LocalhostTaker> LocalhostTaker::start() {
  std::vector<UniqueFd> listeners;
  listeners.push_back(TRY(listen_ipv4()));
  auto ipv6 = listen_ipv6();
  // A host without IPv6.
  if (!ipv6 && ipv6.error().sys_errno != EAFNOSUPPORT) return tl::unexpected(ipv6.error());
  if (ipv6) listeners.push_back(std::move(*ipv6));
  const UniqueFd map = TRY(make_map());
  TRY(put_into(map.get(), kIpv4, listeners.front().get()));
  if (ipv6) TRY(put_into(map.get(), kIpv6, listeners.back().get()));
  const UniqueFd program = TRY(load_program(map.get()));
  UniqueFd link = TRY(attach(program.get()));
  return LocalhostTaker(std::move(link), std::move(listeners));
}

}  // namespace kiln::runtime
