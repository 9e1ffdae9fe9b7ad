// SPDX-License-Identifier: Apache-2.0
// Making kiln known to the engines of this host: one file for each, which we may take away again.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace kiln::runtime {

struct EngineTarget {
  std::string engine;   // podman, docker, containerd, crio
  std::string prefix;   // in front of /etc; empty for this host
  std::string program;  // absolute path of kiln; the shim is beside it
  std::string config;   // absolute path of a kiln.yaml; empty: the default. containerd alone
  bool import = false;  // containerd's main file is to read ours: plan_import follows
  std::vector<std::string> templates;  // directories with the texts of packaging/engines, in order
};

struct EngineFile {
  std::string path;        // with the prefix
  std::string text;        // what the file is to hold; empty: it goes
  bool changed = false;    // it holds something else now
  bool of_others = false;  // the engine's main file, which may be as it is
  std::string advice;      // what is left to be done, in one line
};

// What install would write. An error when the place is taken by what is not ours.
Result<EngineFile> plan_install(const EngineTarget& target);
// What uninstall would leave; a file that is not there is no error.
Result<EngineFile> plan_uninstall(const EngineTarget& target);
// The same for the line of containerd's main file that reads ours, where it has none. The file must
// come before the line, and go after it.
Result<EngineFile> plan_import(const EngineTarget& target);
Result<EngineFile> plan_import_removal(const EngineTarget& target);
// Writes or removes the file; empty directories that led to it go with it.
Result<void> carry_out(const EngineFile& file, const std::string& prefix);

// docker.cpp: daemon.json is the user's. `before` empty: there is none.
Result<std::string> merge_docker_runtime(const std::string& before, const std::string& ours);
Result<std::string> remove_docker_runtime(const std::string& before, const std::string& ours);

// containerd.cpp: text in, text out; main_file is empty where there is none.
// `ours` with its placeholders, in the version of the main file: an error where that is 1.
Result<std::string> containerd_drop_in(std::string ours, const std::string& main_file,
                                       const std::string& shim, const std::string& config);
// containerd before 2.0 puts the CRI section of an imported file in the place of the main file's,
// so the tables of that one are repeated; and who names a runtime has to name runc too.
std::string with_cri_tables(const std::string& ours, const std::string& main_file);
bool imports_directory(const std::string& main_file);
std::string with_import(const std::string& main_file);
std::string without_import(const std::string& main_file);

}  // namespace kiln::runtime
