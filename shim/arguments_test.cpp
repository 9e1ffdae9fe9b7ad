// SPDX-License-Identifier: Apache-2.0
#include "shim/arguments.h"

#include <gtest/gtest.h>

#include <vector>

namespace kiln::shim {
namespace {

Result<Arguments> parse(std::vector<std::string> words) {
  words.insert(words.begin(), "containerd-shim-kiln-v2");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  return parse_arguments(static_cast<int>(words.size()), argv.data());
}

TEST(Arguments, AreWhatContainerdPasses) {
  const auto got =
      parse({"-namespace", "k8s.io", "-address", "/run/c.sock", "-publish-binary",
             "/bin/containerd", "-id", "c1", "-debug", "-bundle", "/b", "-socket", "/s", "delete"});
  ASSERT_TRUE(got);
  EXPECT_EQ(got->namespace_name, "k8s.io");
  EXPECT_EQ(got->address, "/run/c.sock");
  EXPECT_EQ(got->publish_binary, "/bin/containerd");
  EXPECT_EQ(got->id, "c1");
  EXPECT_EQ(got->bundle, "/b");
  EXPECT_EQ(got->socket, "/s");
  EXPECT_TRUE(got->debug);
  EXPECT_EQ(got->action, "delete");
}

TEST(Arguments, ValuesMayFollowAnEqualsSign) {
  const auto got = parse({"--id=a=b", "-namespace=", "-v", "start"});
  ASSERT_TRUE(got);
  EXPECT_EQ(got->id, "a=b");
  EXPECT_EQ(got->namespace_name, "");
  EXPECT_TRUE(got->version);
}

TEST(Arguments, AValueMayLookLikeAFlag) {
  const auto got = parse({"-id", "-debug", "start"});
  ASSERT_TRUE(got);
  EXPECT_EQ(got->id, "-debug");
  EXPECT_FALSE(got->debug);
}

TEST(Arguments, FlagsEndAtTheFirstOtherWord) {
  EXPECT_EQ(parse({"start", "-nonsense"})->action, "start");
  EXPECT_EQ(parse({"-debug", "--", "-id"})->action, "-id");
  EXPECT_EQ(parse({"-", "x"})->action, "-");
  EXPECT_EQ(parse({"-info"})->action, "");
  EXPECT_EQ(parse({})->action, "");
}

TEST(Arguments, TruthsAreGos) {
  for (const char* word : {"1", "t", "T", "true", "TRUE", "True"})
    EXPECT_TRUE(parse({std::string("-debug=") + word})->debug) << word;
  for (const char* word : {"0", "f", "F", "false", "FALSE", "False"})
    EXPECT_FALSE(parse({std::string("-debug=") + word})->debug) << word;
  EXPECT_EQ(parse({"-debug=yes"}).error().message, "invalid boolean value \"yes\" for -debug");
  EXPECT_EQ(parse({"-debug", "false"})->action, "false");
}

TEST(Arguments, WhatIsNotAFlagIsAnError) {
  EXPECT_EQ(parse({"-nonsense", "start"}).error().message,
            "flag provided but not defined: -nonsense");
  EXPECT_EQ(parse({"-id"}).error().message, "flag needs an argument: -id");
  EXPECT_FALSE(parse({"---id", "c1"}));
  EXPECT_FALSE(parse({"-=x"}));
}

}  // namespace
}  // namespace kiln::shim
