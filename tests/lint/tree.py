# SPDX-License-Identifier: Apache-2.0
"""What the lint looks at: the files that git knows or would add, and their text."""
import functools
import pathlib
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]
CPP = (".cpp", ".h")


@functools.cache
def files():
    """Relative paths, sorted; neither ignored nor deleted ones."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=TOP, check=True,
                            capture_output=True, text=True).stdout
    return sorted(path for path in set(listed.split("\0")) if path and (TOP / path).is_file())


def with_suffix(*suffixes):
    return [path for path in files() if path.endswith(suffixes)]


@functools.cache
def text(path):
    return (TOP / path).read_text(encoding="utf-8")


@functools.cache
def scripts():
    """Files that start with #!."""
    found = []
    for path in files():
        with open(TOP / path, "rb") as file:
            if file.read(2) == b"#!":
                found.append(path)
    return found


def is_corpus(path):
    return path.startswith("tests/fuzz/corpus/")
