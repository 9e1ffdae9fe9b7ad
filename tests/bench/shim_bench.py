#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""containerd with kiln's shim beside its own runc shim, in one run, taken in turns.

`ctr run` of `true`, from start to exit; pods of 1, 3 and 10 containers through CRI: time for each step, and memory on the
host for the pod and for each further container; the shims' own memory. Medians. Needs what tests/integration/engines
needs: Debian's containerd and runc, CNI plugins, a current Go for crictl. The guests' RAM is left out of all figures, and QEMU,
which emulates them where there is no KVM, of the sums.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests/integration"), str(REPOSITORY / "tests/bench")]

SIZES = (1, 3, 10)
SETTLE_SECONDS = 3


def make_rootfs(directory):
    root = directory / "rootfs"
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "home"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("true", "sh", "sleep"):
        (root / "bin" / name).symlink_to("busybox")
    return root


def host_memory(engine, footprint, besides):
    """{role: KiB that its processes alone have} of what the engine's containers run on the host."""
    from conftest import descendants, read_command  # pylint: disable=import-outside-toplevel
    ours = [pid for pid in engine.processes() if pid not in besides]
    out = {}
    for pid in {*ours, *(below for pid in ours for below in descendants(pid))}:
        command = read_command(pid)
        words = command.split()
        if not words or words[0].endswith(("crictl", "pause", "ctr")):
            continue
        role = "monitors" if words[0] == "kiln" else pathlib.Path(words[0]).name
        role = " ".join([role, *words[1:2]]) if role == "kiln-vmm" else role
        if "qemu" in role:
            role = "qemu"
        try:
            out[role] = out.get(role, 0) + footprint.private_kib(pid)
        except OSError:
            continue
    return out


def measure_ctr(directory, repetitions):
    from engines.containerd import Containerd, ShimContainerd  # pylint: disable=import-outside-toplevel

    class Runc(Containerd):
        """containerd's runc shim with runc itself."""
        def run_flags(self):
            return ["--snapshotter", self.snapshotter, "--runtime", "io.containerd.runc.v2", "--cgroup",
                    f"/{self.mark}/{self.new_name('cgroup')}"]

    engines = {}
    times = {"kiln": [], "runc": []}
    try:
        for name, kind in (("kiln", ShimContainerd), ("runc", Runc)):
            (directory / name).mkdir()
            engines[name] = kind(directory / name, make_rootfs(directory / name))
        for turn in range(repetitions + 1):
            for name, engine in engines.items():
                began = time.monotonic()
                engine.run("--rm", engine.image, engine.new_name(), "true")
                if turn > 0:  # the first fills caches
                    times[name].append((time.monotonic() - began) * 1000)
        print(f"`ctr run --rm` of true, {repetitions} each, median ms: "
              + ", ".join(f"{name} {statistics.median(values):.0f}" for name, values in times.items()))
        for name, engine in engines.items():
            container = engine.new_name()
            engine.run("--detach", engine.image, container, "sleep", "1000")
            time.sleep(SETTLE_SECONDS)
            for pid, command in engine.processes().items():
                if command.split()[0].rsplit("/", 1)[-1].startswith("containerd-shim"):
                    status = pathlib.Path(f"/proc/{pid}/status").read_text()
                    rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
                    print(f"shim of {name}: {rss} KiB RSS, of which {sys.modules['footprint'].private_kib(pid)} KiB its own")
            engine("task", "kill", "--signal", "SIGKILL", container)
    finally:
        for engine in engines.values():
            engine.close()


def measure_pods(directory, version):
    import footprint  # pylint: disable=import-outside-toplevel
    from engines.cri import Cri  # pylint: disable=import-outside-toplevel
    from engines.cri_pod import Pod  # pylint: disable=import-outside-toplevel
    engine = Cri(directory, version)
    try:
        besides = set(engine.processes())
        for handler in ("kiln", "runc"):
            warm = Pod(engine, handler)
            warm.container("sleep", "1000")
            warm.remove()
            began = time.monotonic()
            pod = Pod(engine, handler)
            print(f"{handler}: sandbox {(time.monotonic() - began) * 1000:.0f} ms")
            added, totals = [], {}
            for count in range(1, max(SIZES) + 1):
                began = time.monotonic()
                pod.container("sleep", "1000")
                added.append((time.monotonic() - began) * 1000)
                if count in SIZES:
                    time.sleep(SETTLE_SECONDS)
                    memory = host_memory(engine, footprint, besides)
                    totals[count] = sum(size for role, size in memory.items() if role != "qemu")
                    print(f"{handler}: pod of {count}: last container {added[-1]:.0f} ms, host {totals[count]} KiB: "
                          + ", ".join(f"{role} {size}" for role, size in sorted(memory.items())))
            each = (totals[SIZES[-1]] - totals[1]) / (SIZES[-1] - 1)
            print(f"{handler}: each further container {statistics.median(added[1:]):.0f} ms (crictl's own calls included), "
                  f"{each:.0f} KiB on the host")
            pod.remove()
    finally:
        engine.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default=str(REPOSITORY / "build"))
    parser.add_argument("-n", type=int, default=10, help="repetitions of `ctr run` (default: 10)")
    parser.add_argument("--containerd", default="1", help="of the pods: 1 or 2 (default: 1)")
    options = parser.parse_args()
    os.environ["KILN_TEST_BUILD"] = str(pathlib.Path(options.build).resolve())
    import footprint  # noqa: F401  pylint: disable=import-outside-toplevel,unused-import
    with tempfile.TemporaryDirectory(prefix="kiln-shim-") as directory:
        place = pathlib.Path(directory)
        measure_ctr(place, options.n)
        (place / "pods").mkdir()
        measure_pods(place / "pods", options.containerd)


if __name__ == "__main__":
    sys.exit(main())
