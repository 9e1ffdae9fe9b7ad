# SPDX-License-Identifier: Apache-2.0
"""./try: installs what is missing, builds, makes a bundle and runs it in a microVM; then a command in `kiln box`."""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import build
import packages

BUSYBOX = "/bin/busybox"
PROGRAMS = ["kiln", "kiln-vmm", "kiln-agent"]
GREETING = 'echo "hello from $(hostname): pid $$, $(id -un), $(nproc) CPU, kernel $(uname -r)"'


class TryError(Exception):
    """What failed, with the output of what failed."""


class Steps:
    """Says what happens, and how long each thing took."""

    def __init__(self):
        self.rows = []

    @contextlib.contextmanager
    def step(self, name):
        note = []
        begin = time.monotonic()
        yield note.append
        self.rows.append((name, time.monotonic() - begin, ", ".join(note)))

    def print(self):
        width = max(len(name) for name, _, _ in self.rows)
        print()
        for name, seconds, note in self.rows:
            print(f"  {name:<{width}}  {seconds:7.1f} s  {note}".rstrip())
        print(f"  {'in all':<{width}}  {sum(seconds for _, seconds, _ in self.rows):7.1f} s")


def make_bundle(kiln, directory):
    """A root file system of Debian's static busybox, and a config.json out of `kiln spec`."""
    root = directory / "rootfs"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in subprocess.check_output([BUSYBOX, "--list"], text=True).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    subprocess.run([kiln, "spec", "--bundle", str(directory)], check=True)
    config = directory / "config.json"
    spec = json.loads(config.read_text())
    spec["hostname"] = "first-light"
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["sh", "-c", GREETING]
    config.write_text(json.dumps(spec, indent=2))


def run(command, shown):
    print(f"$ {shown}", flush=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=300)
    print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        raise TryError(f"`{shown}` ended with {done.returncode}")
    return done.stdout


def guest_image():
    """The release of the guest's kernel, and the image's files in a few words."""
    directory = build.PRODUCT.path / "guest"
    manifest = json.loads((directory / "manifest.json").read_text())
    sizes = ", ".join(f"{name} {entry['size'] / 2**20:.1f} MiB" for name, entry in sorted(manifest["files"].items()))
    return manifest["kernel"]["release"], sizes


def build_all(steps):
    with steps.step("packages") as note:
        installed = packages.install(["build", "run"])
        note(f"installed {len(installed)}" if installed else "all there")
    with build.locked(build.PRODUCT):
        with steps.step("programs") as note:
            build.configure(build.PRODUCT)
            build.build(build.PRODUCT, PROGRAMS, live=sys.stdout.isatty())
            note(", ".join(f"{name} {(build.PRODUCT.path / name).stat().st_size / 2**20:.1f} MiB" for name in PROGRAMS))
        with steps.step("guest image") as note:
            build.build(build.PRODUCT, ["guest-image"], live=sys.stdout.isatty())
            note(guest_image()[1])


def run_all(steps):
    kiln = str(build.PRODUCT.path / "kiln")
    release, _ = guest_image()
    print(f"host   {os.uname().sysname} {os.uname().release}, {os.cpu_count()} CPUs\nguest  Linux {release}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="kiln-try-") as directory:
        state = os.path.join(directory, "state")
        bundle = pathlib.Path(directory, "bundle")
        with steps.step("bundle") as note:
            bundle.mkdir()
            make_bundle(kiln, bundle)
            note("Debian's busybox and `kiln spec`")
        with steps.step("kiln run") as note:
            output = run([kiln, "--root", state, "run", "--bundle", str(bundle), "try"],
                         "build/kiln run --bundle BUNDLE try")
            note("a microVM, from its start to its end")
        if f"kernel {release}\n" not in output:
            raise TryError(f"the container did not run on the guest's kernel, {release}")
        with steps.step("kiln box") as note:
            run([kiln, "--root", state, "box", "--", "uname", "-a"], "build/kiln box -- uname -a")
            note("another one; it saw this host's files")
        if left := os.listdir(state):
            raise TryError(f"containers left behind: {', '.join(left)}")


def main(arguments):
    parser = argparse.ArgumentParser(prog="try", description="Builds kiln and runs a container in a microVM with it.")
    parser.add_argument("--build-only", action="store_true", help="build the programs and the guest image, run nothing")
    options = parser.parse_args(arguments)
    steps = Steps()
    try:
        build_all(steps)
        if not options.build_only:
            run_all(steps)
    except (TryError, build.BuildError, packages.PackageError, OSError, subprocess.SubprocessError) as error:
        print(f"try: {error}", file=sys.stderr)
        return 1
    steps.print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
