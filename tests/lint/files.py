# SPDX-License-Identifier: Apache-2.0
"""What every file must look like: size, licence line, name, and that the build knows it."""
import os
import re

import tree

MOST_LINES = 600
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "misc"}
CODE = (*tree.CPP, ".py", ".sh", "meson.build", "meson_options.txt")
# Paths that exist on one developer's machine only. A class of one letter keeps the patterns from finding themselves.
MACHINE_PATHS = re.compile(r"/wor[k]/(main|shared|\.)|/roo[t]/\.|/hom[e]/(?!user\b)[a-z]+/|/tm[p]/k[a-z]-|\.\./share[d]\b")
POSTPONED = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X]|HAC[K])\b")


def code_files():
    return sorted({*tree.with_suffix(*CODE), *tree.scripts()})


def check_size():
    for path in code_files():
        lines = tree.text(path).count("\n")
        if lines > MOST_LINES:
            yield f"{path}: {lines} lines, {MOST_LINES} are the ceiling: two rooms in one?"


def check_licence_line():
    for path in code_files():
        head = tree.text(path).split("\n", 3)[:2]
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in head):
            yield f"{path}: no SPDX line on top"


def check_names():
    for path in tree.files():
        if tree.is_corpus(path):
            continue
        for part in path.split("/"):
            stem = part.split(".")[0]
            for word in re.split(r"[_-]", stem):
                if word.lower() in FORBIDDEN_NAMES:
                    yield f"{path}: `{word}` names no thing"
            if path.endswith(tree.CPP) and not re.fullmatch(r"[a-z0-9_.-]+", part):
                yield f"{path}: file names are snake_case"


def check_pragma_once():
    for path in tree.with_suffix(".h"):
        if "#pragma once\n" not in tree.text(path):
            yield f"{path}: no #pragma once"


def check_build_lists_sources():
    """A .cpp that no meson.build of its folder or above names is not built, so not tested."""
    builds = {os.path.dirname(path): tree.text(path) for path in tree.with_suffix("meson.build")}
    for path in tree.with_suffix(".cpp"):
        folder = os.path.dirname(path)
        names = []
        while True:
            if folder in builds:
                names.append((builds[folder], os.path.relpath(path, folder or ".")))
            if not folder:
                break
            folder = os.path.dirname(folder)
        # Tests of a library may be listed by the sub-folder that links them: '../relay_test.cpp'.
        below = [(text, os.path.relpath(path, where)) for where, text in builds.items()
                 if where.startswith(os.path.dirname(path) + "/")]
        fuzzer = path.startswith("tests/fuzz/fuzz_") and f"['{path[16:-4]}'," in builds["tests/fuzz"]
        if not fuzzer and not any(f"'{name}'" in text for text, name in names + below):
            yield f"{path}: in no meson.build"


def check_machine_paths():
    for path in tree.files():
        if tree.is_corpus(path):
            continue
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if match := MACHINE_PATHS.search(line):
                yield f"{path}:{number}: `{match[0]}` exists on one machine only"


def check_nothing_postponed():
    for path in code_files():
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if match := POSTPONED.search(line):
                yield f"{path}:{number}: `{match[0]}`: do it, or say in docs/limitations.md that it is not done"


def check_skips_say_why():
    """A test that is skipped without a reason looks like one that passed."""
    for path in tree.with_suffix(".cpp"):
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if re.search(r"GTEST_SKIP\(\)\s*;", line):
                yield f"{path}:{number}: GTEST_SKIP() << \"why\""
    for path in tree.with_suffix(".py"):
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if re.search(r"pytest\.skip\(\)|mark\.skip\b(?!if|\()|mark\.skip\(\)", line):
                yield f"{path}:{number}: a skip without a reason"


def check_final_newline():
    for path in tree.with_suffix(*CODE, ".md", ".json", ".yaml"):
        text = tree.text(path)
        if not tree.is_corpus(path) and text and not text.endswith("\n"):
            yield f"{path}: no newline at its end"
