// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/bpf.h>

#include <cstdint>

namespace kiln {

// For BPF programs that are assembled by hand. `code`: BPF_ALU | BPF_K | … of <linux/bpf.h>.
constexpr bpf_insn bpf_instruction(int code, uint8_t to, uint8_t from, int offset, int32_t value) {
  return {.code = static_cast<uint8_t>(code),
          .dst_reg = to,
          .src_reg = from,
          .off = static_cast<int16_t>(offset),
          .imm = value};
}

}  // namespace kiln
