# SPDX-License-Identifier: Apache-2.0
"""Installs the Debian packages of packaging/debian-packages that are missing; asks nothing of apt when none is."""
import os
import pathlib
import subprocess

LIST = pathlib.Path(__file__).resolve().parents[2] / "packaging/debian-packages"


class PackageError(Exception):
    """Packages are missing and could not be installed."""


def listed(groups, path=LIST):
    """The packages of `groups`, in the file's order."""
    found = {}
    group = None
    for line in path.read_text().splitlines():
        line = line.split("#", 1)[0].strip()
        if line.startswith("["):
            group = found.setdefault(line.strip("[]"), [])
        elif line:
            group.append(line)
    unknown = set(groups) - set(found)
    if unknown:
        raise PackageError(f"{path}: has no group {', '.join(sorted(unknown))}")
    return [package for name in groups for package in found[name]]


def missing(groups):
    wanted = listed(groups)
    query = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *wanted],
                           capture_output=True, text=True)
    installed = {line.split()[1] for line in query.stdout.splitlines() if line.startswith("installed ")}
    return [package for package in wanted if package not in installed]


def install(groups):
    """Installs what is missing of `groups`; the names of what it installed."""
    absent = missing(groups)
    if not absent:
        return []
    command = ["apt-get", "install", "-y", "--no-install-recommends", *absent]
    if os.geteuid() != 0:
        raise PackageError(f"packages are missing; as root: {' '.join(command)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    print(f"installing {' '.join(absent)}", flush=True)
    for step in (["apt-get", "update"], command):
        done = subprocess.run(["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", *step[1:]], env=environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise PackageError(f"`{' '.join(step)}` ended with {done.returncode}:\n{done.stdout}")
    return absent
