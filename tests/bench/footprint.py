#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a running sandbox costs: memory of each process on the host, of the agent in the guest, sizes on disk.

PSS (/proc/PID/smaps_rollup) counts a page shared by n processes as 1/n of a page; private memory is what one process
alone has, the guest's RAM left out. On a host without hardware virtualization the kvm backend is measured in a lab
(tests/lab). Exits with 1 when a figure with a limit is above it.
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
KIB = 1024
IDLE_SECONDS = 3  # a sandbox that was just started is busy with that
GUEST_RAM = "/memfd:guest-ram"


def pss_kib(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1))


def private_kib(pid):
    """Without the mappings that are the guest's RAM: its memory file, and the kernel that was mapped into it."""
    total, counts = 0, True
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = GUEST_RAM not in line and not line.endswith("/vmlinux")
        elif counts and line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1])
    return total


def children_of(pid):
    out = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                out += [int(entry.name), *children_of(int(entry.name))]
        except OSError:
            continue
    return out


def role_of(pid):
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    if b"qemu" in words[0]:
        return "qemu"
    return {b"fs": "kiln-vmm fs", b"run": "kiln-vmm run"}.get(words[1] if len(words) > 1 else b"", "other")


class Container:
    """A container whose first process is visible beside the agent: it has no pid namespace of its own."""

    def __init__(self, build, directory, backend, memory):
        self.command = [str(build / "kiln"), "--config", str(directory / "kiln.yaml"), "--root",
                        str(directory / "state")]
        (directory / "kiln.yaml").write_text(f"backend: {backend}\nmachine:\n  memory: {memory}\n")
        rootfs = directory / "rootfs"
        for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
            (rootfs / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", rootfs / "bin/busybox")
        for name in ("sleep", "cat"):
            (rootfs / "bin" / name).symlink_to("busybox")
        subprocess.run([build / "kiln", "spec"], cwd=directory, check=True)
        spec = json.loads((directory / "config.json").read_text())
        spec["process"].update(args=["/bin/sleep", "600"], terminal=False)
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
        (directory / "config.json").write_text(json.dumps(spec))
        # No pipes of ours: they would keep us waiting for the container.
        subprocess.run([*self.command, "run", "--detach", "--bundle", directory, "footprint"], check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(IDLE_SECONDS)

    def call(self, *words):
        return subprocess.run([*self.command, *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              text=True).stdout


def find_processes(container):
    monitor = json.loads(container.call("state", "footprint"))["pid"]
    pids = {"kiln monitor": monitor}
    for pid in children_of(monitor):
        pids[role_of(pid)] = pid
    return pids


def measure_built_in(container):
    """[(name, KiB, limit or None)] of the built-in machine's sandbox."""
    private = {name: private_kib(pid) for name, pid in find_processes(container).items()}
    rows = [(f"private memory of {name}", value, 3 * KIB if name == "kiln-vmm run" else None)
            for name, value in private.items()]
    return [*rows, ("private memory of all of them", sum(private.values()), 7 * KIB)]


def measure_processes(container):
    """[(name, KiB, limit or None)] on the host and in the guest."""
    pids = find_processes(container)
    pss = {name: pss_kib(pid) for name, pid in pids.items()}
    rows = [(f"PSS of {name}", value, None) for name, value in pss.items()]
    rows.append(("PSS of monitor and fs server together", pss["kiln monitor"] + pss["kiln-vmm fs"], 4 * KIB))
    status = container.call("exec", "footprint", "cat", "/proc/1/status")
    rows.append(("RSS of the agent in the guest", int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)), 4 * KIB))
    return rows


def measure_files(build):
    def kib(path):
        return (path.stat().st_size + KIB - 1) // KIB
    return [("size of kiln-agent", kib(build / "kiln-agent"), 2 * KIB),
            ("size of initramfs.cpio", kib(build / "guest/initramfs.cpio"), None),
            ("size of vmlinux", kib(build / "guest/vmlinux"), None),
            ("size of kiln", kib(build / "kiln"), None),
            ("size of kiln-vmm", kib(build / "kiln-vmm"), 2 * KIB)]


BACKENDS = {"qemu": ("256M", measure_processes), "kvm": ("128M", measure_built_in)}  # memory, what is measured


def measure(build, backend):
    memory, rows_of = BACKENDS[backend]
    with tempfile.TemporaryDirectory(prefix="kiln-bench-") as directory:
        container = Container(build, pathlib.Path(directory), backend, memory)
        try:
            return rows_of(container)
        finally:
            container.call("delete", "--force", "footprint")


def measure_in_lab(build):
    command = [sys.executable, REPOSITORY / "tests/lab/lab.py", "--timeout", "300", "--", "/usr/bin/python3",
               pathlib.Path(__file__).resolve(), "--build", build, "--backend", "kvm", "--json"]
    return json.loads(subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout)


def report(title, rows):
    """The names of what is above its limit."""
    print(f"{title + ', KiB':<44}{'':>9}{'limit':>9}")
    for name, value, limit in rows:
        print(f"{name:<44}{value:>9}{limit if limit is not None else '-':>9}")
    return [name for name, value, limit in rows if limit is not None and value > limit]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=REPOSITORY / "build", type=pathlib.Path, help="build directory")
    parser.add_argument("--backend", choices=BACKENDS, help="only this one, on this host")
    parser.add_argument("--json", action="store_true", help="the rows alone, for a program")
    options = parser.parse_args()
    build = options.build.resolve()
    if options.backend:
        rows = measure(build, options.backend)
        if options.json:
            print(json.dumps(rows))
            return 0
        above = report(options.backend, rows)
    else:
        above = report("qemu backend, 256 MiB", measure(build, "qemu"))
        virtualized = re.search(r"^flags.*\b(vmx|svm)\b", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
        above += report("kvm backend, 128 MiB", measure(build, "kvm") if virtualized else measure_in_lab(build))
        above += report("files", measure_files(build))
    for name in above:
        print(f"above its limit: {name}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
