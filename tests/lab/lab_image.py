# SPDX-License-Identifier: Apache-2.0
"""The lab host's initramfs, made in memory: busybox, its init, modules, and the command to run."""
import os
import pathlib
import shlex
import stat

HERE = pathlib.Path(__file__).resolve().parent
BUSYBOX = "/bin/busybox"
# As commands of init.sh, and of what runs without the host's files.
APPLETS = ("sh", "cat", "chroot", "cp", "cut", "dmesg", "echo", "grep", "insmod", "ip", "ls", "mkdir", "mount",
           "poweroff", "rm", "sed", "sleep", "true", "false", "umount")


class Cpio:
    """An archive in the kernel's format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self):
        self._parts = []
        self._names = set()

    def _entry(self, name, mode, data=b""):
        path = name.encode()
        fields = (len(self._names) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path + b"\0"
        self._names.add(name)
        for part in (head, data):
            self._parts += [part, bytes(-len(part) % 4)]

    def _above(self, name):
        parent = os.path.dirname(name)
        if parent:
            self.directory(parent)

    def directory(self, name):
        """`name` and what is above it."""
        self._above(name)
        if name not in self._names:
            self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o755):
        if name in self._names:
            raise ValueError(f"`{name}` is in the initramfs twice")
        self._above(name)
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        self._above(name)
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def bytes(self):
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)


def _script(command, environment, directory):
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    lines += [f"cd {shlex.quote(directory)} || exit 125", f"exec {shlex.join(command)}"]
    return ("\n".join(lines) + "\n").encode()


def build(command, *, environment, directory, modules, settings, late=(), files=()):
    """The archive. `settings` are the init's variables, `late` are modules to load when the command has ended, and
    `files` are (path on the host, name in the initramfs)."""
    archive = Cpio()
    archive.file("bin/busybox", pathlib.Path(BUSYBOX).read_bytes())
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    for name in ("proc", "sys", "dev", "new", "tmp", "run", "lab"):
        archive.directory(name)
    archive.file("init", (HERE / "init.sh").read_bytes())
    archive.file("lab/main", (HERE / "main.sh").read_bytes())
    archive.file("lab/command", _script(command, environment, directory))
    archive.file("lab/settings", "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items())
                 .encode())
    for folder, paths in (("modules", modules), ("late", late)):
        for number, module in enumerate(paths):  # their order is that of their names
            archive.file(f"lab/{folder}/{number:02}-{module.name}", module.read_bytes(), 0o644)
    for source, name in files:
        source = pathlib.Path(source)
        archive.file(name.lstrip("/"), source.read_bytes(), stat.S_IMODE(source.stat().st_mode))
    return archive.bytes()
