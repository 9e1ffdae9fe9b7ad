# SPDX-License-Identifier: Apache-2.0
"""The table of lint checks. Each yields one line a finding; alone, this file prints them: python3 tests/lint/lint.py"""
import sys

import docs
import files
import layering
import tools

CHECKS = [
    layering.check_layers,
    layering.check_only_tests_include_tests,
    layering.check_includes_are_root_relative,
    files.check_size,
    files.check_licence_line,
    files.check_names,
    files.check_pragma_once,
    files.check_build_lists_sources,
    files.check_machine_paths,
    files.check_nothing_postponed,
    files.check_skips_say_why,
    files.check_final_newline,
    docs.check_named_paths_exist,
    docs.check_links_work,
    docs.check_changelog_is_open,
    docs.check_architecture_has_every_layer,
    tools.check_clang_format,
    tools.check_shellcheck,
    tools.check_python_parses,
    tools.check_python_imports_are_used,
]


def name_of(check):
    return f"{check.__module__}: {check.__name__.removeprefix('check_').replace('_', ' ')}"


def main():
    found = False
    for check in CHECKS:
        for line in check():
            print(line)
            found = True
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
