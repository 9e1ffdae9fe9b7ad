// SPDX-License-Identifier: Apache-2.0
#include "runtime/config/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <regex>

#include "base/file.h"
#include "runtime/config/quantity.h"
#include "runtime/config/settings.h"

namespace kiln::runtime {
namespace {

std::string message_of(const std::string& text) {
  const auto config = parse_config(text, "f");
  return config ? "no error" : config.error().message;
}

TEST(Config, EveryKeyIsRead) {
  const auto config = parse_config(
      "backend: qemu\nvmm: /a/vmm\n"
      "guest:\n  directory: /a/guest\n  kernel_args: loglevel=7\n  boot_timeout: 5\n"
      "machine:\n  vcpus: 3\n  memory: 1G\n  memory_overhead: 0\n  nested: true\n  spare_drives: "
      "8\n"
      "qemu:\n  binary: /a/qemu\n  accel: tcg\n"
      "box:\n  overlay_size: 64M\n"
      "annotations:\n  allow: [nested]\n",
      "f");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->backend, vmm::Backend::kQemu);
  EXPECT_EQ(config->vmm_binary, "/a/vmm");
  EXPECT_EQ(config->guest.directory, "/a/guest");
  EXPECT_EQ(config->guest.kernel_args, "loglevel=7");
  EXPECT_EQ(config->guest.boot_timeout_ms, 5000);
  EXPECT_EQ(config->machine.vcpus, 3U);
  EXPECT_EQ(config->machine.memory_mib, 1024U);
  EXPECT_EQ(config->machine.memory_overhead_mib, 0U);
  EXPECT_TRUE(config->machine.nested);
  EXPECT_EQ(config->machine.spare_drives, 8U);
  EXPECT_EQ(config->qemu.binary, "/a/qemu");
  EXPECT_EQ(config->qemu.accel, "tcg");
  EXPECT_EQ(config->box.overlay_size_mib, 64U);
  EXPECT_EQ(config->allowed_annotations, std::vector<std::string>{"nested"});
}

TEST(Config, WithoutContentIsTheDefault) {
  for (const char* text : {"", "# only words\n", "guest:\n", "machine:\n  vcpus:\n"}) {
    const auto config = parse_config(text, "f");
    ASSERT_TRUE(config) << text << ": " << config.error().message;
    EXPECT_EQ(config->machine.vcpus, 1U);
  }
}

struct BrokenFile {
  const char* text;
  const char* message;
};

class BrokenConfig : public testing::TestWithParam<BrokenFile> {};

TEST_P(BrokenConfig, NamesTheLineAndTheRule) {
  EXPECT_EQ(message_of(GetParam().text), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Files, BrokenConfig,
    testing::Values(
        BrokenFile{"backend: qemu\ncolour: red\n", "f:2: unknown key `colour`"},
        BrokenFile{"machine:\n\n  cores: 2\n", "f:3: unknown key `machine.cores`"},
        BrokenFile{"machine:\n  vcpus: 1\n  vcpus: 2\n", "f:3: key `machine.vcpus` is there twice"},
        BrokenFile{"machine:\n  vcpus: 0\n",
                   "f:2: `machine.vcpus` must be a number from 1 to 64, is `0`"},
        BrokenFile{"machine:\n  vcpus: -1\n",
                   "f:2: `machine.vcpus` must be a number from 1 to 64, is `-1`"},
        BrokenFile{"machine:\n  memory: 10M\n",
                   "f:2: `machine.memory` must be from 64M to 16T, is "
                   "`10M`"},
        BrokenFile{"machine:\n  memory: 1.5G\n",
                   "f:2: `machine.memory` must be a size such as 512M "
                   "or 2G, is `1.5G`"},
        BrokenFile{"machine:\n  nested: yes\n",
                   "f:2: `machine.nested` must be true or false, is "
                   "`yes`"},
        BrokenFile{"machine: 3\n", "f:1: `machine` must have keys below it"},
        BrokenFile{"backend: [qemu]\n", "f:1: `backend` must be a single value"},
        BrokenFile{"backend: xen\n", "f:1: `backend` must be auto, kvm or qemu, is `xen`"},
        BrokenFile{"vmm: bin/vmm\n", "f:1: `vmm` must be an absolute path, is `bin/vmm`"},
        BrokenFile{"guest:\n  boot_timeout: 0\n",
                   "f:2: `guest.boot_timeout` must be a number from 1 "
                   "to 3600, is `0`"},
        BrokenFile{"guest:\n  kernel_args: \"a\\nb\"\n",
                   "f:2: `guest.kernel_args` must be one line "
                   "without control characters"},
        BrokenFile{"qemu:\n  accel: hax\n", "f:2: `qemu.accel` must be auto, kvm or tcg, is `hax`"},
        BrokenFile{"annotations:\n  allow: vcpus\n",
                   "f:2: `annotations.allow` must be a list: [vcpus, memory]"},
        BrokenFile{"annotations:\n  allow: [vcpus, vmm]\n",
                   "f:2: `annotations.allow`: no annotation `io.kiln.vmm`"},
        BrokenFile{"annotations:\n  deny: [vcpus]\n", "f:2: unknown key `annotations.deny`"},
        BrokenFile{"- a\n", "f:1: must be made of `key: value`"},
        BrokenFile{"just words\n", "f:1: must be made of `key: value`"},
        BrokenFile{"[1]: x\n", "f:1: a key must be a plain word"},
        BrokenFile{"backend: qemu\n---\nbackend: kvm\n", "f: two documents"}));

TEST(Config, SyntaxErrorNamesTheLine) {
  EXPECT_TRUE(message_of("backend: qemu\nguest: [unclosed\n").starts_with("f:")) << message_of("[");
  EXPECT_TRUE(message_of("backend: 'x\n").starts_with("f:"));
  EXPECT_TRUE(message_of("a: *nowhere\n").starts_with("f:1:"));
}

TEST(Config, MissingFileIsTheDefaultUnlessItMustExist) {
  EXPECT_TRUE(load_config("/nonexistent/kiln.yaml", false));
  const auto config = load_config("/nonexistent/kiln.yaml", true);
  ASSERT_FALSE(config);
  EXPECT_NE(config.error().message.find("/nonexistent/kiln.yaml"), std::string::npos);
}

// With every example line made a real one, the shipped file says the defaults and has every key.
TEST(Config, ShippedFileDocumentsEveryKeyWithItsDefault) {
  const auto shipped = read_file(KILN_SOURCE_ROOT "/packaging/kiln.yaml");
  ASSERT_TRUE(shipped);
  ASSERT_TRUE(parse_config(*shipped, "kiln.yaml"));
  const std::string live =
      std::regex_replace("\n" + *shipped, std::regex("\n( *)#([a-z_]+:)"), "\n$1$2");
  const auto config = parse_config(live, "kiln.yaml");
  ASSERT_TRUE(config) << config.error().message;
  for (const Setting& setting : settings()) {
    if (setting.key.empty()) continue;
    const std::string key(setting.key.substr(setting.key.rfind('.') + 1));
    EXPECT_TRUE(std::regex_search(live, std::regex("\n *" + key + ":"))) << setting.key;
  }
  const Config defaults;
  EXPECT_EQ(config->backend, defaults.backend);
  EXPECT_EQ(config->guest.kernel_args, defaults.guest.kernel_args);
  EXPECT_EQ(config->guest.boot_timeout_ms, defaults.guest.boot_timeout_ms);
  EXPECT_EQ(config->machine.vcpus, defaults.machine.vcpus);
  EXPECT_EQ(config->machine.memory_mib, defaults.machine.memory_mib);
  EXPECT_EQ(config->machine.memory_overhead_mib, defaults.machine.memory_overhead_mib);
  EXPECT_EQ(config->machine.nested, defaults.machine.nested);
  EXPECT_EQ(config->network.passt, defaults.network.passt);
  EXPECT_EQ(config->network.pasta, defaults.network.pasta);
  EXPECT_EQ(config->qemu.accel, defaults.qemu.accel);
  EXPECT_EQ(config->box.overlay_size_mib, defaults.box.overlay_size_mib);
  EXPECT_EQ(config->allowed_annotations, defaults.allowed_annotations);
}

TEST(Config, MaximaAreForTheFileAlone) {
  const auto config = parse_config("machine:\n  max_vcpus: 4\n  max_memory: 2G\n", "f");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->machine.max_vcpus, 4U);
  EXPECT_EQ(config->machine.max_memory_mib, 2048U);
  EXPECT_FALSE(parse_config("machine:\n  max_vcpus: 0\n", "f"));
  EXPECT_FALSE(parse_config("annotations:\n  allow: [max_vcpus]\n", "f"));
  Config annotated;
  EXPECT_FALSE(apply_annotations(annotated, {{"io.kiln.max_memory", "2G"}}));
}

TEST(Annotations, AllowedOnesOverrideAndOthersAreNotOurs) {
  Config config;
  config.allowed_annotations = {"vcpus", "memory", "nested"};
  const auto applied = apply_annotations(config, {{"io.kiln.vcpus", "4"},
                                                  {"io.kiln.memory", "2G"},
                                                  {"io.kiln.nested", "true"},
                                                  {"org.example", "io.kiln.vcpus"}});
  ASSERT_TRUE(applied) << applied.error().message;
  EXPECT_EQ(config.machine.wanted_vcpus, 4U);
  EXPECT_EQ(config.machine.wanted_memory_mib, 2048U);
  EXPECT_TRUE(config.machine.nested);
  EXPECT_EQ(config.machine.vcpus, 1U);
}

TEST(Annotations, TheNetworkIsOneOfTwo) {
  Config config;
  EXPECT_EQ(apply_annotations(config, {{"io.kiln.network", "passt"}}).error().kind,
            ErrorKind::kPermissionDenied);
  config.allowed_annotations = {"network"};
  ASSERT_TRUE(apply_annotations(config, {{"io.kiln.network", "passt"}}));
  EXPECT_TRUE(config.network.passt);
  EXPECT_EQ(apply_annotations(config, {{"io.kiln.network", "host"}}).error().message,
            "annotation `io.kiln.network`: must be namespace or passt, is `host`");
}

TEST(Annotations, ForwardsAreForAnnotationsAloneAndHaveToBeAllowed) {
  Config config;
  EXPECT_EQ(apply_annotations(config, {{"io.kiln.vsock-forward", "/s"}}).error().kind,
            ErrorKind::kPermissionDenied);
  auto allowing = parse_config("annotations:\n  allow: [vsock-forward]\n", "f");
  ASSERT_TRUE(allowing) << allowing.error().message;
  ASSERT_TRUE(apply_annotations(*allowing, {{"io.kiln.vsock-forward", "/s"}}));
  EXPECT_EQ(allowing->vsock_forward, "/s");
  EXPECT_EQ(message_of("vsock-forward: /s\n"), "f:1: unknown key `vsock-forward`");
  EXPECT_EQ(message_of("\"\": x\n"), "f:1: unknown key ``");
}

TEST(Annotations, NotAllowedIsRefused) {
  Config config;
  const auto applied = apply_annotations(config, {{"io.kiln.nested", "true"}});
  ASSERT_FALSE(applied);
  EXPECT_EQ(applied.error().kind, ErrorKind::kPermissionDenied);
  EXPECT_NE(applied.error().message.find("`io.kiln.nested`"), std::string::npos);
  EXPECT_FALSE(config.machine.nested);
}

TEST(Annotations, UnknownIsRefused) {
  Config config;
  for (const char* name : {"io.kiln.colour", "io.kiln.", "io.kiln.guest.directory"})
    EXPECT_FALSE(apply_annotations(config, {{name, "x"}})) << name;
}

TEST(Annotations, BadValueNamesTheAnnotation) {
  Config config;
  const auto applied = apply_annotations(config, {{"io.kiln.vcpus", "many"}});
  ASSERT_FALSE(applied);
  EXPECT_EQ(applied.error().message,
            "annotation `io.kiln.vcpus`: must be a number from 1 to 64, is `many`");
}

// design.md: no annotation can name a path to a binary, even if the file wanted to allow it. Those
// of vsock-forward are the container's.
TEST(Annotations, NoneTakesAPathOfTheHost) {
  for (const Setting& setting : settings()) {
    if (setting.annotation.empty() || setting.annotation == "vsock-forward") continue;
    Config config;
    EXPECT_FALSE(setting.from_annotation(config, "/bin/sh")) << setting.annotation;
  }
}

TEST(Quantity, SizesArePowersOf1024) {
  EXPECT_EQ(*parse_mib("512"), 512U);
  EXPECT_EQ(*parse_mib("512M"), 512U);
  EXPECT_EQ(*parse_mib("2GiB"), 2048U);
  EXPECT_EQ(*parse_mib("1t"), 1048576U);
  for (const char* text : {"", "M", "-1M", "1K", "1 G", "18446744073709551615T", "1e3", "0x10"})
    EXPECT_FALSE(parse_mib(text)) << text;
}

}  // namespace
}  // namespace kiln::runtime
