# SPDX-License-Identifier: Apache-2.0
"""What the documents name must exist."""
import os
import re

import tree

DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "docs/")
TOP_FOLDERS = ("base", "oci", "agent", "vmm", "runtime", "shim", "packaging", "tests", "docs")
# A path that starts with one of our folders; `<name>` and `…` end what can be checked.
PATH = re.compile(r"(?<![\w/.<-])((?:%s)(?:/[\w.-]+)+/?|\.ci/run)(?![\w<])" % "|".join(TOP_FOLDERS))
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def documents():
    return [path for path in tree.files() if path.endswith(".md") and path.startswith(DOCUMENTS)]


def exists(path):
    """`runtime/monitor` also stands for runtime/monitor.h and .cpp."""
    path = path.rstrip("/.")
    return any(os.path.exists(tree.TOP / (path + suffix)) for suffix in ("", ".h", ".cpp"))


def check_named_paths_exist():
    for document in documents():
        for number, line in enumerate(tree.text(document).splitlines(), 1):
            for match in PATH.finditer(line):
                rest = line[match.end():]
                placeholder = rest.startswith(("<", "/<", "…", "*")) or "(not part of this release)" in line
                if not placeholder and not exists(match[1]):
                    yield f"{document}:{number}: {match[1]} does not exist"


def check_links_work():
    for document in documents():
        for match in LINK.finditer(FENCE.sub("", tree.text(document))):
            target = os.path.normpath(os.path.join(os.path.dirname(document), match[1]))
            if not os.path.exists(tree.TOP / target):
                yield f"{document}: link to {match[1]}, which does not exist"


def check_changelog_is_open():
    if "## [Unreleased]" not in tree.text("CHANGELOG.md"):
        yield "CHANGELOG.md: no [Unreleased] part"


def check_architecture_has_every_layer():
    """The table of ARCHITECTURE.md and the rules of layering.py are one thing."""
    import layering
    text = tree.text("ARCHITECTURE.md")
    for folder in layering.MAY_INCLUDE:
        if f"| {folder} |" not in text:
            yield f"ARCHITECTURE.md: its table of layers does not have {folder}"
