// SPDX-License-Identifier: Apache-2.0
// runtime-spec 1.2 config.md, but for `process` and `linux`.
#include <algorithm>

#include "base/format.h"
#include "oci/mount_options.h"
#include "oci/rules.h"
#include "oci/tables.h"

namespace kiln::oci {
namespace {

using enum Presence;

// SemVer 2.0 with the major version 1: "1.2.0", "1.0.2-dev", "1.0.0-rc5+x". A later minor version
// only adds what may be ignored (config.md#extensibility), so it is taken.
bool is_version_1(std::string_view text) {
  if (!text.starts_with("1.")) return false;
  text.remove_prefix(2);
  for (const char end : {'.', '\0'}) {
    size_t digits = 0;
    while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
    if (digits == 0) return false;
    text.remove_prefix(digits);
    if (end == '\0') return text.empty() || ((text[0] == '-' || text[0] == '+') && text.size() > 1);
    if (text.empty() || text[0] != end) return false;
    text.remove_prefix(1);
  }
  return false;
}

// sethostname(2): __NEW_UTS_LEN.
bool fits_uts_name(std::string_view text) { return text.size() <= 64; }

constexpr Rule kVersion{.text = "must be a version 1.x.y of the runtime-spec",
                        .accepts = is_version_1};
constexpr Rule kUtsName{.text = "must not be longer than 64 bytes", .accepts = fits_uts_name};
constexpr Rule kSeconds{.min = 1};
constexpr Rule kAnnotations{.keys = &kNotEmpty};

constexpr Field kRootFields[] = {
    field<&Root::path>("path", kRequired, &kNotEmpty),
    field<&Root::readonly>("readonly"),
};

constexpr Field kMountFields[] = {
    field<&Mount::destination>("destination", kRequired, &kNotEmpty),
    field<&Mount::type>("type"),
    field<&Mount::source>("source"),
    field<&Mount::options>("options"),
    field<&Mount::uid_mappings>("uidMappings"),
    field<&Mount::gid_mappings>("gidMappings"),
};

bool check_mount(Reader& reader, void* object) {
  auto& mount = *static_cast<Mount*>(object);
  // config.md#mounts: a relative destination is deprecated and is relative to "/".
  if (!is_absolute_path(mount.destination)) {
    reader.warn("/destination", fmt::format("should be an absolute path, is `{}`, taking `/{}`",
                                            mount.destination, mount.destination));
    mount.destination.insert(0, "/");
  }
  const auto options = parse_mount_options(mount.options);
  if (!options)
    return reader.fail(fmt::format("/options/{}", options.error().index), options.error().rule);
  if (mount.uid_mappings.empty() != mount.gid_mappings.empty())
    return reader.fail(mount.uid_mappings.empty() ? "/uidMappings" : "/gidMappings",
                       "is required, as its counterpart is given");
  if (options->bind) {
    if (mount.source.empty()) return reader.fail("/source", "is required for a bind mount");
  } else {
    if (options->id_map != IdMapKind::kNone || !mount.uid_mappings.empty())
      return reader.fail("", "id mappings are only for bind mounts");
    if (!options->remount && (mount.type.empty() || mount.type == "bind" || mount.type == "none"))
      return mount.type.empty()
                 ? reader.fail("/type", "is required unless options have bind or rbind")
                 : reader.fail_value("/type", "needs bind or rbind in options", mount.type);
  }
  return true;
}

constexpr Field kHookFields[] = {
    field<&Hook::path>("path", kRequired, &kAbsolutePath),
    field<&Hook::args>("args"),
    field<&Hook::env>("env", kOptional, &kEnvironment),
    field<&Hook::timeout>("timeout", kOptional, &kSeconds),
};

constexpr Field kHooksFields[] = {
    field<&Hooks::prestart>("prestart"),
    field<&Hooks::create_runtime>("createRuntime"),
    field<&Hooks::create_container>("createContainer"),
    field<&Hooks::start_container>("startContainer"),
    field<&Hooks::poststart>("poststart"),
    field<&Hooks::poststop>("poststop"),
};

constexpr Field kSpecFields[] = {
    field<&Spec::oci_version>("ociVersion", kRequired, &kVersion),
    field<&Spec::process>("process"),
    field<&Spec::root>("root", kRequired),
    field<&Spec::hostname>("hostname", kOptional, &kUtsName),
    field<&Spec::domainname>("domainname", kOptional, &kUtsName),
    field<&Spec::mounts>("mounts"),
    field<&Spec::hooks>("hooks"),
    field<&Spec::annotations>("annotations", kOptional, &kAnnotations),
    field<&Spec::linux>("linux"),
};

bool check_spec(Reader& reader, void* object) {
  const auto& spec = *static_cast<const Spec*>(object);
  // Without a namespace of its own, the container would rename its neighbours.
  if (find_namespace(spec.linux, "uts") == nullptr) {
    if (!spec.hostname.empty())
      return reader.fail("/hostname", "needs a uts namespace in /linux/namespaces");
    if (!spec.domainname.empty())
      return reader.fail("/domainname", "needs a uts namespace in /linux/namespaces");
  }
  return true;
}

}  // namespace

constinit const Type TypeOf<Root>::kType = struct_type(kRootFields);
constinit const Type TypeOf<Mount>::kType = struct_type(kMountFields, check_mount);
constinit const Type TypeOf<Hook>::kType = struct_type(kHookFields);
constinit const Type TypeOf<Hooks>::kType = struct_type(kHooksFields);
constinit const Type TypeOf<Spec>::kType = struct_type(kSpecFields, check_spec);

}  // namespace kiln::oci
