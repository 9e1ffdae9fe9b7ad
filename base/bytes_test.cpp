// SPDX-License-Identifier: Apache-2.0
#include "base/bytes.h"

#include <gtest/gtest.h>

namespace kiln {
namespace {

TEST(ByteReader, ReadPastTheEndConsumesNothing) {
  ByteReader reader(as_bytes("abc"));
  EXPECT_FALSE(reader.read<uint32_t>());
  EXPECT_EQ(reader.read<uint16_t>(), 0x6261);
  EXPECT_EQ(reader.rest().size(), 1U);
}

TEST(ByteReader, CStringWithoutNulIsRefused) {
  ByteReader reader(as_bytes(std::string_view("ab\0cd", 5)));
  EXPECT_EQ(reader.read_c_string(), "ab");
  EXPECT_FALSE(reader.read_c_string());
  EXPECT_EQ(reader.rest().size(), 2U);
}

TEST(ByteReader, CStringOfNothingIsRefused) { EXPECT_FALSE(ByteReader({}).read_c_string()); }

}  // namespace
}  // namespace kiln
