# SPDX-License-Identifier: Apache-2.0
"""Fixtures that drive the real `kiln` binary on real bundles.

KILN_TEST_BUILD names the build directory (default: build). KILN_TEST_RUNTIME may name another OCI runtime: most
tests then check that runtime's behaviour, which is how their expectations were compared with runc's.
KILN_TEST_BACKEND names kiln's backend (default: qemu). KILN_TEST_SLOWDOWN multiplies every time-out, for hosts that
are emulated themselves: tests/lab.
"""
import copy
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import uuid

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("KILN_TEST_BUILD", TOP / "build")).resolve()
RUNTIME = os.environ.get("KILN_TEST_RUNTIME", str(BUILD / "kiln"))
IS_KILN = pathlib.Path(RUNTIME).name == "kiln"

kiln_only = pytest.mark.skipif(not IS_KILN, reason="checks what only kiln does")

BACKEND = os.environ.get("KILN_TEST_BACKEND", "qemu")
VCPUS = os.environ.get("KILN_TEST_VCPUS")  # of a machine; the default is kiln's
SLOWDOWN = float(os.environ.get("KILN_TEST_SLOWDOWN", "1"))

BUSYBOX = "/bin/busybox"

# Another kernel than this one, even if it is of the same release.
BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()

# A test that hangs fails by itself and says where, instead of taking the whole run with it.
TEST_SECONDS = round(300 * SLOWDOWN) + int(os.environ.get("KILN_SOAK_SECONDS", "0"))
BOOT_SECONDS = round(60 * SLOWDOWN)


class PatientPopen(subprocess.Popen):
    """Waits SLOWDOWN times as long as it is told, for all tests and for subprocess.run."""

    def communicate(self, input=None, timeout=None):  # pylint: disable=redefined-builtin
        return super().communicate(input, timeout and timeout * SLOWDOWN)

    def wait(self, timeout=None):
        return super().wait(timeout and timeout * SLOWDOWN)


if SLOWDOWN != 1:
    subprocess.Popen = PatientPopen


def deadline_in(seconds):
    """By time.monotonic(), on a host of this speed."""
    return time.monotonic() + seconds * SLOWDOWN


class TestTimeout(Exception):
    __test__ = False  # of pytest: no test class


@pytest.fixture(autouse=True)
def bounded_time():
    def expire(_signal, _frame):
        raise TestTimeout(f"not done after {TEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory):
    """A root file system made of Debian's static busybox."""
    root = tmp_path_factory.mktemp("rootfs") / "busybox"
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "home/user"]:
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in subprocess.check_output([BUSYBOX, "--list"], text=True).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    os.chmod(root / "tmp", 0o1777)
    os.chown(root / "home/user", 1000, 1000)
    return root


def cgroups_named(part):
    """Directories below the cgroup mounts whose names hold `part`."""
    out = subprocess.run(["find", "/sys/fs/cgroup", "-type", "d", "-name", f"*{part}*"], stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True, check=False).stdout
    return out.splitlines()


def read_command(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def descendants(pid):
    """Every process below `pid`, parents first."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    out, level = [], [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        out += level
    return out


def orphans(directory):
    """{pid: command line} of VMMs that this build or `directory` has the programs or guest of, left without a parent.

    They carry no mark: kiln gives them an empty environment.
    """
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        command = read_command(entry.name)
        name = command.split(" ")[0]
        if not (name.endswith("kiln-vmm") or "qemu-system" in name):
            continue
        try:
            program = os.readlink(entry / "exe")
            state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        ours = program.startswith(str(BUILD)) or str(BUILD) in command or directory in command
        if ours and state != "Z" and parent == "1":
            found[int(entry.name)] = command
    return found


class Runtime:
    """One state directory, and everything that a test starts in it."""

    def __init__(self, directory, rootfs):
        self.directory = pathlib.Path(directory)
        self.root = self.directory / "state"
        self.rootfs_template = rootfs
        self.mark = "kiln-test-" + uuid.uuid4().hex
        self.config = self.directory / "kiln.yaml"
        # By name: no word on what auto picked.
        boot = f"guest:\n  boot_timeout: {BOOT_SECONDS}\n" if SLOWDOWN != 1 else ""
        vcpus = f"  vcpus: {VCPUS}\n" if VCPUS else ""
        self.config.write_text(f"backend: {BACKEND}\n{boot}machine:\n  memory: 256M\n{vcpus}")
        self.counter = 0
        self.background = []

    @property
    def environment(self):
        return {**os.environ, "KILN_TEST_MARK": self.mark}

    def command(self, *args):
        own = ["--config", str(self.config)] if IS_KILN else []
        return [RUNTIME, *own, "--root", str(self.root), *map(str, args)]

    def __call__(self, *args, check=False, timeout=120, **options):
        options.setdefault("stdin", subprocess.DEVNULL) if "input" not in options else None
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("text", True)
        result = subprocess.run(self.command(*args), timeout=timeout, env=self.environment, **options)
        if check and result.returncode != 0:
            raise AssertionError(f"{args}: exit {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    def start_background(self, *args, **options):
        process = subprocess.Popen(self.command(*args), env=self.environment, **options)
        self.background.append(process)
        return process

    def new_id(self, prefix="c"):
        self.counter += 1
        return f"{prefix}{self.counter}-{self.mark[-6:]}"

    def write_config(self, text):
        """Replaces the kiln.yaml that every command of this Runtime is given."""
        self.config.write_text(text)

    def default_spec(self):
        directory = self.directory / f"spec-{uuid.uuid4().hex}"
        directory.mkdir(parents=True)
        subprocess.run([RUNTIME, "spec"], cwd=directory, check=True)
        return json.loads((directory / "config.json").read_text())

    def bundle(self, args=("true",), patch=None, rootfs=None, terminal=False, writable=True):
        """A bundle directory whose process is `args`; `patch(spec)` changes the rest.

        The rootfs is a copy made of hard links, so that a test may write into it.
        """
        directory = self.directory / f"bundle-{uuid.uuid4().hex[:8]}"
        directory.mkdir(parents=True)
        spec = self.default_spec()
        spec["process"]["args"] = list(args)
        spec["process"]["terminal"] = terminal
        spec["root"]["readonly"] = not writable
        if rootfs is None:
            subprocess.run(["cp", "-al", str(self.rootfs_template), str(directory / "rootfs")], check=True)
        else:
            spec["root"]["path"] = str(rootfs)
        if patch is not None:
            patch(spec)
        (directory / "config.json").write_text(json.dumps(spec))
        return directory

    def run(self, args, patch=None, keep=False, **options):
        """`kiln run` of a fresh bundle to its end; the completed process."""
        bundle_options = {k: options.pop(k) for k in ("rootfs", "writable", "terminal") if k in options}
        bundle = self.bundle(args, patch, **bundle_options)
        flags = ["--keep"] if keep else []
        return self("run", *flags, "--bundle", bundle, options.pop("id", self.new_id()), **options)

    def sh(self, script, patch=None, check=True, **options):
        """Output of a shell script in a container of its own."""
        result = self.run(["/bin/sh", "-c", script], patch, **options)
        if check and result.returncode != 0:
            raise AssertionError(f"exit {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def start_sleeper(self, patch=None, args=("sleep", "1000"), **options):
        """A detached running container for tests that exec into it; its id."""
        container = self.new_id()
        bundle = self.bundle(args, patch, **options)
        with open(self.directory / f"{container}.log", "wb") as log:
            self("run", "--detach", "--bundle", bundle, container, check=True, stdout=log, stderr=log)
        return container

    def state(self, container):
        return json.loads(self("state", container, check=True).stdout)

    def wait_status(self, container, status, timeout=60):
        deadline = deadline_in(timeout)
        while time.monotonic() < deadline:
            if self.state(container)["status"] == status:
                return
            time.sleep(0.05)
        raise AssertionError(f"{container} is {self.state(container)['status']}, not {status}")

    # -- what must not be left behind

    def processes(self):
        """{pid: command line} of everything that carries this test's mark."""
        found = {}
        needle = f"KILN_TEST_MARK={self.mark}".encode()
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if needle in (entry / "environ").read_bytes() or str(self.root).encode() in (
                        entry / "cmdline").read_bytes():
                    state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                    if state != "Z" and int(entry.name) != os.getpid():
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def leftovers(self):
        running = {**self.processes(), **orphans(str(self.directory))}
        left = [f"process {pid}: {command}" for pid, command in running.items()]
        mounts = pathlib.Path("/proc/self/mountinfo").read_text()
        left += [f"mount: {line}" for line in mounts.splitlines() if str(self.directory) in line]
        sockets = pathlib.Path("/proc/net/unix").read_text()
        left += [f"socket: {line}" for line in sockets.splitlines() if str(self.root) in line]
        left += [f"cgroup: {path}" for path in cgroups_named(self.mark[-6:])]
        if self.root.exists():
            left += [f"file: {path}" for path in self.root.rglob("*")]
        return left

    def helpers(self, pid):
        """{"fs", "vm", "qemu": pid} of what runs below a monitor."""
        found = {}
        for child in descendants(pid):
            command = read_command(child)
            if "qemu" in command.split(" ")[0]:
                found["qemu"] = child
            elif " fs" in command:
                found.setdefault("fs", child)
            elif " run" in command:
                found.setdefault("vm", child)
        return found

    def assert_clean(self, timeout=10):
        deadline = deadline_in(timeout)
        while self.leftovers() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.leftovers() == []

    def close(self):
        for process in self.background:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self.root.exists():
            for entry in list(self.root.iterdir()):
                if entry.is_dir():
                    self("delete", "--force", entry.name)
        deadline = deadline_in(10)
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        left = self.processes()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        assert left == {}, "processes left behind"


@pytest.fixture
def kiln(tmp_path, busybox_rootfs):
    runtime = Runtime(tmp_path, busybox_rootfs)
    yield runtime
    runtime.close()
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, busybox_rootfs):
    """A Runtime for a whole module, for tests that exec into one container instead of booting their own."""
    runtime = Runtime(tmp_path_factory.mktemp("shared"), busybox_rootfs)
    yield runtime
    runtime.close()


@pytest.fixture(scope="module")
def sleeper(shared):
    """A running container of the default spec; its id."""
    return shared.start_sleeper()


def mount_of(spec, destination):
    return next(mount for mount in spec["mounts"] if mount["destination"] == destination)


def all_capabilities(spec, names):
    for kind in ("bounding", "effective", "inheritable", "permitted", "ambient"):
        spec["process"]["capabilities"][kind] = copy.copy(names)
