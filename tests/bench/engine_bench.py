#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""From start to exit of `true` through podman and ctr, with kiln and with runc, taken in turns in one run.

The runtime's own part is measured by a wrapper around it, which notes when each of its commands begins and ends: the
stages are those of the engine's life of a container. Medians, milliseconds.
"""
import argparse
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
STAGES = ("engine, before create", "create", "between", "start", "to delete", "delete", "engine, after delete")
WRAPPER = """#!/bin/sh
begin=$(date +%s%N)
for word; do case $word in create|start|delete|kill|state) command=$word; break;; esac; done
{runtime} "$@"
code=$?
[ -z "$command" ] || echo "$command $begin $(date +%s%N)" >> {log}
exit $code
"""


class Runtime:
    """A wrapper around one, and what it has noted."""

    def __init__(self, directory, name, command):
        self.name = name
        self.log = directory / f"{name}.log"
        self.path = directory / f"wrapped-{name}"
        self.path.write_text(WRAPPER.format(runtime=command, log=self.log))
        self.path.chmod(0o755)

    def stages(self, began, ended):
        """Of what ran between the two, in nanoseconds of the epoch."""
        calls = {}
        for line in self.log.read_text().splitlines():
            command, begin, end = line.split()
            calls.setdefault(command, (int(begin), int(end)))
        create, start = calls["create"], calls["start"]
        delete = calls.get("delete", (ended, ended))
        marks = (began, create[0], create[1], start[0], start[1], delete[0], delete[1], ended)
        return [(after - before) / 1e6 for before, after in zip(marks, marks[1:])]


def rootfs(directory):
    root = directory / "rootfs"
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("true", "sh"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    archive = directory / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, ".")
    return archive


class Podman:
    name = "podman"

    def __init__(self, directory, archive, network):
        self.network = network
        self.name = f"podman, network {network}"
        self.base = ["podman", "--root", directory / "podman", "--runroot", directory / "podman-run", "--tmpdir",
                     directory / "podman-tmp", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
                     "--events-backend", "file"]
        subprocess.run([*self.base, "import", archive, "localhost/bench:1"], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def command(self, runtime):
        return [*self.base, "--runtime", runtime.path, "run", "--rm", "--network", self.network, "--ulimit",
                "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "localhost/bench:1", "/bin/true"]

    def stop(self):
        subprocess.run([*self.base, "system", "reset", "--force"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       check=False)


class Containerd:
    name = "ctr"

    def __init__(self, directory, archive):
        self.directory = directory / "containerd"
        self.directory.mkdir()
        self.socket = self.directory / "sock"
        config = self.directory / "config.toml"
        config.write_text(f"""version = 2
root = "{self.directory}/root"
state = "{self.directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{self.socket}"
""")
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(["containerd", "--config", config], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        self.rootfs = self.directory / "rootfs"
        self.rootfs.mkdir()
        with tarfile.open(archive) as tar:
            tar.extractall(self.rootfs)
        for _ in range(200):
            if subprocess.run([*self.ctr(), "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError("containerd does not answer")

    def ctr(self):
        return ["ctr", "--address", self.socket]

    def command(self, runtime):
        return [*self.ctr(), "run", "--rm", "--runc-binary", runtime.path, "--rootfs", self.rootfs,
                f"bench-{uuid.uuid4().hex[:8]}", "/bin/true"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def measure(engine, runtime):
    runtime.log.write_text("")
    began = time.time_ns()
    done = subprocess.run(engine.command(runtime), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    ended = time.time_ns()
    if done.returncode != 0:
        raise RuntimeError(f"{engine.name} with {runtime.name}: {done.stdout}")
    return runtime.stages(began, ended)


def table(engine, runs):
    print(f"\n{engine.name:28}" + "".join(f"{name:>10}" for name in runs))
    for index, stage in enumerate(STAGES):
        print(f"  {stage:26}" + "".join(f"{statistics.median(run[index] for run in taken):10.1f}"
                                       for taken in runs.values()))
    print(f"  {'in all':26}" + "".join(f"{statistics.median(sum(run) for run in taken):10.1f}" for taken in runs.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    build = pathlib.Path(os.environ.get("KILN_TEST_BUILD", REPOSITORY / "build")).resolve()
    parser.add_argument("--build", type=pathlib.Path, default=build, metavar="DIRECTORY")
    parser.add_argument("--backend", default="auto", help="of kiln (default: auto)")
    parser.add_argument("-n", "--count", type=int, default=10, help="of runs (default: 10)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kiln-bench-") as name:
        directory = pathlib.Path(name)
        config = directory / "kiln.yaml"
        config.write_text(f"backend: {options.backend}\nmachine:\n  memory: 256M\n")
        runtimes = [Runtime(directory, "kiln", f"{options.build}/kiln --config {config}"),
                    Runtime(directory, "runc", shutil.which("runc"))]
        archive = rootfs(directory)
        engines = [Podman(directory, archive, "none"), Podman(directory, archive, "podman"), Containerd(directory, archive)]
        try:
            for engine in engines:
                runs = {runtime.name: [] for runtime in runtimes}
                for turn in range(options.count + 1):
                    for runtime in runtimes:
                        stages = measure(engine, runtime)
                        if turn > 0:  # the first is a warm-up
                            runs[runtime.name].append(stages)
                table(engine, runs)
        finally:
            for engine in reversed(engines):
                engine.stop()


if __name__ == "__main__":
    sys.exit(main())
