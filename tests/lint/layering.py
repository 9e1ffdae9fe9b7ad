# SPDX-License-Identifier: Apache-2.0
"""Who may include whom, and that quoted includes name files of this tree from its root."""
import re

import tree

# A folder may include itself and these; what is not here may include anything (tests, fuzzers).
MAY_INCLUDE = {
    "base": [],
    "oci": ["base"],
    "agent/protocol": ["base"],
    "vmm": ["base", "vmm/api"],
    "vmm/api": ["base"],
    "agent": ["base", "oci", "agent/protocol"],
    "runtime": ["base", "oci", "agent/protocol", "vmm/api"],
    "runtime/cli": ["base", "oci", "agent/protocol", "vmm/api", "runtime"],
    "shim": ["base", "oci", "agent/protocol", "vmm/api", "runtime"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def layer_of(path):
    """The most specific layer that holds `path`; None for what has no rule."""
    parts = path.split("/")[:-1]
    for length in range(len(parts), 0, -1):
        folder = "/".join(parts[:length])
        if folder in MAY_INCLUDE:
            return folder
    return None


def includes():
    for path in tree.with_suffix(*tree.CPP):
        for match in INCLUDE.finditer(tree.text(path)):
            line = tree.text(path).count("\n", 0, match.start()) + 1
            yield path, line, match[1]


def check_layers():
    for path, line, included in includes():
        layer, other = layer_of(path), layer_of(included)
        if layer is None or other is None or other == layer or other in MAY_INCLUDE[layer]:
            continue
        yield f"{path}:{line}: {layer} may not include {other} ({included})"


def check_only_tests_include_tests():
    for path, line, included in includes():
        if included.startswith("tests/") and not path.startswith("tests/") and not path.endswith("_test.cpp"):
            yield f"{path}:{line}: {included} is for tests"


def check_includes_are_root_relative():
    # What protoc makes is not in the tree, its source is.
    made = {path.rsplit("/", 1)[-1].removesuffix(".proto") + ".pb.h" for path in tree.with_suffix(".proto")}
    for path, line, included in includes():
        if included not in made and not (tree.TOP / included).is_file():
            yield f"{path}:{line}: {included} is not a file below the top of the tree"
