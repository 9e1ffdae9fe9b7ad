#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""TCP between a container and the other end of its veth pair, beside the same without a machine in between.

Prints medians of one run: bytes a second in both directions, and the round trip of one byte. `--backend` may be given
several times; `qemu` is QEMU's own tap and virtio-net under kiln's other backend. On a host without hardware
virtualization:

    tests/lab/lab.py --memory 6G -- sh -c "modprobe tun && tests/bench/network_bench.py --backend kvm --backend qemu"
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/integration"))
from netns import Namespace, connect  # pylint: disable=wrong-import-position

PORT = 5201
SERVER = "10.201.0.1"
ROWS = [("container → outside, MB/s", ["rate", SERVER, str(PORT), "{seconds}", "out"], 1e-6),
        ("outside → container, MB/s", ["rate", SERVER, str(PORT), "{seconds}", "in"], 1e-6),
        ("round trip, µs", ["trip", SERVER, str(PORT), "{trips}"], 1)]


class Bench:
    def __init__(self, options, directory, inside):
        self.options = options
        self.directory = pathlib.Path(directory)
        self.inside = inside
        self.program = self.directory / "rootfs/bench"
        for name in ("proc", "sys", "dev"):
            (self.directory / "rootfs" / name).mkdir(parents=True)
        subprocess.run(["cc", "-O2", "-static", "-o", self.program,
                        REPOSITORY / "tests/bench/network_bench_guest.c"], check=True)

    def arguments(self, row):
        return [word.format(seconds=self.options.seconds, trips=self.options.trips) for word in row]

    def native(self, row):
        return float(self.inside.run(str(self.program), *self.arguments(row)).stdout)

    def start(self, backend):
        """A container that waits, for all rows; its `kiln` command."""
        bundle = self.directory / backend
        bundle.mkdir()
        (bundle / "kiln.yaml").write_text(f"backend: {backend}\nmachine:\n  memory: 256M\n")
        subprocess.run([self.options.build / "kiln", "spec"], cwd=bundle, check=True)
        spec = json.loads((bundle / "config.json").read_text())
        spec["process"].update(args=["/bench", "serve", "9"], terminal=False)
        spec["root"] = {"path": str(self.directory / "rootfs"), "readonly": True}
        for entry in spec["linux"]["namespaces"]:
            if entry["type"] == "network":
                entry["path"] = self.inside.path
        (bundle / "config.json").write_text(json.dumps(spec))
        kiln = [self.options.build / "kiln", "--config", bundle / "kiln.yaml", "--root", self.directory / "state"]
        subprocess.run([*kiln, "run", "-d", "--bundle", bundle, backend], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
        return kiln

    def in_container(self, backend):
        kiln = self.start(backend)
        try:
            def measure(row):
                done = subprocess.run([*kiln, "exec", backend, "/bench", *self.arguments(row)], check=True,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
                return float(done.stdout)
            return [[measure(row) for _ in range(self.options.count)] for _, row, _ in ROWS]
        finally:
            subprocess.run([*kiln, "delete", "--force", backend], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    build = pathlib.Path(os.environ.get("KILN_TEST_BUILD", REPOSITORY / "build"))
    parser.add_argument("--build", type=pathlib.Path, default=build, metavar="DIRECTORY")
    parser.add_argument("--backend", action="append", choices=("kvm", "qemu", "auto"), help="default: auto")
    parser.add_argument("-n", "--count", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument("--seconds", type=float, default=2, help="of each transfer (default: 2)")
    parser.add_argument("--trips", type=int, default=2000, help="of each measurement (default: 2000)")
    options = parser.parse_args()
    inside, outside = Namespace(), Namespace()
    try:
        connect(inside, "eth0", outside, "peer")
        inside.ip("addr", "add", "10.201.0.2/24", "dev", "eth0")
        outside.ip("addr", "add", f"{SERVER}/24", "dev", "peer")
        with tempfile.TemporaryDirectory(prefix="kiln-bench-") as directory:
            bench = Bench(options, directory, inside)
            outside.popen(str(bench.program), "serve", str(PORT))
            columns = {"veth pair": [[bench.native(row) for _ in range(options.count)] for _, row, _ in ROWS]}
            for backend in options.backend or ["auto"]:
                columns[f"kiln, {backend}"] = bench.in_container(backend)
    finally:
        inside.close()
        outside.close()
    print(f"{'':28}" + "".join(f"{name:>16}" for name in columns))
    for index, (name, _, factor) in enumerate(ROWS):
        print(f"{name:28}" + "".join(f"{statistics.median(column[index]) * factor:16.1f}" for column in columns.values()))


if __name__ == "__main__":
    main()
