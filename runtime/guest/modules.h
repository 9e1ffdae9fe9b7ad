// SPDX-License-Identifier: Apache-2.0
// The kernel's modules: which ones, and in which order they have to be loaded.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"

namespace kiln::runtime {

struct KernelModule {
  std::string name;     // with `_`, as the kernel has it
  std::string content;  // the ELF file, uncompressed
  // By which the kernel asks for it (`fs-erofs`), with `_` too, those without wildcards: the others
  // are for devices that are found.
  std::vector<std::string> aliases;
};

// The files below a directory such as /lib/modules/6.1.0-56-cloud-amd64.
class ModuleTree {
 public:
  // `path`: that directory, or one with `lib/modules/RELEASE` or `RELEASE` in it, if there is just
  // one. kNotFound without a module.
  static Result<ModuleTree> open(const std::string& path);

  const std::string& release() const { return release_; }  // the directory's name

  bool has(const std::string& name) const { return files_.contains(name); }

  // The named modules and all that they depend on, each after what it needs. The dependencies are
  // the modules' own (`depends=` and `softdep=pre:` in .modinfo): a package brings no modules.dep.
  // A named module that is built in is left out; one that is nowhere is an error.
  Result<std::vector<KernelModule>> resolve(const std::vector<std::string>& names) const;

 private:
  struct Walk {
    std::vector<KernelModule> loaded;
    std::set<std::string> done;
    std::set<std::string> open;  // on the way down: finds a circle
  };
  Result<void> visit(const std::string& name, bool soft, Walk& walk) const;
  Result<void> scan(const std::string& directory);
  Result<void> read_built_in(const std::string& directory);

  std::string release_;
  std::map<std::string, std::string> files_;  // name -> path
  std::set<std::string> built_in_;
};

// The kernel takes `-` and `_` in names of modules for the same.
std::string canonical_name(std::string name);

// `nf-nat.ko.xz` or `kernel/net/nf_nat.ko` -> `nf_nat`; empty if the path is no module's.
std::string module_name(std::string_view path);

}  // namespace kiln::runtime
