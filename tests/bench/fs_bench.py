#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kiln's virtio-fs server beside Debian's virtiofsd, in the same QEMU guest, taken in turns.

Rows: sequential write (with fsync) and read of 128 MiB, a walk of 10,000 files in 100 directories without and with
a stat of each, and creating and deleting 10,000 small files; each with the guest's caches dropped before. A guest
measures each row but the last four times. Prints medians. Exits with 1 when kiln is slower in a row.

Both serve extended attributes, which virtiofsd does only when told to: a server without them says so once, and then
the guest asks for none, where it otherwise asks for `security.capability` before the first write to each file.
"""
import argparse
import array
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from run_bench import REPOSITORY, cpio_entry

ROWS = {"write": 128, "read": 128, "find": 10100, "find+stat": 10100, "create+delete": 20000}
UNITS = {"write": "MiB/s", "read": "MiB/s"}


class KilnServer:
    name = "kiln-vmm fs"

    def __init__(self, build, directory, shared):
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket_path = directory / "kiln.sock"
        vhost, vhost_theirs = socket.socketpair()

        def place():  # descriptors 3 and 4, as kiln-vmm expects them
            moved = [os.dup2(theirs.fileno(), 103), os.dup2(vhost_theirs.fileno(), 104)]
            os.dup2(moved[0], 3)
            os.dup2(moved[1], 4)

        self.process = subprocess.Popen([build / "kiln-vmm", "fs"], preexec_fn=place, pass_fds=(3, 4))
        theirs.close()
        vhost_theirs.close()
        fd = os.open(shared, os.O_PATH)
        control.sendmsg([json.dumps({"add": "tree", "read_only": False, "cache": "auto"}).encode()],
                        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        answer = json.loads(control.recv(8192))
        os.close(fd)
        if answer:
            raise RuntimeError(answer)
        self.control, self.vhost = control, vhost
        self.chardev = f"socket,id=fs,fd={vhost.fileno()}"
        self.fds = (vhost.fileno(),)
        self.directory = "tree"

    def stop(self):
        self.control.close()
        self.vhost.close()
        self.process.wait(10)


class Virtiofsd:
    name = "virtiofsd"

    def __init__(self, program, options, directory, shared):
        path = directory / "virtiofsd.sock"
        self.process = subprocess.Popen([program, f"--socket-path={path}", "-o", f"source={shared}", "-o", options],
                                        stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not path.exists():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("virtiofsd did not start")
            time.sleep(0.01)
        self.chardev = f"socket,id=fs,path={path}"
        self.fds = ()
        self.directory = ""
        self.path = path

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self.path.unlink(missing_ok=True)


def make_tree(shared):
    for number in range(100):
        below = shared / "tree" / f"directory-{number}"
        below.mkdir(parents=True)
        for file in range(100):
            (below / f"file-{file}").write_text("x" * 100)


def make_initramfs(build, directory):
    program = directory / "init"
    source = pathlib.Path(__file__).with_name("fs_bench_guest.c")
    subprocess.run(["cc", "-Os", "-static", "-s", "-o", program, source], check=True)
    # The kernel unpacks archives one after the other: kiln's own with the modules, then ours.
    path = directory / "bench.cpio"
    path.write_bytes((build / "guest/initramfs.cpio").read_bytes() +
                     cpio_entry("bench", 0o100755, program.read_bytes()) + cpio_entry("TRAILER!!!", 0))
    return path


def boot(bare_command, server, initramfs, timeout):
    command = list(bare_command)
    command[command.index("-initrd") + 1] = str(initramfs)
    command[command.index("-append") + 1] += f" rdinit=/bench bench.dir={server.directory}"
    command += ["-global", "virtio-mmio.force-legacy=false", "-chardev", server.chardev, "-device",
                "vhost-user-fs-device,chardev=fs,tag=bench,queue-size=512"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            pass_fds=server.fds, timeout=timeout, check=False)
    text = result.stdout.decode(errors="replace")
    if "done" not in text.split():
        raise RuntimeError(f"{server.name}: the guest did not finish:\n{text}")
    return [(line.split()[1], float(line.split()[2])) for line in text.splitlines() if line.startswith("row ")]


def main():
    import run_bench
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=REPOSITORY / "build", type=pathlib.Path, help="build directory")
    parser.add_argument("-n", "--runs", default=5, type=int, help="guests for each")
    parser.add_argument("--memory", default=512, type=int, help="MiB of the guest")
    parser.add_argument("--directory", default="/var/tmp", help="where the shared tree is made")
    parser.add_argument("--virtiofsd", default="/usr/lib/qemu/virtiofsd", help="the peer")
    parser.add_argument("--virtiofsd-options", default="cache=auto,xattr", help="the peer's -o (default: %(default)s)")
    parser.add_argument("--timeout", default=300, type=int, help="seconds for one guest")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    if not shutil.which(arguments.virtiofsd):
        sys.exit(f"there is no {arguments.virtiofsd}: install qemu-system-common")
    times = {}
    with tempfile.TemporaryDirectory(prefix="kiln-fs-bench-", dir=arguments.directory) as name:
        directory = pathlib.Path(name)
        (directory / "bench").mkdir()
        bench = run_bench.Bench(build, directory / "bench", arguments.memory)
        shared = directory / "shared"
        make_tree(shared)
        initramfs = make_initramfs(build, directory)
        makers = (lambda: KilnServer(build, directory, shared),
                  lambda: Virtiofsd(arguments.virtiofsd, arguments.virtiofsd_options, directory, shared))
        for turn in range(arguments.runs):
            for make in makers if turn % 2 == 0 else reversed(makers):  # what grows or tires touches both alike
                server = make()
                try:
                    for row, seconds in boot(bench.bare_command(), server, initramfs, arguments.timeout):
                        times.setdefault(row, {}).setdefault(server.name, []).append(seconds)
                finally:
                    server.stop()
    return report(times, arguments.runs)


def report(times, runs):
    names = (KilnServer.name, Virtiofsd.name)
    print(f"{str(runs) + ' guests each':<16}{'unit':>9}" + "".join(f"{name:>14}" for name in names) + f"{'ratio':>8}")
    slower = []
    for row, amount in ROWS.items():
        rates = [amount / statistics.median(times[row][name]) for name in names]
        print(f"{row:<16}{UNITS.get(row, 'files/s'):>9}" + "".join(f"{rate:>14.0f}" for rate in rates) +
              f"{rates[0] / rates[1]:>8.2f}")
        if rates[0] < rates[1]:
            slower.append(row)
    if slower:
        print(f"kiln is slower in: {', '.join(slower)}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
