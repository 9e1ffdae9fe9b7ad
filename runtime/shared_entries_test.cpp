// SPDX-License-Identifier: Apache-2.0
#include "runtime/shared_entries.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/file.h"

namespace kiln::runtime {
namespace {

Share share_of(const std::string& entry, const std::string& source) {
  Share share;
  share.entry = entry;
  share.source = source;
  share.fd = std::move(*open_file(source, O_PATH));
  share.same_for_all = true;
  return share;
}

TEST(SharedEntries, OneSourceIsOneEntryUntilItsLastUserLeaves) {
  SharedEntries entries;
  EXPECT_EQ(*entries.join(share_of("a", "/tmp")), std::nullopt);
  ASSERT_TRUE(entries.add(share_of("a", "/tmp")));
  EXPECT_EQ(*entries.join(share_of("b", "/tmp")), "a");
  EXPECT_FALSE(entries.leave("a"));
  EXPECT_EQ(*entries.join(share_of("c", "/tmp")), "a");
  EXPECT_FALSE(entries.leave("a"));
  EXPECT_TRUE(entries.leave("a"));
  EXPECT_EQ(*entries.join(share_of("d", "/tmp")), std::nullopt);
}

TEST(SharedEntries, WhatDiffersStaysApart) {
  SharedEntries entries;
  ASSERT_TRUE(entries.add(share_of("a", "/tmp")));
  Share read_only = share_of("b", "/tmp");
  read_only.read_only = true;
  EXPECT_EQ(*entries.join(read_only), std::nullopt);
  Share elsewhere = share_of("c", "/");
  EXPECT_EQ(*entries.join(elsewhere), std::nullopt);
  elsewhere.source = "/tmp";  // now another file is there
  EXPECT_EQ(*entries.join(elsewhere), std::nullopt);
  Share alone = share_of("d", "/tmp");
  alone.same_for_all = false;
  EXPECT_EQ(*entries.join(alone), std::nullopt);
}

TEST(SharedEntries, AnEntryOfItsOwnGoesWithItsOnlyUser) {
  SharedEntries entries;
  Share alone = share_of("a", "/tmp");
  alone.same_for_all = false;
  ASSERT_TRUE(entries.add(alone));
  EXPECT_EQ(*entries.join(share_of("b", "/tmp")), std::nullopt);
  EXPECT_TRUE(entries.leave("a"));
}

}  // namespace
}  // namespace kiln::runtime
