// SPDX-License-Identifier: Apache-2.0
#include "runtime/forward_list.h"

#include <gtest/gtest.h>

#include "base/format.h"

namespace kiln::runtime {
namespace {

TEST(ForwardList, HasBothKindsWithBlanksAroundThem) {
  const auto forwards = parse_forwards(" /run/docker.sock ,serve:/tmp/app.sock=/share/app.sock\t");
  ASSERT_TRUE(forwards) << forwards.error().message;
  ASSERT_EQ(forwards->size(), 2U);
  EXPECT_EQ(forwards->at(0).path, "/run/docker.sock");
  EXPECT_EQ(forwards->at(0).shared, "");
  EXPECT_EQ(forwards->at(1).path, "/tmp/app.sock");
  EXPECT_EQ(forwards->at(1).shared, "/share/app.sock");
  EXPECT_EQ(text_of(forwards->at(1)), "serve:/tmp/app.sock=/share/app.sock");
}

TEST(ForwardList, HasAtMostSixteenEntries) {
  std::string value = "/0";
  for (int i = 1; i < 16; ++i) value += fmt::format(",/{}", i);
  EXPECT_TRUE(parse_forwards(value));
  EXPECT_EQ(parse_forwards(value + ",/16").error().message, "has more than 16 entries");
}

TEST(ForwardList, TakesADotInANameAndNoLongerPathThanTheKernel) {
  EXPECT_TRUE(parse_forwards("/run/.s/..x"));
  EXPECT_TRUE(parse_forwards("/" + std::string(4094, 'x')));
  EXPECT_FALSE(parse_forwards("/" + std::string(4095, 'x')));
}

struct Broken {
  const char* value;
  const char* message;
};

class BrokenForwards : public testing::TestWithParam<Broken> {};

TEST_P(BrokenForwards, NamesTheEntryAndTheRule) {
  const auto forwards = parse_forwards(GetParam().value);
  ASSERT_FALSE(forwards);
  EXPECT_EQ(forwards.error().message, GetParam().message);
  EXPECT_EQ(forwards.error().kind, ErrorKind::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(
    Values, BrokenForwards,
    testing::Values(
        Broken{"", "has an entry that is empty"}, Broken{"/a,", "has an entry that is empty"},
        Broken{"/a, ,/b", "has an entry that is empty"},
        Broken{"run/x", "`run/x`: must be PATH or serve:PATH=SHARED, with absolute paths"},
        Broken{"host:/x", "`host:/x`: must be PATH or serve:PATH=SHARED, with absolute paths"},
        Broken{"/a/../b",
               "`/a/../b`: `/a/../b` must be an absolute path without `.`, `..` and empty names"},
        Broken{"/", "`/`: `/` must be an absolute path without `.`, `..` and empty names"},
        Broken{"/a/", "`/a/`: `/a/` must be an absolute path without `.`, `..` and empty names"},
        Broken{"/a//b",
               "`/a//b`: `/a//b` must be an absolute path without `.`, `..` and empty names"},
        Broken{"/a\nb", "`/a\nb`: a path must not have control characters"},
        Broken{"serve:/a", "`serve:/a`: must have one `=`, as in serve:PATH=SHARED"},
        Broken{"serve:/a=/b=/c", "`serve:/a=/b=/c`: must have one `=`, as in serve:PATH=SHARED"},
        Broken{"serve:a=/b",
               "`serve:a=/b`: `a` must be an absolute path without `.`, `..` and empty names"},
        Broken{"serve:/a=",
               "`serve:/a=`: `` must be an absolute path without `.`, `..` and empty "
               "names"},
        Broken{"/a,/a", "`/a`: `/a` is there twice"},
        Broken{"serve:/a=/a", "`serve:/a=/a`: `/a` is there twice"},
        Broken{"/s/x,serve:/a=/s/x", "`serve:/a=/s/x`: `/s/x` is there twice"}));

}  // namespace
}  // namespace kiln::runtime
