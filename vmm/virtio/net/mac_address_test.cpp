// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/net/mac_address.h"

#include <gtest/gtest.h>

namespace kiln::vmm {
namespace {

TEST(MacAddress, IsReadInEitherCase) {
  const auto mac = parse_mac("02:00:5e:AB:cd:Ff");
  ASSERT_TRUE(mac);
  EXPECT_EQ(*mac, (MacAddress{0x02, 0x00, 0x5e, 0xab, 0xcd, 0xff}));
}

TEST(MacAddress, OfAnotherShapeIsRefused) {
  for (const char* text :
       {"", "02:00:5e:ab:cd", "02:00:5e:ab:cd:ff:00", "02-00-5e-ab-cd-ff", "02:00:5e:ab:cd:fg",
        "02:00:5e:ab:cd:f ", "2:00:5e:ab:cd:ff00", "02:00:5e:ab:cd:-1", "02:00:5e:ab:+d:ff",
        "0x:00:5e:ab:cd:ff", "02:00:5e:ab:cd:ff "})
    EXPECT_FALSE(parse_mac(text)) << text;
}

TEST(MacAddress, OfAGroupIsRefused) {
  EXPECT_FALSE(parse_mac("ff:ff:ff:ff:ff:ff"));
  EXPECT_FALSE(parse_mac("01:00:5e:00:00:01"));
}

TEST(MacAddress, OfZerosIsRefused) { EXPECT_FALSE(parse_mac("00:00:00:00:00:00")); }

}  // namespace
}  // namespace kiln::vmm
