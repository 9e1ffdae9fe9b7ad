// SPDX-License-Identifier: Apache-2.0
#include "agent/container/executable.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "base/format.h"

namespace kiln::agent {
namespace {

// 0, or the errno that keeps `path` from being executed.
int executable_errno(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return errno;
  if (S_ISDIR(status.st_mode)) return EISDIR;
  if (faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) != 0) return errno;
  // Root passes access(2) on some file systems without any x bit; execve(2) wants one.
  return (status.st_mode & 0111) != 0 ? 0 : EACCES;
}

// The words of Go's syscall.Errno, which are strerror's but for the capital.
std::string go_text(int sys_errno) {
  std::string text = errno_text(sys_errno);
  if (!text.empty() && text[0] >= 'A' && text[0] <= 'Z' && (text.size() < 2 || text[1] >= 'a'))
    text[0] = static_cast<char>(text[0] | 0x20);
  return text;
}

ErrorKind kind_of(int sys_errno) {
  return sys_errno == EISDIR ? ErrorKind::kPermissionDenied : kind_of_errno(sys_errno);
}

tl::unexpected<Error> cannot_execute(const std::string& name, int sys_errno) {
  // Go's exec.LookPath: what stat fails with carries the call's name, what is refused after it
  // does not.
  const bool from_stat = sys_errno != EACCES && sys_errno != EISDIR;
  return tl::unexpected(
      Error{kind_of(sys_errno), sys_errno,
            from_stat ? fmt::format("exec: \"{0}\": stat {0}: {1}", name, go_text(sys_errno))
                      : fmt::format("exec: \"{}\": {}", name, go_text(sys_errno))});
}

std::vector<char*> c_strings(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& text : strings) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

std::string_view name_of(std::string_view variable) {
  return variable.substr(0, variable.find('='));
}

}  // namespace

const char* environment_value(const std::vector<std::string>& environment, std::string_view name) {
  for (auto variable = environment.rbegin(); variable != environment.rend(); ++variable) {
    const bool has_value = variable->size() > name.size();
    if (has_value && name_of(*variable) == name) return variable->c_str() + name.size() + 1;
  }
  return nullptr;
}

Result<std::string> find_executable(const std::string& name,
                                    const std::vector<std::string>& environment) {
  if (name.find('/') != std::string::npos) {
    const int failed = executable_errno(name);
    if (failed != 0) return cannot_execute(name, failed);
    return name;
  }
  const char* value = environment_value(environment, "PATH");
  std::string_view rest = value != nullptr ? value : "";
  bool more = value != nullptr && !rest.empty();
  while (more) {
    const size_t colon = rest.find(':');
    const std::string_view directory = rest.substr(0, colon);
    more = colon != std::string_view::npos;
    if (more) rest.remove_prefix(colon + 1);
    // An empty entry is the working directory (execvp(3)).
    std::string path = fmt::format("{}/{}", directory.empty() ? "." : directory, name);
    if (executable_errno(path) == 0) return path;
  }
  return make_error(ErrorKind::kNotFound,
                    fmt::format("exec: \"{}\": executable file not found in $PATH", name));
}

Error execute(const std::string& path, const std::vector<std::string>& args,
              const std::vector<std::string>& environment) {
  const std::vector<char*> argv = c_strings(args);
  const std::vector<char*> envp = c_strings(environment);
  execve(path.c_str(), argv.data(), envp.data());
  const int failed = errno;
  return Error{kind_of(failed), failed, fmt::format("exec {}: {}", path, go_text(failed))};
}

std::vector<std::string> complete_environment(const std::vector<std::string>& environment,
                                              const std::string& home) {
  std::vector<std::string> out;
  bool has_home = false;
  for (size_t i = 0; i < environment.size(); ++i) {
    const std::string_view name = name_of(environment[i]);
    const bool again =
        std::any_of(environment.begin() + static_cast<ptrdiff_t>(i) + 1, environment.end(),
                    [&](const std::string& later) { return name_of(later) == name; });
    if (again) continue;
    if (name == "HOME") {
      if (environment[i] == "HOME=") continue;
      has_home = true;
    }
    out.push_back(environment[i]);
  }
  if (!has_home) out.push_back("HOME=" + home);
  return out;
}

std::string home_directory(std::string_view passwd, uint32_t uid) {
  while (!passwd.empty()) {
    const size_t end = std::min(passwd.find('\n'), passwd.size());
    std::string_view line = passwd.substr(0, end);
    passwd.remove_prefix(std::min(end + 1, passwd.size()));
    std::string_view fields[7];
    size_t count = 0;
    while (count < 7) {
      const size_t colon = line.find(':');
      fields[count++] = line.substr(0, colon);
      if (colon == std::string_view::npos) break;
      line.remove_prefix(colon + 1);
    }
    if (count < 6) continue;
    uint32_t found = 0;
    const auto [rest, error] =
        std::from_chars(fields[2].data(), fields[2].data() + fields[2].size(), found);
    const bool number = error == std::errc() && rest == fields[2].data() + fields[2].size();
    if (number && found == uid && fields[5].starts_with('/')) return std::string(fields[5]);
  }
  return "/";
}

}  // namespace kiln::agent
