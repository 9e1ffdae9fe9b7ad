#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a payload on QEMU's microvm, to see what another implementation makes of it. Every FAIL is a difference, and not
always QEMU's fault; what is known of QEMU 7.2: it does not refuse features that it did not offer, a missing VERSION_1,
misaligned rings or changed ones after DRIVER_OK, and its network device aborts on a writable transmit buffer.

    tests/payloads/run_on_qemu.py build/tests/payloads/payload_rng [--accel kvm]
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

MACHINE = "microvm,acpi=on,pit=off,pic=off,pcie=off,ioapic2=off,rtc=off"
# Where that machine has its things, and that its devices reach each other's registers.
ARGUMENTS = "console=ttyS0 mmio=0xfeb00000 stride=0x200 slots=24 gsi=16 trigger=level dma-to-mmio no-icmp-offload"
RNG = ["-device", "virtio-rng-device"]
CONSOLE = ["-device", "virtio-serial-device,max_ports=1", "-device", "virtconsole,chardev=console", "-chardev",
           "null,id=console"]
BALLOON = ["-device", "virtio-balloon-device,free-page-reporting=on"]
NET = ["-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net,mac=02:00:00:00:00:15"]


def disk(path):
    path.touch()
    with path.open("r+b") as file:
        file.truncate(1 << 20)
    return ["-drive", f"if=none,id=disk,file={path},format=raw,discard=unmap", "-device",
            "virtio-blk-device,drive=disk,serial=payload-disk"]


def devices(name, directory):
    image = pathlib.Path(directory, "disk.img")
    return {"rng": lambda: RNG, "console": lambda: CONSOLE, "balloon": lambda: BALLOON, "net": lambda: NET,
            "block": lambda: disk(image), "machine": lambda: [],
            "smp": lambda: [*RNG, *CONSOLE, *BALLOON, *disk(image), "-smp", "4"]}[name]()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("payload", type=pathlib.Path)
    parser.add_argument("--accel", default="tcg", choices=["tcg", "kvm"])
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        command = ["qemu-system-x86_64", "-M", MACHINE, "-accel", parsed.accel, "-cpu", "qemu64", "-m", "64", "-nodefaults",
                   "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-global",
                   "virtio-mmio.force-legacy=false", "-kernel", str(parsed.payload), "-append", ARGUMENTS,
                   # Its byte ends QEMU where the built-in machine has the sleep register.
                   "-device", "isa-debug-exit,iobase=0x600,iosize=0x04",
                   *devices(parsed.payload.name.removeprefix("payload_"), directory)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAIL ")]
    print("\n".join(failed))
    print(f"{sum(line.startswith('ok ') for line in lines)} ok, {len(failed)} not")
    return 0 if "done" in lines else 1


if __name__ == "__main__":
    sys.exit(main())
