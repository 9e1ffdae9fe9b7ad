# SPDX-License-Identifier: Apache-2.0
"""Other people's linters."""
import ast
import concurrent.futures
import os
import subprocess

import tree


def _run(command):
    done = subprocess.run(command, cwd=tree.TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")
    return [] if done.returncode == 0 else done.stdout.splitlines() or [f"{command[0]}: exit status {done.returncode}"]


def check_clang_format():
    paths = tree.with_suffix(*tree.CPP)
    parts = [paths[i::os.cpu_count()] for i in range(os.cpu_count())]
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        for lines in pool.map(lambda part: _run(["clang-format-14", "--dry-run", "--Werror", *part]), parts):
            yield from (line for line in lines if "error:" in line)


def check_shellcheck():
    shells = [path for path in tree.scripts() if "sh" in tree.text(path).split("\n", 1)[0].split("/")[-1].split(" ")[-1]]
    shells += tree.with_suffix(".sh")
    yield from _run(["shellcheck", *sorted(set(shells))])


def check_python_parses():
    for path in tree.with_suffix(".py"):
        try:
            ast.parse(tree.text(path), path)
        except SyntaxError as error:
            yield str(error)


def check_python_imports_are_used():
    for path in tree.with_suffix(".py"):
        module = ast.parse(tree.text(path), path)
        names = {node.id for node in ast.walk(module) if isinstance(node, ast.Name)}
        for node in ast.walk(module):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            for alias in node.names:
                name = (alias.asname or alias.name).split(".")[0]
                # A fixture is imported to be found by its name in a parameter list.
                used = name in names or any(isinstance(other, ast.arg) and other.arg == name for other in ast.walk(module))
                if not used:
                    yield f"{path}:{node.lineno}: `{name}` is imported and not used"
