// SPDX-License-Identifier: Apache-2.0
// Proves that /dev/kvm runs guest code: sums 1…100 in real mode, gets the result by port I/O, and
// sees the guest halt.
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kCodeAddress = 0x1000, kMemoryBytes = 0x2000, kPort = 0x10 };

static const uint8_t kCode[] = {
    0x31, 0xc0,      // xor ax, ax
    0xb9, 100,   0,  // mov cx, 100
    0x01, 0xc8,      // add ax, cx
    0xe2, 0xfc,      // loop -4
    0xe7, kPort,     // out kPort, ax
    0xf4,            // hlt
};

static int check(const char* step, int result) {
  if (result >= 0) return result;
  perror(step);
  exit(1);
}

static void set_registers(int vcpu) {
  struct kvm_sregs sregs;
  check("KVM_GET_SREGS", ioctl(vcpu, KVM_GET_SREGS, &sregs));
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  check("KVM_SET_SREGS", ioctl(vcpu, KVM_SET_SREGS, &sregs));
  struct kvm_regs regs;
  memset(&regs, 0, sizeof regs);
  regs.rip = kCodeAddress;
  regs.rflags = 2;  // the bit that is always set: AMD64 manual 2, 3.1.6
  check("KVM_SET_REGS", ioctl(vcpu, KVM_SET_REGS, &regs));
}

int main(void) {
  const int kvm = check("open /dev/kvm", open("/dev/kvm", O_RDWR | O_CLOEXEC));
  const int vm = check("KVM_CREATE_VM", ioctl(kvm, KVM_CREATE_VM, 0));
  uint8_t* memory =
      mmap(NULL, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) check("mmap", -1);
  memcpy(memory + kCodeAddress, kCode, sizeof kCode);
  struct kvm_userspace_memory_region region = {.memory_size = kMemoryBytes,
                                               .userspace_addr = (uintptr_t)memory};
  check("KVM_SET_USER_MEMORY_REGION", ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
  const int vcpu = check("KVM_CREATE_VCPU", ioctl(vm, KVM_CREATE_VCPU, 0));
  const int run_bytes = check("KVM_GET_VCPU_MMAP_SIZE", ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
  struct kvm_run* run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  if (run == MAP_FAILED) check("mmap kvm_run", -1);
  set_registers(vcpu);

  for (int sum = -1;;) {
    check("KVM_RUN", ioctl(vcpu, KVM_RUN, 0));
    if (run->exit_reason == KVM_EXIT_IO && run->io.port == kPort && run->io.size == 2) {
      sum = *(uint16_t*)((uint8_t*)run + run->io.data_offset);
    } else if (run->exit_reason == KVM_EXIT_HLT) {
      printf("sum %d\n", sum);
      return sum == 5050 ? 0 : 1;
    } else {
      fprintf(stderr, "unexpected exit %u\n", run->exit_reason);
      return 1;
    }
  }
}
