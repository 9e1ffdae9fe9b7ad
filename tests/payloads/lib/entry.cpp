// SPDX-License-Identifier: Apache-2.0
// Where a payload starts: the PVH note and its entry in 32-bit protected mode (Xen's
// docs/misc/pvh.pandoc: paging off, flat segments, EBX = hvm_start_info), the way to long mode, the
// start of further processors in real mode, and the interrupt stubs. Addresses are below 2 GiB, so
// that 32-bit relocations reach them. Page tables are constants: every instruction costs here.

asm(R"(
  .section .note.pvh, "a", @note
  .balign 4
  .long 4, 8, 18          # sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .quad pvh_entry

  .data
  .balign 4096
page_map:                 # one entry for the first 512 GiB
  .quad page_directories + 0x3
  .fill 511, 8, 0
page_directories:         # four entries for the first 4 GiB
  .quad page_directory + 0x3, page_directory + 0x1003
  .quad page_directory + 0x2003, page_directory + 0x3003
  .fill 508, 8, 0
page_directory:           # 2 MiB pages: present, writable, large
  .set frame, 0
  .rept 2048
  .quad frame + 0x83
  .set frame, frame + 0x200000
  .endr

  .balign 8
gdt:
  .quad 0
  .quad 0x00cf9b000000ffff  # 0x08: 32-bit code
  .quad 0x00cf93000000ffff  # 0x10: data
  .quad 0x00af9b000000ffff  # 0x18: 64-bit code
gdt_pointer:
  .word 31
  .quad gdt
  .balign 8
  .globl start_info
start_info:
  .quad 0
  .globl processors_started
processors_started:
  .long 1

  .bss
  .balign 16
  .skip 16384
stack_top:
  .skip 4096 * 8            # of the further processors
processor_stacks_end:

  .text
  .code32
  .globl pvh_entry
pvh_entry:
  cli
  cld
  movl %ebx, start_info
  movl $stack_top, %esp
  movl $payload_start, %edi
  xorl %esi, %esi
enter_long_mode:            # EDI: what to call with ESI as its argument
  lgdtl gdt_pointer
  movl %cr4, %eax
  orl $0x20, %eax           # PAE
  movl %eax, %cr4
  movl $page_map, %eax
  movl %eax, %cr3
  movl $0xc0000080, %ecx    # IA32_EFER
  rdmsr
  orl $0x100, %eax          # LME
  wrmsr
  movl %cr0, %eax
  orl $0x80000000, %eax     # PG
  movl %eax, %cr0
  ljmp $0x18, $in_long_mode
  .code64
in_long_mode:
  movl $0x10, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  movl %edi, %eax
  movl %esi, %edi
  call *%rax
1:
  cli
  hlt
  jmp 1b

  # Copied to a page below 1 MiB, where a processor starts in real mode with CS = that page.
  .code16
  .globl real_mode_start, real_mode_end
real_mode_start:
  cli
  cld
  lgdtl %cs:(real_mode_gdt - real_mode_start)
  movl %cr0, %eax
  orl $1, %eax              # PE
  movl %eax, %cr0
  ljmpl $0x08, $in_protected_mode
real_mode_gdt:
  .word 31
  .long gdt
real_mode_end:
  .code32
in_protected_mode:
  movl $0x10, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  movl $1, %esi
  lock xaddl %esi, processors_started
  movl %esi, %eax
  shll $12, %eax
  leal stack_top(%eax), %esp
  movl $processor_start, %edi
  jmp enter_long_mode

  # One stub of 16 bytes a vector. Where the processor pushes no error code, a stub does.
  .code64
  .balign 16
  .globl interrupt_stubs
interrupt_stubs:
  .set vector, 0
  .rept 80
  .balign 16
  .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
  pushq $0
  .endif
  pushq $vector
  jmp interrupt_entry
  .set vector, vector + 1
  .endr
interrupt_entry:
  pushq %rax
  pushq %rcx
  pushq %rdx
  pushq %rsi
  pushq %rdi
  pushq %r8
  pushq %r9
  pushq %r10
  pushq %r11
  leaq 72(%rsp), %rdi
  call handle_interrupt
  popq %r11
  popq %r10
  popq %r9
  popq %r8
  popq %rdi
  popq %rsi
  popq %rdx
  popq %rcx
  popq %rax
  addq $16, %rsp
  iretq

  .section .note.GNU-stack, "", @progbits
)");
