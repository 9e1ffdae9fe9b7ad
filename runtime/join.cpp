// SPDX-License-Identifier: Apache-2.0
#include "runtime/join.h"

#include <sys/stat.h>

#include <charconv>
#include <vector>

#include "base/format.h"
#include "runtime/container_dir.h"

namespace kiln::runtime {
namespace {

constexpr const char* kShareable[] = {"ipc", "pid", "uts"};

struct Candidate {
  std::string id;
  std::string owner;  // of its machine
  pid_t pid = 0;
};

// What runs under this root.
std::vector<Candidate> running(const std::string& root) {
  std::vector<Candidate> out;
  const auto ids = list_containers(root);
  if (!ids) return out;
  for (const std::string& id : *ids) {
    const auto dir = ContainerDir::open(root, id);
    if (!dir) continue;
    const auto record = dir->read_record();
    if (!record || record->state.pid <= 0 || !is_alive(record->monitor())) continue;
    out.push_back({id, record->sandbox.empty() ? id : record->sandbox, record->state.pid});
  }
  return out;
}

bool is_same_file(const std::string& one, const std::string& other) {
  struct stat first {};
  struct stat second {};
  return stat(one.c_str(), &first) == 0 && stat(other.c_str(), &second) == 0 &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

// The pid of /proc/<pid>/ns/<type>; 0: another kind of path.
pid_t pid_of_path(const std::string& path) {
  constexpr std::string_view kPrefix = "/proc/";
  if (!path.starts_with(kPrefix)) return 0;
  pid_t pid = 0;
  const char* end = path.data() + path.size();
  const auto [parsed, failed] = std::from_chars(path.data() + kPrefix.size(), end, pid);
  return failed == std::errc() && parsed != end && *parsed == '/' ? pid : 0;
}

const Candidate* with_pid(const std::vector<Candidate>& candidates, pid_t pid) {
  for (const Candidate& candidate : candidates) {
    if (candidate.pid == pid) return &candidate;
  }
  return nullptr;
}

}  // namespace

Result<std::optional<JoinPlan>> find_sandbox(const std::string& root, const oci::Spec& spec) {
  const oci::Namespace* network = oci::find_namespace(spec.linux, "network");
  if (network == nullptr || network->path.empty()) return std::optional<JoinPlan>();
  const std::vector<Candidate> candidates = running(root);
  std::optional<JoinPlan> plan;
  for (const Candidate& candidate : candidates) {
    const std::string own = fmt::format("/proc/{}/ns/net", candidate.pid);
    // The host's would be everybody's.
    if (candidate.id == candidate.owner && is_same_file(network->path, own) &&
        !is_same_file(own, "/proc/self/ns/net"))
      plan = JoinPlan{candidate.owner, {}};
  }
  if (!plan) return plan;
  for (const char* type : kShareable) {
    const oci::Namespace* entry = oci::find_namespace(spec.linux, type);
    if (entry == nullptr || entry->path.empty()) continue;
    const Candidate* other = with_pid(candidates, pid_of_path(entry->path));
    if (other == nullptr || other->owner != plan->owner)
      return make_error(ErrorKind::kUnimplemented,
                        fmt::format("{} namespace `{}` is not that of a container in sandbox {}, "
                                    "whose network it shares",
                                    type, entry->path, plan->owner));
    plan->shared[type] = other->id;
  }
  return plan;
}

}  // namespace kiln::runtime
