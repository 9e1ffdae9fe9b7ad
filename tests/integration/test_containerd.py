# SPDX-License-Identifier: Apache-2.0
"""containerd's `ctr`, with its runc shim that runs kiln, and with kiln's own shim."""
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BOOT_ID, cgroups_named, kiln_only
from engines.containerd import CONTAINERD, CTR, SHIM, Containerd, ShimContainerd
from engines.engine import eventually, need, settles
from engines.terminal import Terminal
from engines.usage import usage

need(CONTAINERD, CTR, SHIM)


@pytest.fixture(scope="module", params=[Containerd, pytest.param(ShimContainerd, marks=kiln_only)],
                ids=["runc-shim", "kiln-shim"])
def containerd(request, tmp_path_factory, busybox_rootfs):
    engine = request.param(tmp_path_factory.mktemp("containerd"), busybox_rootfs)
    yield engine
    engine.close()


SERVICE = "trap 'echo terminated; exit 3' TERM; echo started; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def service(containerd):
    """The name of a running container; its output goes to a file."""
    name = containerd.new_name()
    containerd.run("--detach", "--log-uri", f"file://{containerd.directory}/service.log", containerd.image, name, "sh", "-c",
                   SERVICE)
    # Before its trap it ignores SIGTERM, as process 1.
    eventually(lambda: (containerd.directory / "service.log").read_text() == "started\n")
    return name


def test_run_to_its_end(containerd):
    name = containerd.new_name()
    done = containerd.run("--rm", "--env", "WORD=spoken", "--cwd", "/tmp", containerd.image, name, "sh", "-c",
                          "read word; echo $word; echo $OF $WORD $(pwd); cat /proc/sys/kernel/random/boot_id; echo bad >&2; exit 7",
                          check=False, input="typed\n")
    *lines, boot_id = done.stdout.splitlines()
    assert (done.returncode, lines, done.stderr) == (7, ["typed", "image spoken /tmp"], "bad\n")
    assert boot_id != BOOT_ID
    assert name not in containerd("container", "list", "--quiet")


@pytest.mark.parametrize("command, words", [("/no/such/program", "no such file or directory"),
                                            ("/etc/passwd", "permission denied")])
def test_a_command_that_cannot_run(containerd, command, words):
    done = containerd.run("--rm", containerd.image, containerd.new_name(), command, check=False)
    assert done.returncode == 1 and words in done.stderr.lower(), done.stderr


def test_a_terminal(containerd):
    terminal = Terminal(containerd.enter(*containerd.command(
        "run", *containerd.run_flags(), "--rm", "--tty", containerd.image, containerd.new_name(), "sh")),
        containerd.environment)
    terminal.expect("# ")
    terminal.type("tty; read word; echo got:$word; stty size; exit 5\n")
    terminal.expect("/dev/pts/0")
    terminal.type("hello\n")
    terminal.expect("got:hello")
    assert terminal.wait() == 5
    assert "33 77" in terminal.text


def test_mounts_limits_and_a_read_only_root(containerd):
    shared = containerd.directory / "shared"
    shared.mkdir()
    (shared / "file").write_text("of the host\n")
    done = containerd.run(
        "--rm", "--read-only", "--memory-limit", str(96 << 20), "--cpus", "0.5", "--cap-drop", "CAP_CHOWN",
        "--mount", f"type=bind,src={shared},dst=/tmp,options=rbind:rw", containerd.image, containerd.new_name(), "sh", "-c",
        "cat /tmp/file; echo back > /tmp/answer; echo > /file; grep CapEff /proc/self/status", check=False)
    assert done.returncode == 0 and "Read-only file system" in done.stderr
    first, _, effective = done.stdout.split("\n", 1)[0], *done.stdout.split()[-2:]
    assert first == "of the host" and int(effective, 16) & 1 == 0 and int(effective, 16) != 0
    assert (shared / "answer").read_text() == "back\n"


def test_its_list_and_process_say_that_it_runs(containerd, service):
    listed = re.search(rf"^{service}\s+(\d+)\s+(\w+)$", containerd("task", "list"), re.M)
    assert listed[2] == "RUNNING" and os.path.exists(f"/proc/{listed[1]}")


def test_exec_and_its_code(containerd, service):
    done = containerd("task", "exec", "--exec-id", "e1", "--cwd", "/tmp", "--user", "1000", service, "sh", "-c",
                      "cat; id -u; pwd; exit 9", check=False, input="in\n")
    assert (done.returncode, done.stdout) == (9, "in\n1000\n/tmp\n"), done.stderr


def test_exec_on_a_terminal(containerd, service):
    terminal = Terminal(containerd.enter(*containerd.command("task", "exec", "--exec-id", "e2", "--tty", service, "sh")),
                        containerd.environment)
    terminal.expect("# ")
    terminal.type("tty; exit 6\n")
    terminal.expect("/dev/pts/")
    assert terminal.wait() == 6


def test_pause_and_resume(containerd, service):
    def status():
        return re.search(rf"^{service}\s+\d+\s+(\w+)$", containerd("task", "list"), re.M)[1]
    containerd("task", "pause", service)
    assert status() == "PAUSED"
    containerd("task", "resume", service)
    assert status() == "RUNNING"


def test_kill_ends_it_with_its_own_code_and_start_starts_it_again(containerd, service):
    containerd("task", "kill", "--signal", "SIGTERM", service)
    eventually(lambda: "STOPPED" in containerd("task", "list"))
    log = containerd.directory / "service.log"
    eventually(lambda: log.read_text() == "started\nterminated\n")
    assert "non-zero exit code 3" in containerd("task", "delete", service, check=False).stderr
    containerd("task", "start", "--detach", "--log-uri", f"file://{log}", service)
    assert containerd("task", "exec", "--exec-id", "e3", service, "echo", "again") == "again"
    containerd("task", "kill", "--signal", str(int(signal.SIGKILL)), service)
    eventually(lambda: "STOPPED" in containerd("task", "list"))
    assert "non-zero exit code 137" in containerd("task", "delete", service, check=False).stderr
    containerd("container", "delete", service)


@kiln_only
def test_the_hosts_network_is_refused(containerd):
    name = containerd.new_name()
    done = containerd.run("--rm", "--net-host", containerd.image, name, "true", check=False)
    assert done.returncode == 1
    assert "network" in done.stderr and "namespace" in done.stderr, done.stderr
    assert name not in containerd("task", "list")


@kiln_only
def test_containers_come_and_go_and_leave_nothing(containerd):
    def one(number):
        done = containerd.run("--rm", containerd.image, containerd.new_name(f"n{number}-"), "sh", "-c",
                              f"echo {number}; exit {number}", check=False)
        assert (done.returncode, done.stdout) == (number, f"{number}\n"), done.stderr

    def present():
        return {"processes": len(containerd.processes()), "mounts": containerd.mounts(),
                "cgroups": len(cgroups_named(containerd.mark)), "sockets": len(os.listdir(containerd.path("/run/containerd/s"))),
                "states": [os.listdir(directory) for directory in containerd.state_directories()]}

    one(1)  # what there is once and for all
    before = eventually(lambda: present() if len(containerd.processes()) == 1 else None)
    descriptors = usage(containerd.daemon.pid)[0]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(1, 9)))
    settles(present, before)
    eventually(lambda: usage(containerd.daemon.pid)[0] <= descriptors)
