#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How long `kiln run` of `true` takes, beside a bare QEMU boot of the same kernel and beside runc.

Prints medians in milliseconds, all of one run on one machine, taken in turns so that a change of the machine's
speed touches all alike. The bare boot is QEMU with kiln's own machine options but without devices, and an
initramfs that holds nothing but an init of one line; its time ends with that line. Its command line is the plain
one: that kiln's own leaves the kernel's cipher self-tests out is part of what is compared. Exits with 1 when kiln is more
than LIMIT above the bare boot.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

LIMIT_MS = 500
LINE = "first line of init"
INIT = r"""
#include <unistd.h>
int main(void) {
  if (write(1, "%s\n", sizeof "%s") < 0) return 1;
  for (;;) pause();
}
""" % (LINE, LINE)
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def cpio_entry(name, mode, data=b""):
    """One file of a newc archive."""
    cpio_entry.inode += 1
    fields = [cpio_entry.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    out = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    out += b"\0" * (-len(out) % 4)
    return out + data + b"\0" * (-len(data) % 4)


cpio_entry.inode = 0


class Bench:
    def __init__(self, build, directory, memory):
        self.build = build
        self.directory = pathlib.Path(directory)
        self.memory = memory
        self.kiln_config = self.directory / "kiln.yaml"
        self.kiln_config.write_text(f"backend: qemu\nmachine:\n  memory: {memory}M\n  vcpus: 1\n")
        self.rootfs = self.directory / "rootfs"
        for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.rootfs / "bin/busybox")
        for name in ("true", "cat", "sh"):
            (self.rootfs / "bin" / name).symlink_to("busybox")
        self.initramfs = self.directory / "tiny.cpio"
        self.make_initramfs()
        self.bundles = {}
        self.count = 0

    def make_initramfs(self):
        source, program = self.directory / "init.c", self.directory / "init"
        source.write_text(INIT)
        subprocess.run(["cc", "-Os", "-static", "-s", "-o", program, source], check=True)
        self.initramfs.write_bytes(cpio_entry("dev", 0o40755) + cpio_entry("init", 0o100755, program.read_bytes()) +
                                   cpio_entry("TRAILER!!!", 0))

    def bundle(self, arguments):
        """For runc and kiln alike."""
        key = tuple(arguments)
        if key not in self.bundles:
            bundle = self.directory / f"bundle-{len(self.bundles)}"
            bundle.mkdir()
            subprocess.run([self.build / "kiln", "spec"], cwd=bundle, check=True)
            spec = json.loads((bundle / "config.json").read_text())
            spec["process"].update(args=list(arguments), terminal=False)
            spec["root"] = {"path": str(self.rootfs), "readonly": True}
            (bundle / "config.json").write_text(json.dumps(spec))
            self.bundles[key] = bundle
        return self.bundles[key]

    def kiln(self, *words):
        return [self.build / "kiln", "--config", self.kiln_config, "--root", self.directory / "state", *words]

    def new_id(self):
        self.count += 1
        return f"bench-{os.getpid()}-{self.count}"

    def run_kiln(self):
        return timed(self.kiln("run", "--bundle", self.bundle(["/bin/true"]), self.new_id()))

    def run_runc(self):
        return timed(["runc", "--root", self.directory / "runc", "run", "--bundle", self.bundle(["/bin/true"]),
                      self.new_id()])

    def run_stages(self):
        """The parts of a life, by separate commands: {name: ms}; and the guest's age when the process begins."""
        container = self.new_id()
        bundle = self.bundle(["/bin/cat", "/proc/uptime"])
        out = self.directory / "uptime"
        stages = {}
        with open(out, "wb") as file:
            stages["kiln create"] = timed(self.kiln("create", "--bundle", bundle, container), stdout=file)
        began = time.monotonic()
        stages["kiln start"] = timed(self.kiln("start", container))
        while json.loads(subprocess.check_output(self.kiln("state", container)))["status"] != "stopped":
            time.sleep(0.002)
        stages["start to stopped"] = (time.monotonic() - began) * 1000
        stages["kiln delete"] = timed(self.kiln("delete", container))
        stages["guest's clock at the process"] = float(out.read_text().split()[0]) * 1000
        return stages

    def run_bare(self):
        began = time.monotonic()
        qemu = subprocess.Popen(self.bare_command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)
        text = b""
        for line in qemu.stdout:
            text += line
            if LINE.encode() in line:
                elapsed = (time.monotonic() - began) * 1000
                break
        else:
            raise RuntimeError(f"the bare boot ended early:\n{text.decode(errors='replace')}")
        qemu.kill()
        qemu.wait()
        return elapsed

    def bare_command(self):
        accelerated = re.search(r"\b(vmx|svm)\b", pathlib.Path("/proc/cpuinfo").read_text()) is not None
        line = "console=ttyS0 quiet panic=-1"
        if not accelerated:
            mhz = float(re.search(r"cpu MHz\s*:\s*([\d.]+)", pathlib.Path("/proc/cpuinfo").read_text()).group(1))
            line += f" tsc_early_khz={round(mhz * 1000)}"
        return ["qemu-system-x86_64", "-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-M",
                "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,usb=off,pcie=off,memory-backend=mem",
                "-accel", "kvm" if accelerated else "tcg,thread=multi", "-cpu", "host" if accelerated else "max,-svm",
                "-smp", "1", "-m", f"{self.memory}M", "-object",
                f"memory-backend-memfd,id=mem,size={self.memory}M,share=on", "-serial", "stdio", "-kernel",
                str(self.build / "guest/vmlinux"), "-initrd", str(self.initramfs), "-append", line]


def timed(command, **options):
    began = time.monotonic()
    # A file and no pipe: a created container keeps it, as its own standard error, for as long as it lives.
    with tempfile.TemporaryFile() as errors:
        result = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                                stdout=options.get("stdout", subprocess.DEVNULL), stderr=errors, timeout=120,
                                check=False)
        elapsed = (time.monotonic() - began) * 1000
        errors.seek(0)
        if result.returncode != 0:
            raise RuntimeError(f"{command}: exit {result.returncode}: {errors.read().decode(errors='replace')}")
    return elapsed


def row(name, values):
    print(f"{name:<44}{statistics.median(values):>9.1f}{min(values):>9.1f}{max(values):>9.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=REPOSITORY / "build", type=pathlib.Path, help="build directory")
    parser.add_argument("-n", "--runs", default=10, type=int, help="runs of each (median is printed)")
    parser.add_argument("--memory", default=256, type=int, help="MiB of the guest")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kiln-bench-") as directory:
        bench = Bench(arguments.build.resolve(), directory, arguments.memory)
        peers = {"bare QEMU, to the first line of init": bench.run_bare, "kiln run of `true`": bench.run_kiln}
        if shutil.which("runc"):
            peers["runc run of `true`"] = bench.run_runc
        for measure in peers.values():
            measure()  # fills the page cache
        times = {name: [] for name in peers}
        stages = {}
        for _ in range(arguments.runs):
            for name, measure in peers.items():
                times[name].append(measure())
            for name, value in bench.run_stages().items():
                stages.setdefault(name, []).append(value)
    print(f"{'milliseconds, of ' + str(arguments.runs) + ' runs each':<44}{'median':>9}{'least':>9}{'most':>9}")
    for name, values in {**times, **stages}.items():
        row(name, values)
    bare, kiln = (statistics.median(values) for values in list(times.values())[:2])
    print(f"kiln run is {kiln - bare:.0f} ms above the bare boot; the limit is {LIMIT_MS} ms")
    return 0 if kiln - bare <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
