# SPDX-License-Identifier: Apache-2.0
"""What the processes of a running machine have given up, as the host sees it."""
import ctypes
import os
import pathlib
import signal
import subprocess

import pytest

from conftest import BACKEND, kiln_only

pytestmark = kiln_only

PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_ATTACH, PTRACE_DETACH = 12, 13, 16, 17
# Of struct user_regs_struct (sys/user.h), in 64-bit words.
RAX, ORIG_RAX, RIP, WORDS = 10, 15, 16, 27
SYS_GETPPID = 110
SYSCALL_SIZE = 2
WALL = 0x40000000  # wait4(2): __WALL


@pytest.fixture(scope="module")
def fs(shared, sleeper):
    return shared.helpers(shared.state(sleeper)["pid"])["fs"]


def status_of(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, value in (line.split(":", 1) for line in lines)}


def namespace(pid, name):
    return os.readlink(f"/proc/{pid}/ns/{name}")


def test_fs_server_has_namespaces_of_its_own(fs):
    for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert namespace(fs, name) != namespace("self", name), name
    assert status_of(fs)["NSpid"] == [str(fs), "1"]


def test_fs_server_has_eight_capabilities_and_gains_none(fs):
    status = status_of(fs)
    assert status["CapPrm"] == ["00000000880000db"]
    assert status["CapBnd"] == status["CapInh"] == status["CapAmb"] == ["0" * 16]
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"] and status["Seccomp_filters"] == ["1"]


def test_fs_server_has_no_files_but_its_descriptors(fs):
    root = pathlib.Path(f"/proc/{fs}/root")
    assert os.listdir(root) == ["proc"] and os.listdir(root / "proc") == ["self"]
    assert os.listdir(root / "proc/self") == ["fd"]
    mounts = pathlib.Path(f"/proc/{fs}/mountinfo").read_text().splitlines()
    assert [line.split()[4] for line in mounts] == ["/", "/proc/self/fd"]
    assert all(line.split()[5].startswith("ro,nosuid,nodev,noexec") for line in mounts)


def thread_named(pid, name):
    return next(int(task.name) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
                if (task / "comm").read_text() == name + "\n")


def make_it_call(pid, number):
    """Has the process, which waits in a system call, make another one as soon as it is let go."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def ask(request, data=None):
        if ptrace(request, pid, None, data) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    registers = (ctypes.c_uint64 * WORDS)()
    ask(PTRACE_ATTACH)
    os.waitpid(pid, WALL)  # one of several threads, perhaps
    ask(PTRACE_GETREGS, ctypes.addressof(registers))
    registers[RIP] -= SYSCALL_SIZE
    registers[RAX], registers[ORIG_RAX] = number, 2**64 - 1  # no restart of the one it waits in
    ask(PTRACE_SETREGS, ctypes.addressof(registers))
    ask(PTRACE_DETACH)


@pytest.fixture
def logged(kiln):
    """A running container and the log of its monitor."""
    container, log = kiln.new_id(), kiln.directory / "log"
    kiln("--log", log, "run", "--detach", "--bundle", kiln.bundle(["sleep", "1000"]), container, check=True,
         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return container, log


# Each kind of thread has a table of its own.
@pytest.mark.parametrize("process, thread", [("fs", "kiln-vmm"), *(
    ("vm", name) for name in ("kiln-vmm", "device", "vcpu0") if BACKEND == "kvm")])
def test_forbidden_system_call_ends_the_container_and_is_named(kiln, logged, process, thread):
    container, log = logged
    pid = kiln.helpers(kiln.state(container)["pid"])[process]
    make_it_call(thread_named(pid, thread), SYS_GETPPID)
    kiln.wait_status(container, "stopped")
    name = {"fs": "kiln-vmm fs", "vm": "kiln-vmm"}[process]
    assert f"{name} made a system call that its filter forbids (SIGSYS" in log.read_text()


def test_killed_fs_server_ends_the_container_and_is_named(kiln, logged):
    container, log = logged
    os.kill(kiln.helpers(kiln.state(container)["pid"])["fs"], signal.SIGKILL)
    kiln.wait_status(container, "stopped")
    assert "the file-system server has died: kiln-vmm fs was killed by signal 9" in log.read_text()
