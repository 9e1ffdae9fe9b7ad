// SPDX-License-Identifier: Apache-2.0
#include "runtime/engines/engine.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>

#include "base/file.h"
#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr std::string_view kPlaceholder = "@KILN@";
constexpr char kShim[] = "containerd-shim-kiln-v2";
constexpr char kContainerdMain[] = "/etc/containerd/config.toml";

struct Engine {
  std::string_view name;
  const char* path;
  const char* text;  // its file in packaging/engines
  const char* advice;
};

constexpr std::array<Engine, 4> kEngines{{
    {"podman", "/etc/containers/containers.conf.d/kiln.conf", "podman.conf",
     "podman --runtime kiln run … uses it at once"},
    {"docker", "/etc/docker/daemon.json", "docker.json",
     "dockerd reads it when it is told to: systemctl reload docker; then docker run --runtime "
     "kiln"},
    {"containerd", "/etc/containerd/conf.d/kiln.toml", "containerd.toml",
     "containerd reads it when it starts: systemctl restart containerd"},
    {"crio", "/etc/crio/crio.conf.d/50-kiln.conf", "crio.conf",
     "CRI-O reads it when it is told to: systemctl reload crio"},
}};

Result<const Engine*> find_engine(const std::string& name) {
  for (const Engine& engine : kEngines)
    if (engine.name == name) return &engine;
  return invalid_argument(fmt::format(
      "`{}` is no engine that is known here: podman, docker, containerd or crio", name));
}

// Empty when there is none.
Result<std::string> read_if_there(const std::string& path) {
  auto text = read_file(path, kMaxBytes);
  if (!text && text.error().sys_errno == ENOENT) return std::string();
  return text;
}

// Every engine's format takes a path in double quotes; these would have to be escaped in it.
Result<void> check_path(const std::string& path) {
  for (const char c : path) {
    if (c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20)
      return invalid_argument(
          fmt::format("the path `{}` cannot stand in an engine's configuration", path));
  }
  if (!path.starts_with('/'))
    return invalid_argument(fmt::format("`{}` must be an absolute path", path));
  return {};
}

Result<std::string> our_text(const Engine& engine, const EngineTarget& target) {
  TRY(check_path(target.program));
  if (!target.config.empty()) TRY(check_path(target.config));
  std::string looked_in;
  for (const std::string& directory : target.templates) {
    const std::string path = directory + "/" + engine.text;
    std::string text = TRY(read_if_there(path));
    if (text.empty()) {
      looked_in += fmt::format("{}`{}`", looked_in.empty() ? "" : " or ", directory);
      continue;
    }
    if (engine.name == "containerd") return text;  // it takes more than the program
    const size_t at = text.find(kPlaceholder);
    if (at == std::string::npos)
      return make_error(ErrorKind::kDataLoss, fmt::format("`{}` does not name kiln", path));
    return text.replace(at, kPlaceholder.size(), target.program);
  }
  return make_error(ErrorKind::kNotFound,
                    fmt::format("find `{}`: not in {}", engine.text, looked_in));
}

// Files of our own begin with the line that our text begins with, whatever the version.
bool is_ours(const std::string& text, const std::string& ours) {
  return text.starts_with(ours.substr(0, ours.find('\n') + 1));
}

Result<void> check_ours(const std::string& path, const std::string& before,
                        const std::string& ours) {
  if (before.empty() || is_ours(before, ours)) return {};
  return make_error(
      ErrorKind::kAlreadyExists,
      fmt::format("`{}` is there and not from `kiln install`: it is left alone", path));
}

Result<void> finish_containerd(const EngineTarget& target, EngineFile& file) {
  const std::string main_path = target.prefix + kContainerdMain;
  const std::string main_file = TRY(read_if_there(main_path));
  const std::string shim = target.program.substr(0, target.program.rfind('/') + 1) + kShim;
  file.text = TRY(wrap(containerd_drop_in(file.text, main_file, shim, target.config),
                       fmt::format("`{}`", main_path)));
  if (!target.import && !imports_directory(main_file))
    file.advice = fmt::format(
        "`{}` does not import it yet: put imports = [\"/etc/containerd/conf.d/*.toml\"] at its "
        "top, "
        "or let --import do it",
        main_path);
  return {};
}

// A link's target: the user may keep the file elsewhere.
std::string real_path(const std::string& path) {
  std::array<char, PATH_MAX> resolved{};
  return realpath(path.c_str(), resolved.data()) == nullptr ? path : std::string(resolved.data());
}

}  // namespace

Result<EngineFile> plan_install(const EngineTarget& target) {
  const Engine* engine = TRY(find_engine(target.engine));
  std::string text = TRY(our_text(*engine, target));
  EngineFile file{target.prefix + engine->path, std::move(text), false, false, engine->advice};
  const std::string before = TRY(read_if_there(file.path));
  if (engine->name == "docker") {
    file.text = TRY(wrap(merge_docker_runtime(before, file.text), fmt::format("`{}`", file.path)));
  } else {
    TRY(check_ours(file.path, before, file.text));
    if (engine->name == "containerd") TRY(finish_containerd(target, file));
  }
  file.changed = before != file.text;
  return file;
}

Result<EngineFile> plan_uninstall(const EngineTarget& target) {
  const Engine* engine = TRY(find_engine(target.engine));
  EngineFile file{target.prefix + engine->path, "", false, false, ""};
  const std::string before = TRY(read_if_there(file.path));
  if (before.empty()) return file;
  const std::string ours = TRY(our_text(*engine, target));
  if (engine->name == "docker") {
    file.text = TRY(wrap(remove_docker_runtime(before, ours), fmt::format("`{}`", file.path)));
  } else {
    TRY(check_ours(file.path, before, ours));
  }
  file.changed = before != file.text;
  return file;
}

Result<EngineFile> plan_import(const EngineTarget& target) {
  EngineFile file{target.prefix + kContainerdMain, "", false, true, ""};
  const std::string before = TRY(read_if_there(file.path));
  file.text = with_import(before);
  file.changed = before != file.text;
  return file;
}

Result<EngineFile> plan_import_removal(const EngineTarget& target) {
  EngineFile file{target.prefix + kContainerdMain, "", false, true, ""};
  const std::string before = TRY(read_if_there(file.path));
  file.text = without_import(before);
  file.changed = before != file.text;
  return file;
}

Result<void> carry_out(const EngineFile& file, const std::string& prefix) {
  if (!file.changed) return {};
  const std::string etc = prefix + "/etc";
  if (file.text.empty()) {
    if (unlink(file.path.c_str()) != 0) return sys_error(fmt::format("remove `{}`", file.path));
    // rmdir(2) leaves alone what has something in it.
    std::string directory = file.path;
    while (true) {
      directory.resize(directory.rfind('/'));
      if (directory.size() <= etc.size() || rmdir(directory.c_str()) != 0) return {};
    }
  }
  TRY(make_directories(file.path.substr(0, file.path.rfind('/')), 0755));
  const std::string path = real_path(file.path);
  struct stat info {};
  const mode_t mode = stat(path.c_str(), &info) == 0 ? info.st_mode & 07777 : 0644;
  return write_file_atomic(path, file.text, mode);
}

}  // namespace kiln::runtime
