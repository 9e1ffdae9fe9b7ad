# SPDX-License-Identifier: Apache-2.0
"""The host's cgroups as a test sees them: whatever mix of v1 and v2 is mounted."""
import os
import pathlib
import time

from conftest import deadline_in

TOP = pathlib.Path("/sys/fs/cgroup")
UNIFIED = (TOP / "cgroup.controllers").exists()


def hierarchies():
    """{controller, or "" for v2: mount point}"""
    found = {}
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options = line.split()[:4]
        if not point.startswith(str(TOP)) or kind not in ("cgroup", "cgroup2"):
            continue
        path = pathlib.Path(point)
        if kind == "cgroup2":
            found[""] = path
        elif point != str(TOP):
            for name in set(options.split(",")) & {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio",
                                                   "pids", "name=systemd"}:
                found[name] = path
    return found


def is_kernel_thread(pid):
    """A child of kthreadd's, process 2."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1] == "2"
    except OSError:
        return False


class HostCgroup:
    """The directories of one absolute cgroupsPath."""

    def __init__(self, path):
        self.path = path.lstrip("/")

    def directories(self):
        return {controller: mount / self.path for controller, mount in hierarchies().items()}

    def existing(self):
        return [path for path in self.directories().values() if path.exists()]

    def processes(self):
        """{controller: set of pids}, of those that exist; without the thread that KVM starts for each machine."""
        return {controller: {pid for pid in map(int, (path / "cgroup.procs").read_text().split())
                             if not is_kernel_thread(pid)}
                for controller, path in self.directories().items() if path.exists()}

    def all_processes(self):
        return set().union(*self.processes().values())

    def read(self, v1, v2):
        """`v1` is controller/file; `v2` a file of the unified hierarchy."""
        if UNIFIED:
            return (TOP / self.path / v2).read_text().strip()
        controller, file = v1.split("/")
        return (self.directories()[controller] / file).read_text().strip()

    def make(self):
        for path in self.directories().values():
            path.mkdir(parents=True, exist_ok=True)
        if "cpuset" in self.directories():
            parts = pathlib.Path(self.path).parts
            for depth in range(1, len(parts) + 1):
                here = hierarchies()["cpuset"].joinpath(*parts[:depth])
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (here / file).write_text((here.parent / file).read_text())

    def add(self, pid):
        for path in self.directories().values():
            (path / "cgroup.procs").write_text(str(pid))

    def remove(self):
        deadline = deadline_in(5)
        for path in self.existing():
            while True:
                try:
                    os.rmdir(path)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
