// SPDX-License-Identifier: Apache-2.0
#include "vmm/confine/syscall_tables.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <csignal>

#include "vmm/kvm/kvm_list.h"

namespace kiln::vmm {
namespace {

#define CALL(name) SYS_##name, #name

// ---- Every thread. Frequent ones stand first in their part: a filter is read from its top.

constexpr SyscallRule kEveryThread[] = {
    {CALL(futex), "locks and condition variables", {}},
    {CALL(read), "eventfds, timers", {}},
    {CALL(write), "eventfds, log lines", {}},
    {CALL(close), "what is no longer needed", {}},
    {CALL(rt_sigreturn), "the end of a signal handler", {}},
    {CALL(restart_syscall), "what a stop interrupted", {}},
    {CALL(clock_gettime), "where the vDSO cannot tell the time by itself", {}},
    {CALL(sched_yield), "spinning C++ primitives", {}},
    {CALL(exit), "a thread's end", {}},
    {CALL(exit_group), "the process's end", {}},
    // malloc(3); the stack of a thread that ends.
    {CALL(mmap), "memory, but no code", without_flags(2, PROT_EXEC)},
    {CALL(mprotect), "memory, but no code", without_flags(2, PROT_EXEC)},
    {CALL(munmap), "memory", {}},
    {CALL(mremap), "memory", {}},
    {CALL(brk), "memory", {}},
    {CALL(madvise), "memory given back", {}},
    {CALL(sched_getaffinity), "malloc's choice of an arena", {}},
    {CALL(getrandom), "malloc's tags, hash seeds, the entropy device", {}},
    // abort(3), so that a failed assertion is reported as what it is.
    {CALL(rt_sigprocmask), "signals around a thread's creation, exit and abort", {}},
    {CALL(getpid), "abort", {}},
    {CALL(gettid), "abort", {}},
    {CALL(rt_sigaction), "abort", one_of(0, {SIGABRT})},
    {CALL(tgkill), "a vCPU kicked out of the guest; abort", own_process(0)},
    {CALL(writev), "the C library's last words", {}},
    // malloc asks /proc how memory is overcommitted before it shrinks an arena; the C library's
    // last words may want a terminal. There is no file for either. (The fs server's own rule is
    // above.)
    {CALL(openat), "nothing: an empty root", {}, ENOENT},
};

// EventLoop.
constexpr SyscallRule kEventLoop[] = {
#ifdef SYS_epoll_wait
    {CALL(epoll_wait), "the loop", {}},
#endif
    {CALL(epoll_pwait), "the loop", {}},
    {CALL(epoll_ctl), "descriptors watched and no longer watched", {}},
};

// ---- kiln-vmm run

constexpr SyscallRule kVcpu[] = {
    {CALL(ioctl), "run the guest", one_of(1, {KVM_RUN})},
    {CALL(ioctl), "the I/O APIC, whose pins are routed by whoever programs them",
     one_of(1, {kKvmSetGsiRouting})},
};

constexpr SyscallRule kDevice[] = {
    // vsock, vhost-user front-ends
    {CALL(recvmsg), "bytes of a socket; a back end's answer", {}},
    {CALL(sendmsg), "bytes to a socket; a request with descriptors to a back end", {}},
    {CALL(recvfrom), "a client's CONNECT line", {}},
    {CALL(sendto), "kept bytes; the answer to CONNECT", {}},
    {CALL(accept4), "a client of the vsock's listener", {}},
    {CALL(socket), "a guest's connection to the host", one_of(0, {AF_UNIX})},
    {CALL(connect), "a guest's connection, to a socket in the kept directory", {}},
    {CALL(shutdown), "a half-close passed on", {}},
    // block
    {CALL(io_uring_enter), "requests", {}},
    {CALL(preadv2), "requests where there is no io_uring", {}},
    {CALL(pwritev2), "requests where there is no io_uring", {}},
    {CALL(getrusage), "whether reads find their pages cached", one_of(0, {RUSAGE_THREAD})},
    {CALL(fdatasync), "flush", {}},
    {CALL(fallocate), "discard, write zeroes; a balloon's file-backed memory", {}},
    {CALL(fsync), "flush", {}},
    {CALL(io_uring_setup), "a disk that is attached later", {}},
    {CALL(io_uring_register), "a disk that is attached later", {}},
    // net
    {CALL(readv), "frames from a tap", {}},
    // devices' settings
    {CALL(ioctl), "a tap's offloads, as its driver negotiates them; a tap attached later",
     one_of(1, {TUNSETOFFLOAD, TUNSETVNETHDRSZ, TUNGETIFF, TUNGETFEATURES})},
    {CALL(ioctl), "discard; a disk's geometry, for one attached later",
     one_of(1, {BLKDISCARD, BLKZEROOUT, BLKGETSIZE64, BLKSSZGET, BLKPBSZGET, BLKIOMIN, BLKIOOPT,
                BLKALIGNOFF})},
    {CALL(ioctl), "a queue's doorbell and interrupt; a level interrupt",
     one_of(1, {KVM_IOEVENTFD, KVM_IRQFD, KVM_IRQ_LINE, KVM_SIGNAL_MSI})},
    {CALL(fcntl), "modes of descriptors", one_of(1, {F_GETFL, F_SETFL, F_GETFD, F_SETFD})},
    {CALL(newfstatat), "a disk's size", {}},
    {CALL(fstat), "a disk's size", {}},
    {CALL(lseek), "a disk's size; holes", {}},
    {CALL(eventfd2), "a queue's doorbell and interrupt", {}},
    {CALL(timerfd_create), "a rate limiter's refill", {}},
    {CALL(timerfd_settime), "a rate limiter's refill", {}},
    {CALL(poll), "a back end's answer, with a time limit", {}},
};

constexpr SyscallRule kApi[] = {
    {CALL(recvmsg), "the owner's requests, with descriptors of what it attaches", {}},
    {CALL(sendmsg), "answers", {}},
    {CALL(recvfrom), "the owner's requests", {}},
    {CALL(sendto), "answers", {}},
    {CALL(poll), "a waiting peer", {}},
    {CALL(ioctl), "pause and resume; a slot attached later",
     one_of(1, {KVM_KVMCLOCK_CTRL, KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_IOEVENTFD, KVM_IRQFD})},
    {CALL(fcntl), "modes of descriptors", one_of(1, {F_GETFL, F_SETFL, F_GETFD, F_SETFD})},
    {CALL(eventfd2), "a message to another thread", {}},
    {CALL(newfstatat), "what an attached descriptor is", {}},
    {CALL(fstat), "what an attached descriptor is", {}},
    {CALL(clock_nanosleep), "a short wait for a thread", {}},
};

// ---- kiln-vmm fs

// What pthread_create(3) asks for; clone(2) for anything else is a new process.
constexpr unsigned long kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
                                       CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                                       CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;

constexpr SyscallRule kFs[] = {
    // requests, the frequent ones first
    {CALL(newfstatat), "attributes", {}},
    {CALL(fstat), "attributes", {}},
    {CALL(openat), "look up, open, create", {}},
    {CALL(preadv), "read", {}},
    {CALL(pwritev), "write", {}},
    {CALL(getdents64), "list", {}},
    {CALL(lseek), "list from a position; seek to data and holes", {}},
    {CALL(readlinkat), "symbolic links", {}},
    {CALL(capget), "set-uid bits are dropped with the content (WithoutFsetid)", {}},
    {CALL(capset), "set-uid bits are dropped with the content (WithoutFsetid)", {}},
    {CALL(setfsuid), "files belong to who makes them (CreateAs)", {}},
    {CALL(setfsgid), "files belong to who makes them (CreateAs)", {}},
    {CALL(geteuid), "back from CreateAs", {}},
    {CALL(getegid), "back from CreateAs", {}},
    {CALL(mkdirat), "make", {}},
    {CALL(mknodat), "make", {}},
    {CALL(symlinkat), "make", {}},
    {CALL(linkat), "make", {}},
    {CALL(unlinkat), "remove", {}},
    {CALL(renameat), "rename: what renameat2(3) calls without flags", {}},
    {CALL(renameat2), "rename", {}},
    {CALL(fchmodat), "change the mode", {}},
    {CALL(fchownat), "change the owner", {}},
    {CALL(utimensat), "change the times", {}},
    {CALL(ftruncate), "change the size", {}},
    {CALL(fallocate), "reserve and punch", {}},
    {CALL(copy_file_range), "copy", {}},
    {CALL(fsync), "sync", {}},
    {CALL(fdatasync), "sync", {}},
    {CALL(syncfs), "sync", {}},
    {CALL(fstatfs), "free space", {}},
    {CALL(getxattr), "extended attributes, through /proc/self/fd", {}},
    {CALL(setxattr), "extended attributes, through /proc/self/fd", {}},
    {CALL(listxattr), "extended attributes, through /proc/self/fd", {}},
    {CALL(removexattr), "extended attributes, through /proc/self/fd", {}},
    {CALL(flock), "locks", {}},
    {CALL(fcntl), "locks; modes of descriptors; the guest's memory, which is kept open",
     one_of(1, {F_OFD_SETLK, F_OFD_GETLK, F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_DUPFD_CLOEXEC})},
    // the vhost-user front-end and the owner
    {CALL(recvmsg), "requests", {}},
    {CALL(sendmsg), "answers", {}},
    {CALL(sendto), "answers", {}},
    // the thread that closes unlinked files
    {CALL(clone), "a thread", one_of(0, {kThreadFlags})},
    {CALL(clone3), "a thread: not like this, its flags cannot be seen; clone does", {}, ENOSYS},
    {CALL(rt_sigaction), "the first thread: the C library's own signal (SIGSETXID)",
     one_of(0, {__SIGRTMIN + 1})},
    {CALL(set_robust_list), "a thread's start", {}},
    {CALL(rseq), "a thread's start", {}},
};

#undef CALL

constexpr std::span<const SyscallRule> kVcpuTable[] = {kVcpu, kEveryThread};
constexpr std::span<const SyscallRule> kDeviceTable[] = {kEventLoop, kDevice, kEveryThread};
constexpr std::span<const SyscallRule> kApiTable[] = {kEventLoop, kApi, kEveryThread};
constexpr std::span<const SyscallRule> kFsTable[] = {kFs, kEventLoop, kEveryThread};

}  // namespace

SyscallTable syscall_table(ThreadKind kind) {
  switch (kind) {
    case ThreadKind::kVcpu:
      return kVcpuTable;
    case ThreadKind::kDevice:
      return kDeviceTable;
    case ThreadKind::kApi:
      return kApiTable;
    case ThreadKind::kFs:
      break;
  }
  return kFsTable;
}

}  // namespace kiln::vmm
