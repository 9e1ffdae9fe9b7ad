// SPDX-License-Identifier: Apache-2.0
#include <pwd.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "runtime/cli/command.h"

namespace kiln::runtime {
namespace {

struct ListFlags {
  std::string format = "table";
  bool quiet = false;
};

std::string owner_of(const ContainerDir& dir) {
  struct stat info {};
  if (fstat(dir.fd(), &info) != 0) return {};
  // Not getpwuid: its name services are shared libraries, and this program is static.
  const std::unique_ptr<FILE, int (*)(FILE*)> file(fopen("/etc/passwd", "re"), fclose);
  while (const passwd* entry = file ? fgetpwent(file.get()) : nullptr) {
    if (entry->pw_uid == info.st_uid) return entry->pw_name;
  }
  return fmt::format("#{}", info.st_uid);
}

// As Go's tabwriter sets runc's table: cells of at least 12 columns, three spaces between.
void print_table(const std::vector<std::array<std::string, 6>>& rows) {
  std::array<size_t, 6> widths{};
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max({widths[i], row[i].size() + 3, size_t{12}});
  }
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += i + 1 == row.size() ? row[i] : fmt::format("{:<{}}", row[i], widths[i]);
    std::puts(line.c_str());
  }
}

Result<void> list(const Globals& globals, const ListFlags& flags) {
  if (flags.format != "table" && flags.format != "json")
    return invalid_argument(fmt::format("invalid format option"));
  Json out;  // null without a container, as runc's
  std::vector<std::array<std::string, 6>> rows{
      {"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}};
  for (const std::string& id : TRY(list_containers(globals.root))) {
    const auto dir = ContainerDir::open(globals.root, id);
    if (!dir) continue;  // deleted meanwhile
    const auto record = dir->current_record();
    if (!record) {
      if (record.error().kind != ErrorKind::kNotFound)
        log_error("load container {}: {}", id, record.error().message);
      continue;
    }
    const oci::State& state = record->state;
    const std::string owner = owner_of(*dir);
    if (flags.quiet) {
      std::puts(id.c_str());
      continue;
    }
    rows.push_back(
        {id, std::to_string(state.pid), state.status, state.bundle, state.created, owner});
    Json entry = oci::to_json(state);
    entry["owner"] = owner;
    out.push_back(std::move(entry));
  }
  if (flags.quiet) return {};
  if (flags.format == "json") {
    std::puts(dump_json(out).c_str());
  } else {
    print_table(rows);
  }
  return {};
}

}  // namespace

void add_list(const Command& app, Globals& globals) {
  const Command command = app.subcommand("list", "list containers started with the given root");
  const auto flags = std::make_shared<ListFlags>();
  command.option("-f,--format", flags->format, "table or json");
  command.flag("-q,--quiet", flags->quiet, "display only container IDs");
  command.on_run([&globals, flags] { globals.exit_code = report(globals, list(globals, *flags)); });
}

}  // namespace kiln::runtime
