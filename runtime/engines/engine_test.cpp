// SPDX-License-Identifier: Apache-2.0
#include "runtime/engines/engine.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/temporary_directory.h"

namespace kiln::runtime {
namespace {

constexpr char kOurs[] = R"({"runtimes": {"kiln": {"path": "/usr/bin/kiln"}}})";

class EngineTest : public testing::Test {
 protected:
  EngineTarget target(const std::string& engine) const {
    EngineTarget out;
    out.engine = engine;
    out.prefix = root_.path();
    out.program = "/usr/bin/kiln";
    out.templates = {KILN_SOURCE_ROOT "/packaging/engines"};
    return out;
  }
  std::string path(const std::string& name) const { return root_.path() + name; }
  void put(const std::string& name, const std::string& text) const {
    ASSERT_TRUE(make_directories(path(name.substr(0, name.rfind('/'))), 0755));
    ASSERT_TRUE(write_file_atomic(path(name), text, 0640));
  }
  std::string get(const std::string& name) const {
    return read_file(path(name)).value_or("nothing");
  }
  bool apply(Result<EngineFile> file) const {
    return file.and_then([&](const EngineFile& one) { return carry_out(one, root_.path()); })
        .has_value();
  }
  bool install(const std::string& engine) const { return apply(plan_install(target(engine))); }
  bool uninstall(const std::string& engine) const { return apply(plan_uninstall(target(engine))); }

  TemporaryDirectory root_ = *TemporaryDirectory::create(testing::TempDir(), "engines-");
};

TEST_F(EngineTest, InstallsTwiceAndLeavesNothingAfterUninstallingTwice) {
  const std::pair<const char*, const char*> engines[] = {
      {"podman", "/etc/containers/containers.conf.d/kiln.conf"},
      {"docker", "/etc/docker/daemon.json"},
      {"containerd", "/etc/containerd/conf.d/kiln.toml"},
      {"crio", "/etc/crio/crio.conf.d/50-kiln.conf"}};
  ASSERT_TRUE(make_directories(path("/etc"), 0755));
  for (const auto& [engine, file] : engines) {
    ASSERT_TRUE(install(engine)) << engine;
    const std::string text = get(file);
    const bool has_shim = std::string_view(engine) == "containerd";
    const char* program = has_shim ? "/usr/bin/containerd-shim-kiln-v2\"" : "/usr/bin/kiln\"";
    EXPECT_NE(text.find(program), std::string::npos) << engine;
    EXPECT_EQ(text.find('@'), std::string::npos) << engine;
    ASSERT_TRUE(install(engine)) << engine;
    EXPECT_EQ(get(file), text) << engine;
    EXPECT_FALSE(plan_install(target(engine))->changed) << engine;
    ASSERT_TRUE(uninstall(engine)) << engine;
    ASSERT_TRUE(uninstall(engine)) << engine;
    EXPECT_NE(access(path(file).c_str(), F_OK), 0) << engine;
  }
  EXPECT_EQ(rmdir(path("/etc").c_str()), 0) << "directories are left";
}

TEST_F(EngineTest, LeavesAloneWhatIsNotOurs) {
  const std::string file = "/etc/containers/containers.conf.d/kiln.conf";
  put(file, "[engine]\nruntime = \"mine\"\n");
  const auto refused = plan_install(target("podman"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kAlreadyExists);
  EXPECT_NE(refused.error().message.find("is left alone"), std::string::npos);
  EXPECT_FALSE(uninstall("podman"));
  EXPECT_EQ(get(file), "[engine]\nruntime = \"mine\"\n");
}

TEST_F(EngineTest, ReplacesAnOlderPathOfItsOwn) {
  ASSERT_TRUE(install("crio"));
  EngineTarget other = target("crio");
  other.program = "/opt/kiln/bin/kiln";
  ASSERT_TRUE(apply(plan_install(other)));
  EXPECT_NE(get("/etc/crio/crio.conf.d/50-kiln.conf").find("/opt/kiln/bin/kiln"),
            std::string::npos);
}

TEST_F(EngineTest, RefusesWhatItDoesNotKnow) {
  EXPECT_FALSE(plan_install(target("rkt")));
  EngineTarget odd = target("podman");
  for (const char* program : {"kiln", "/a\"b/kiln", "/a\nb/kiln"}) {
    odd.program = program;
    EXPECT_FALSE(plan_install(odd)) << program;
  }
  odd = target("podman");
  odd.templates = {"/nonexistent"};
  EXPECT_FALSE(plan_install(odd));
}

TEST_F(EngineTest, KeepsTheModeAndTheLinkOfDaemonJson) {
  put("/srv/daemon.json", "{}");
  ASSERT_TRUE(make_directories(path("/etc/docker"), 0755));
  ASSERT_EQ(symlink("../../srv/daemon.json", path("/etc/docker/daemon.json").c_str()), 0);
  ASSERT_TRUE(install("docker"));
  struct stat info {};
  ASSERT_EQ(lstat(path("/etc/docker/daemon.json").c_str(), &info), 0);
  EXPECT_TRUE(S_ISLNK(info.st_mode));
  ASSERT_EQ(stat(path("/etc/docker/daemon.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0640U);
  EXPECT_NE(get("/srv/daemon.json").find("/usr/bin/kiln"), std::string::npos);
}

TEST_F(EngineTest, ContainerdsMainFileIsAsItWasAfterwards) {
  const std::string main = "/etc/containerd/config.toml";
  const char* files[] = {
      "version = 2\n",
      "# a\nversion = 3\nimports = []\n[grpc]\n",
      "version = 2\nimports=[ \"/a.toml\",\n  \"/b.toml\" ] # b\n",
      "imports = [ # c\n]\nversion = 2\n",
      "version = 2\n[imports]\n x = [\"/etc/containerd/conf.d/\"]\n",
  };
  for (const char* before : files) {
    put(main, before);
    ASSERT_TRUE(install("containerd"));
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(apply(plan_import(target("containerd"))));
    EXPECT_TRUE(imports_directory(get(main))) << get(main);
    ASSERT_TRUE(apply(plan_import_removal(target("containerd"))));
    EXPECT_EQ(get(main), before);
    EXPECT_FALSE(plan_import_removal(target("containerd"))->changed);
  }
}

TEST_F(EngineTest, AMainFileThatContainerdDidNotHaveGoesAgain) {
  ASSERT_TRUE(make_directories(path("/etc"), 0755));
  ASSERT_TRUE(install("containerd"));
  ASSERT_TRUE(apply(plan_import(target("containerd"))));
  EXPECT_NE(get("/etc/containerd/config.toml").find("version = 2\nimports = ["), std::string::npos);
  ASSERT_TRUE(apply(plan_import_removal(target("containerd"))));
  ASSERT_TRUE(uninstall("containerd"));
  EXPECT_EQ(rmdir(path("/etc").c_str()), 0) << "something is left";
}

TEST(Docker, KeepsTheOtherMembersAndTheirOrder) {
  const std::string before =
      "{\n  \"zeta\": [1, 2.5],\n  \"runtimes\": {\"other\": {\"path\": \"/o\"}},\n"
      "  \"alpha\": \"\\u00e4\"\n}\n";
  const auto merged = merge_docker_runtime(before, kOurs);
  ASSERT_TRUE(merged) << merged.error().message;
  EXPECT_EQ(*merged,
            "{\n  \"zeta\": [\n    1,\n    2.5\n  ],\n  \"runtimes\": {\n    \"other\": {\n"
            "      \"path\": \"/o\"\n    },\n    \"kiln\": {\n      \"path\": \"/usr/bin/kiln\"\n"
            "    }\n  },\n  \"alpha\": \"\xc3\xa4\"\n}\n");
  EXPECT_EQ(*merge_docker_runtime(*merged, kOurs), *merged);
  const auto removed = remove_docker_runtime(*merged, kOurs);
  ASSERT_TRUE(removed);
  EXPECT_EQ(removed->find("kiln"), std::string::npos);
  EXPECT_NE(removed->find("\"other\""), std::string::npos);
  EXPECT_EQ(*remove_docker_runtime(*removed, kOurs), *removed);
}

TEST(Docker, RefusesAFileThatIsNone) {
  for (const char* text : {"{", "[]", "{\"runtimes\": []}", "{\"a\": 1, \"a\": 2}", "# comment"}) {
    EXPECT_FALSE(merge_docker_runtime(text, kOurs)) << text;
    EXPECT_FALSE(remove_docker_runtime(text, kOurs)) << text;
  }
}

TEST(Docker, LeavesAloneARuntimeThatSomebodyElseCalledKiln) {
  for (const char* kiln : {"{\"path\": \"/usr/bin/other\"}", "{\"runtimeType\": \"x\"}",
                           "{\"path\": \"/usr/bin/kiln\", \"runtimeArgs\": [\"--debug\"]}", "1"}) {
    const std::string text = std::string("{\"runtimes\": {\"kiln\": ") + kiln + "}}";
    EXPECT_FALSE(merge_docker_runtime(text, kOurs)) << text;
    EXPECT_FALSE(remove_docker_runtime(text, kOurs)) << text;
  }
}

TEST(Containerd, RepeatsTheCriTablesOfTheMainFile) {
  const std::string main =
      "version = 2\n[grpc]\n  uid = 0\n"
      "[plugins]\n  [plugins.'io.containerd.grpc.v1.cri'.cni]\n    bin_dir = \"/b\"\n"
      "  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kiln]\n    runtime_type = 1\n"
      "  [plugins.\"io.containerd.grpc.v1.criX\"]\n    no = 1\n"
      "  [plugins.\"io.containerd.internal.v1.opt\"]\n    path = \"/p\"\n";
  const std::string text = with_cri_tables("ours\n", main);
  EXPECT_TRUE(text.starts_with("ours\n"));
  EXPECT_NE(text.find(".cni]\n    bin_dir = \"/b\"\n"), std::string::npos);
  for (const char* foreign : {"runtime_type = 1", "no = 1", "uid", "\"/p\"", "version"})
    EXPECT_EQ(text.find(foreign), std::string::npos) << foreign;
  EXPECT_NE(text.find("containerd.runtimes.runc]"), std::string::npos);
}

TEST(Containerd, NamesRuncUnlessTheMainFileNamesRuntimes) {
  EXPECT_NE(with_cri_tables("ours\n", "version = 2\n").find("runtimes.runc]"), std::string::npos);
  const std::string main =
      "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.crun]\n  runtime_type = \"r\"\n";
  const std::string text = with_cri_tables("ours\n", main);
  EXPECT_EQ(text.find("runtimes.runc]"), std::string::npos);
  EXPECT_NE(text.find("runtimes.crun]"), std::string::npos);
}

TEST(Containerd, SpeaksTheVersionOfTheMainFile) {
  const std::string ours = "version = @VERSION@\n[plugins.\"@CRI@\"]\nruntime_path = \"@SHIM@\"\n";
  for (const char* main :
       {"", "version = 2\n", " version=2 # two\n[a]\nversion = 3\n", "# empty\n"}) {
    const auto text = containerd_drop_in(ours, main, "/shim", "");
    ASSERT_TRUE(text) << main;
    EXPECT_TRUE(
        text->starts_with("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nruntime_path = "
                          "\"/shim\"\n"))
        << *text;
    EXPECT_NE(text->find("runtimes.runc]"), std::string::npos);
    EXPECT_EQ(text->find("ConfigPath"), std::string::npos);
  }
  for (const char* main : {"version = 3\n", "imports = []\nversion = 4\n"}) {
    const auto text = containerd_drop_in(ours, main, "/shim", "/k.yaml");
    ASSERT_TRUE(text) << main;
    EXPECT_EQ(
        *text,
        "version = 3\n[plugins.\"io.containerd.cri.v1.runtime\"]\nruntime_path = \"/shim\"\n\n"
        "  [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.kiln.options]\n"
        "    ConfigPath = \"/k.yaml\"\n");
  }
}

TEST(Containerd, RefusesVersion1) {
  for (const char* main : {"[plugins.cri]\n", "version = 1\n", "version = \"2\"\n", "version ="})
    EXPECT_FALSE(containerd_drop_in("ours\n", main, "/shim", "")) << main;
}

TEST(Containerd, KnowsWhetherItIsImported) {
  EXPECT_TRUE(imports_directory("version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"));
  EXPECT_TRUE(imports_directory("imports = [\n \"/x\",\n \"/etc/containerd/conf.d/kiln.toml\"]\n"));
  for (const char* text :
       {"", "version = 2\n", "# imports = [\"/etc/containerd/conf.d/*.toml\"]\n",
        "imports = [\"/other\"]\n", "[a]\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"})
    EXPECT_FALSE(imports_directory(text)) << text;
}

}  // namespace
}  // namespace kiln::runtime
