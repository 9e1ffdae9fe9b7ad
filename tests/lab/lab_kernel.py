# SPDX-License-Identifier: Apache-2.0
"""The lab host's kernel: Debian's cloud kernel with its modules, or a tuned one without, kept in a cache directory."""
import dataclasses
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("KILN_LAB_CACHE", TOP / "build/lab"))
PACKAGE = "linux-image-cloud-amd64"
TUNED = CACHE / "tuned/vmlinux"

# Loaded by the lab's init, each after what it needs; the host's `modprobe` loads the others when they are asked for.
PORT_MODULES = ("virtio_pci", "virtio_console")
SHARE_MODULES = ("virtiofs", "overlay", "kvm_amd")
# For a lab without the host's files, where there is no modprobe.
ALONE_MODULES = ("kvm_amd", "tun", "vsock", "loop", "erofs", "overlay", "fuse")


class KernelError(Exception):
    """Says which kernel cannot be had, and why."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    image: pathlib.Path  # a bzImage or an ELF file
    modules: pathlib.Path | None = None  # …/lib/modules/RELEASE with depmod's files; None: all is built in

    def module_files(self, names):
        """Paths of the named modules and of all that they need, in the order to load them."""
        if self.modules is None:
            return []
        needs, built_in = {}, set()
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, _, rest = line.partition(":")
            needs[_name(path)] = (path, rest.split())
        for line in (self.modules / "modules.builtin").read_text().splitlines():
            built_in.add(_name(line))
        found = {}
        for name in names:
            if name in built_in:
                continue
            if name not in needs:
                raise KernelError(f"kernel module `{name}`: not in `{self.modules}`")
            path, before = needs[name]
            # modules.dep(5): "listed … in the reverse order of loading".
            for module in [*reversed(before), path]:
                found[module] = self.modules / module
        return list(found.values())


def _name(path):
    return pathlib.PurePath(path).name.split(".", 1)[0].replace("-", "_")


def _run(command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", **options)
    if done.returncode != 0:
        raise KernelError(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def _package():
    """The kernel's .deb: the one that the guest image was made of, or one fetched now."""
    guest_cache = TOP / "build/guest-cache"
    for directory in (guest_cache, CACHE):
        record = directory / f"{PACKAGE}.current"
        if record.exists() and (directory / record.read_text().strip()).exists():
            return directory / record.read_text().strip()
    depends = _run(["apt-cache", "depends", "--important", PACKAGE])
    real = re.search(r"Depends: (linux-image-\S+)", depends)
    if real is None:
        raise KernelError(f"package `{PACKAGE}` names no kernel")
    with tempfile.TemporaryDirectory(prefix=".download-", dir=CACHE) as directory:
        os.chmod(directory, 0o755)  # apt fetches as an unprivileged user where it can
        # apt itself checks the file against the signed lists.
        _run(["apt-get", "download", "-q", real[1]], cwd=directory)
        file = next(pathlib.Path(directory).glob("*.deb"))
        file.rename(CACHE / file.name)
        (CACHE / f"{PACKAGE}.current").write_text(file.name + "\n")
    return CACHE / file.name


def _unpack(package):
    """Unpacked below the cache, once; the kernels of former packages go."""
    target = CACHE / "cloud"
    stamp = target / "package"
    if stamp.exists() and stamp.read_text() == package.name:
        return target
    if shutil.which("depmod") is None:
        raise KernelError("`depmod` is missing: apt-get install kmod")
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=CACHE) as directory:
        new = pathlib.Path(directory, "cloud")
        _run(["dpkg-deb", "--extract", str(package), str(new)])
        release = next((new / "lib/modules").iterdir()).name
        _run(["depmod", "-b", str(new), release])
        (new / "package").write_text(package.name)
        os.chmod(new, 0o755)
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
    return target


def cloud():
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = _unpack(_package())
    return Kernel(next((directory / "boot").glob("vmlinuz-*")), next((directory / "lib/modules").iterdir()))


def find(name="auto"):
    """`cloud`, `tuned`, `auto` (tuned where one was built) or the path of a kernel without modules."""
    if name == "auto":
        name = "tuned" if TUNED.exists() else "cloud"
    if name == "cloud":
        return cloud()
    path = TUNED if name == "tuned" else pathlib.Path(name)
    if not path.is_file():
        hint = ": build it with tests/lab/build_kernel.py" if name == "tuned" else ""
        raise KernelError(f"no kernel at `{path}`{hint}")
    return Kernel(path)
