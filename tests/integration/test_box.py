# SPDX-License-Identifier: Apache-2.0
"""kiln box: a command in a throw-away microVM that sees the host's files and cannot change them."""
import os
import pathlib
import pty
import subprocess
import time

import pytest

from conftest import BOOT_ID, deadline_in, kiln_only
from test_stdio import Terminal

pytestmark = kiln_only


@pytest.fixture(scope="module")
def first(shared):
    """One box that looks at everything a box has by default."""
    script = """
        echo "boot $(cat /proc/sys/kernel/random/boot_id)"; echo "host $(hostname)"; echo "user $(id -u)"; echo "cwd $(pwd)"
        echo "root $(findmnt -no FSTYPE / 2>/dev/null || awk '$5 == "/" {print $0}' /proc/self/mountinfo)"
        echo "mark ${KILN_TEST_MARK-unset}"; echo "home $HOME"
        echo "nics $(ls /sys/class/net | tr '\\n' ' ')"
        touch /etc/made-in-the-box && rm -f /etc/hostname && echo changed > /etc/passwd && echo "wrote yes"
        ls /etc/made-in-the-box; mkdir /new && echo "mkdir yes"
        echo "run $(ls -A /run | wc -l)"
        cat; exit 37
    """
    return shared("box", "--", "/bin/sh", "-c", script, input="through\n")


def field(result, name):
    return next(line[len(name) + 1:] for line in result.stdout.splitlines() if line.startswith(name + " "))


def test_code_and_streams(first):
    assert first.returncode == 37, first.stderr
    assert first.stdout.endswith("through\n")
    assert first.stderr == ""


def test_its_own_kernel_and_name(first):
    assert field(first, "boot") != BOOT_ID
    assert field(first, "host") == "box" and field(first, "user") == "0"


def test_writes_stay_in_the_guest_s_memory(first):
    assert field(first, "wrote") == "yes" and field(first, "mkdir") == "yes"
    assert "/etc/made-in-the-box\n" in first.stdout
    assert not os.path.exists("/etc/made-in-the-box") and not os.path.exists("/new")
    assert os.path.exists("/etc/hostname") and pathlib.Path("/etc/passwd").read_text().startswith("root:")


def test_no_network_but_loopback(first):
    assert field(first, "nics").split() == ["lo"]


def test_environment_is_clean(first):
    assert field(first, "mark") == "unset" and field(first, "home") == os.environ.get("HOME", "/root")


def test_runs_where_the_caller_is(first):
    assert field(first, "cwd") == os.getcwd()


def test_shares_env_workdir_and_size(kiln):
    """--rw, --ro, each with and without DST, --env in both forms, --workdir, --cpus, --memory: in one machine."""
    for name in ("rw", "rw2", "ro", "ro2"):
        (kiln.directory / name).mkdir()
        (kiln.directory / name / "file").write_text(f"{name}\n")
    script = f"""
        pwd; echo $A; echo $KILN_TEST_MARK; nproc; awk '/MemTotal/ {{print $2}}' /proc/meminfo
        cat {kiln.directory}/rw/file /mnt/file {kiln.directory}/ro/file /media/file
        echo new > {kiln.directory}/rw/new; echo new > /mnt/new
        touch {kiln.directory}/ro/x 2>/dev/null && echo BAD; touch /media/x 2>/dev/null && echo BAD
        true
    """
    result = kiln("box", "--rw", kiln.directory / "rw", "--rw", f"{kiln.directory}/rw2:/mnt", "--ro",
                  kiln.directory / "ro", "--ro", f"{kiln.directory}/ro2:/media", "--env", "A=two words", "--env",
                  "KILN_TEST_MARK", "--workdir", "/usr", "--cpus", "2", "--memory", "320M", "--", "/bin/sh", "-c", script)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:4] == ["/usr", "two words", kiln.mark, "2"]
    assert 200_000 < int(lines[4]) < 320 * 1024
    assert lines[5:] == ["rw", "rw2", "ro", "ro2"]
    assert (kiln.directory / "rw/new").read_text() == "new\n" and (kiln.directory / "rw2/new").read_text() == "new\n"
    assert os.listdir(kiln.directory / "ro") == ["file"] and os.listdir(kiln.directory / "ro2") == ["file"]
    kiln.assert_clean()


def test_rootfs(kiln, busybox_rootfs):
    before = sorted(str(path) for path in busybox_rootfs.rglob("*"))
    result = kiln("box", "--rootfs", busybox_rootfs, "--", "/bin/sh", "-c",
                  "touch /made; ls /; pwd; readlink -f /bin/sh; mkdir -p /a/b; echo x > /etc/passwd; rm -r /home")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "made" in lines and lines[-2:] == ["/", "/bin/busybox"]
    assert sorted(str(path) for path in busybox_rootfs.rglob("*")) == before
    assert (busybox_rootfs / "etc/passwd").read_text().startswith("root:")
    kiln.assert_clean()


def test_terminal(kiln, busybox_rootfs):
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe(kiln.command()[0], kiln.command("box", "-t", "--rootfs", str(busybox_rootfs), "--", "/bin/sh"),
                   kiln.environment)
    terminal = Terminal(master)
    terminal.resize(30, 90)
    terminal.expect("# ")
    terminal.send("tty; test -t 0 && echo is'-a-'tty\n")
    terminal.expect("is-a-tty")
    terminal.send("exit 6\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    kiln.assert_clean()


def test_a_signal_ends_the_box(kiln, busybox_rootfs):
    process = kiln.start_background("box", "--rootfs", busybox_rootfs, "--", "/bin/sh", "-c",
                                    "trap 'exit 44' TERM; echo up; while :; do sleep 0.1; done",
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    process.terminate()
    assert process.wait(timeout=60) == 44
    kiln.assert_clean()


def test_a_killed_box_takes_its_machine_with_it(kiln, busybox_rootfs):
    process = kiln.start_background("box", "--rootfs", busybox_rootfs, "--", "/bin/sh", "-c", "echo up; sleep 1000",
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    process.kill()
    process.wait()
    deadline = deadline_in(60)
    while kiln.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert kiln.processes() == {}
    left = kiln("list", "-q", check=True).stdout.split()
    for name in left:
        assert kiln("delete", "--force", name).returncode == 0
    kiln.assert_clean()


@pytest.mark.parametrize("words, code, text", [
    (["--", "/bin/sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
    (["--", "nosuchprogram"], 127, "nosuchprogram"),
    (["--", "/etc/passwd"], 126, "/etc/passwd"),
], ids=["killed", "not found", "not executable"])
def test_how_a_command_ends(kiln, busybox_rootfs, words, code, text):
    result = kiln("box", "--rootfs", busybox_rootfs, *words)
    assert result.returncode == code, result.stderr
    assert text in result.stderr
    kiln.assert_clean()


@pytest.mark.parametrize("words, text", [
    ([], "a command is missing"),
    (["--rw", "/nonexistent/dir", "--", "true"], "--rw `/nonexistent/dir`"),
    (["--ro", "/usr:relative", "--", "true"], "absolute path"),
    (["--rootfs", "/nonexistent/root", "--", "true"], "--rootfs"),
    (["--memory", "lots", "--", "true"], "--memory: must be a size"),
    (["--memory", "1M", "--", "true"], "memory"),
    (["--cpus", "0.5.5", "--", "true"], "cpus"),
    (["--cpus", "1000", "--", "true"], "--cpus"),
    (["--vmm", "xen", "--", "true"], "--vmm"),
    (["--no-such-flag", "--", "true"], "no-such-flag"),
])
def test_bad_words(shared, words, text):
    result = shared("box", *words)
    assert result.returncode == 125, result.stderr
    assert text in result.stderr
    shared.assert_clean()
