#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""From the start of a monitor to the first program of its guest: kiln-vmm beside QEMU's microvm on KVM, on the same
kernel and initramfs, in a lab in which an instruction takes a nanosecond: the same figures in each run.

The kernel may be any guest kernel; `kiln guest build --kernel-source` makes the tuned one. The initramfs holds one
program, which resets the machine; that the kernel announces this on its console is what is waited for.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lab"))
import lab_image  # noqa: E402 (the path is set above)
import lab_machine  # noqa: E402
from lab import Lab  # noqa: E402

QEMU = "/usr/bin/qemu-system-x86_64"
QEMU_FIRMWARE = "/usr/share/qemu"
FIRMWARE_FILES = ("qboot.rom", "bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin")
TIMEOUT = 1200


def guest_initramfs(directory):
    program = directory / "init"
    subprocess.run(["cc", "-O2", "-static", "-s", "-o", program, TOP / "tests/bench/boot_init.c"], check=True)
    archive = lab_image.Cpio()
    archive.file("init", program.read_bytes())
    archive.directory("dev")
    path = directory / "guest.cpio"
    path.write_bytes(archive.bytes())
    return path


def libraries(program):
    """The files that the dynamic linker would load, and itself."""
    listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", listing)))


def qemu_files():
    files = [(QEMU, QEMU), *((path, path) for path in libraries(QEMU))]
    firmware = [pathlib.Path(QEMU_FIRMWARE) / name for name in FIRMWARE_FILES]
    return files + [(str(path.resolve()), str(path)) for path in firmware if path.exists()]


def measure(command, files, options):
    lab = Lab(command, kernel=options.lab_kernel, environment={"PATH": "/bin", "HOME": "/"}, files=files, share=False,
              settings=lab_machine.Settings(icount=not options.wall, timeout=TIMEOUT))
    output = []
    outcome, froze = lab.run({"out": output.append, "err": lambda data: sys.stderr.buffer.write(data)})
    if froze:
        print(f"(the lab froze {froze} times)", file=sys.stderr)
    if outcome.what != "exited" or outcome.status != 0:
        sys.exit(f"{command[0]}: the lab {outcome.what}, status {outcome.status}\n{outcome.console[-2000:]}")
    return json.loads(b"".join(output))


def bundle_files(directory, kiln):
    """A bundle whose only program is busybox's `true`, as `kiln spec` makes them."""
    bundle = directory / "bundle"
    bundle.mkdir()
    subprocess.run([kiln, "spec"], cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"].update(args=["/bin/true"], terminal=False)
    (bundle / "config.json").write_text(json.dumps(spec))
    files = [(bundle / "config.json", "bundle/config.json"), ("/bin/busybox", "bundle/rootfs/bin/true")]
    empty = directory / "empty"
    empty.touch()
    # The mount points of the specification, which a read-only root file system must have.
    return files + [(empty, f"bundle/rootfs/{name}/.empty") for name in ("proc", "dev", "sys")]


def ms(microseconds):
    return f"{microseconds / 1000:9.2f}"


def report_kiln(kiln):
    print("kiln-vmm, ms since it was started")
    for stage, reached in sorted(kiln["stages_us"].items(), key=lambda item: item[1]):
        print(f"  {stage:24} {ms(reached)}")
    print(f"  {'ended (reset)':24} {ms(kiln['end_us'])}")
    exits = {kind: count for kind, count in kiln["exits"].items() if count}
    devices = len(kiln["devices"])
    print(f"exits to init: {kiln['exits_to_init']} with {devices} virtio device(s); the limit is {105 + 60 * devices}")
    print(f"exits to the end: {sum(exits.values())} ({', '.join(f'{k} {v}' for k, v in exits.items())})")
    print(f"kernel: {kiln['kernel_bytes']['mapped'] >> 10} KiB mapped, {kiln['kernel_bytes']['copied'] >> 10} KiB copied")


def measure_container(directory, options, kernel):
    """The way of a whole container, through the command line and all processes, on the build's guest image."""
    build = options.build
    config = directory / "kiln.yaml"
    config.write_text("backend: kvm\nmachine:\n  memory: 128M\n")
    files = [(build / "tests/bench/boot_probe", "bin/boot_probe"), (build / "kiln", "bin/kiln"),
             (build / "kiln-vmm", "bin/kiln-vmm"), (config, "kiln.yaml"), (kernel, "bin/guest/vmlinux"),
             *((kernel.parent / name, f"bin/guest/{name}") for name in ("initramfs.cpio", "manifest.json")),
             *bundle_files(directory, build / "kiln")]
    return measure(["boot_probe", "container", "/bin/kiln", "--config", "/kiln.yaml", "--root", "/tmp/kiln", "run",
                    "--bundle", "/bundle", "bench"], files, options)


def report_container(container):
    print("kiln run of `true`, ms since the command was started")
    for stage, reached in sorted(container["stages_us"].items(), key=lambda item: item[1]):
        print(f"  {stage:24} {ms(reached)}")
    print(f"  {'ended':24} {ms(container['end_us'])}")


def judge(kiln, qemu):
    """What misses its bound, one line each."""
    limit = 105 + 60 * len(kiln["devices"])
    bounds = [("ms to init", kiln["init_us"] / 1000, 100), ("of QEMU's time to init", kiln["init_us"] / qemu["init_us"], 0.5),
              ("exits to init", kiln["exits_to_init"], limit)]
    return [f"MISSED {value:.2f} {what}, at most {most}" for what, value, most in bounds if value > most]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=TOP / "build", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--kernel", type=pathlib.Path, help="of the guest, vmlinux (default: of the build's image)")
    parser.add_argument("--lab-kernel", default="auto")
    parser.add_argument("--wall", action="store_true", help="without counting instructions: faster, not exact")
    options = parser.parse_args()
    kernel = options.kernel or options.build / "guest" / "vmlinux"
    subprocess.run(["ninja", "-C", options.build, "kiln", "kiln-vmm", "tests/bench/boot_probe"], check=True,
                   stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="kiln-boot-bench-") as name:
        initramfs = guest_initramfs(pathlib.Path(name))
        common = [(options.build / "tests/bench/boot_probe", "bin/boot_probe"), (kernel, "vmlinux"),
                  (initramfs, "guest.cpio")]
        kiln = measure(["boot_probe", "kiln", "/bin/kiln-vmm", "/vmlinux", "/guest.cpio"],
                       [*common, (options.build / "kiln-vmm", "bin/kiln-vmm")], options)
        report_kiln(kiln)
        if (kernel.parent / "initramfs.cpio").exists():
            report_container(measure_container(pathlib.Path(name), options, kernel))
        # Devices are for neither of them to find: the monitor and the kernel are what is compared.
        qemu = measure(["boot_probe", "other", QEMU, "-M", "microvm,acpi=off", "-accel", "kvm", "-cpu",
                        "host", "-m", "128M", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
                        "-serial", "stdio", "-kernel", "/vmlinux", "-initrd", "/guest.cpio", "-append",
                        "loglevel=3 panic=-1 cryptomgr.notests reboot=t"], [*common, *qemu_files()], options)
        print(f"qemu -M microvm -accel kvm: init after {ms(qemu['init_us'])} ms, ended after {ms(qemu['end_us'])} ms")
        print(f"kiln-vmm / qemu, to init: {kiln['init_us'] / qemu['init_us']:.2f}")
        missed = judge(kiln, qemu)
        print("\n".join(missed), end="\n" if missed else "")
        sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
