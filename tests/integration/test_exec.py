# SPDX-License-Identifier: Apache-2.0
"""exec: a process more in a running container, as a user of runc expects it."""
import array
import json
import os
import re
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import SLOWDOWN, deadline_in, kiln_only


def wait_for(condition, what, timeout=60):
    deadline = deadline_in(timeout)
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def run_in(shared, sleeper):
    """run_in(*flags, "--", *command): `exec` into the module's container."""
    def call(*words, **options):
        split = words.index("--")
        return shared("exec", *words[:split], sleeper, *words[split + 1:], **options)
    return call


def test_streams_and_code(run_in):
    result = run_in("--", "/bin/sh", "-c", "cat; echo err >&2; exit 9", input="in\n")
    assert (result.returncode, result.stdout, result.stderr) == (9, "in\n", "err\n")


def test_streams_carry_bytes_as_they_are(run_in):
    data = bytes(range(256)) * 4096
    assert run_in("--", "cat", input=data, text=False).stdout == data


def test_closed_standard_streams(shared, sleeper):
    """Engines may close them; the process still runs and its code comes back."""
    command = " ".join(f"'{word}'" for word in shared.command("exec", sleeper, "/bin/sh", "-c", "exit 5"))
    result = subprocess.run(["/bin/sh", "-c", f"{command} <&- >&- 2>&-"], env=shared.environment, timeout=60)
    assert result.returncode == 5


def test_cwd(run_in):
    assert run_in("--cwd", "/home/user", "--", "pwd", check=True).stdout == "/home/user\n"


def test_environment_is_the_container_s_with_additions(run_in):
    lines = run_in("--env", "A=1", "--env", "B=two words", "--", "env", check=True).stdout.splitlines()
    assert {"A=1", "B=two words", "TERM=xterm"} <= set(lines)
    assert any(line.startswith("PATH=") for line in lines)
    assert not any(line.startswith("KILN_TEST_MARK") for line in lines)


@pytest.mark.parametrize("user, expected", [("1000", "1000 0"), ("1000:1001", "1000 1001"), ("0:5", "0 5")])
def test_user(run_in, user, expected):
    assert run_in("--user", user, "--", "/bin/sh", "-c", "echo $(id -u) $(id -g)",
                  check=True).stdout.strip() == expected


def test_additional_gids(run_in):
    out = run_in("-g", "5", "-g", "7", "-u", "1000:1000", "--", "id", "-G", check=True).stdout
    assert set(out.split()) == {"1000", "5", "7"}


def capabilities_of(text, field):
    return int(re.search(rf"^{field}:\s*([0-9a-f]+)$", text, re.M).group(1), 16)


def test_added_capability(run_in):
    sys_time = 1 << 25
    plain = run_in("--", "cat", "/proc/self/status", check=True).stdout
    assert not capabilities_of(plain, "CapEff") & sys_time
    added = run_in("--cap", "CAP_SYS_TIME", "--", "cat", "/proc/self/status", check=True).stdout
    assert capabilities_of(added, "CapEff") == capabilities_of(plain, "CapEff") | sys_time


@pytest.mark.parametrize("flags", [[], ["--no-new-privs"]])
def test_no_new_privs(shared, flags):
    container = shared.start_sleeper(lambda spec: spec["process"].update(noNewPrivileges=False)) \
        if not hasattr(shared, "without_nnp") else shared.without_nnp
    shared.without_nnp = container
    status = shared("exec", *flags, container, "cat", "/proc/self/status", check=True).stdout
    assert f"NoNewPrivs:\t{len(flags)}" in status


def process_file(kiln, **values):
    process = {"cwd": "/", "args": ["true"], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, **values}
    path = kiln.directory / f"process-{time.monotonic_ns()}.json"
    path.write_text(json.dumps(process))
    return path


def test_process_file(shared, sleeper):
    path = process_file(shared, cwd="/tmp", args=["/bin/sh", "-c", "pwd; id -u; id -g; id -G; env; ulimit -c"],
                        env=["PATH=/bin", "ONLY=this"],
                        user={"uid": 1000, "gid": 1001, "additionalGids": [7]},
                        rlimits=[{"type": "RLIMIT_CORE", "soft": 512, "hard": 1024}])
    lines = shared("exec", "--process", path, sleeper, check=True).stdout.splitlines()
    assert lines[:4] == ["/tmp", "1000", "1001", "1001 7"]
    assert "ONLY=this" in lines and "TERM=xterm" not in lines
    assert lines[-1] == "1"  # in blocks of 512 bytes


@kiln_only
def test_umask_of_a_process_file(shared, sleeper):
    path = process_file(shared, args=["/bin/sh", "-c", "umask"], user={"uid": 0, "gid": 0, "umask": 0o027})
    assert shared("exec", "--process", path, sleeper, check=True).stdout == "0027\n"


@kiln_only
def test_broken_process_file_names_the_field(shared, sleeper):
    path = process_file(shared, cwd="tmp")
    result = shared("exec", "--process", path, sleeper)
    assert result.returncode != 0
    assert "/cwd: must be an absolute path, is `tmp`" in result.stderr
    missing = shared("exec", "--process", "/nonexistent.json", sleeper)
    assert missing.returncode != 0 and "/nonexistent.json" in missing.stderr


def test_same_namespaces_and_cgroup_as_init(run_in):
    script = "for n in mnt pid uts ipc net; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done; " \
             "cat /proc/1/cgroup | md5sum; cat /proc/self/cgroup | md5sum"
    lines = run_in("--", "/bin/sh", "-c", script, check=True).stdout.splitlines()
    assert len(lines) == 12
    assert lines[0::2] == lines[1::2]


def test_no_inherited_descriptors(run_in):
    assert set(run_in("--", "ls", "/proc/self/fd", check=True).stdout.split()) == {"0", "1", "2", "3"}


def test_sees_what_another_exec_wrote(run_in):
    run_in("--", "/bin/sh", "-c", "echo data > /tmp/between; mkdir /dev/shm/d", check=True)
    assert run_in("--", "/bin/sh", "-c", "cat /tmp/between; ls /dev/shm", check=True).stdout == "data\nd\n"


@pytest.mark.parametrize("command, text", [
    (["nosuchprogram"], 'exec: "nosuchprogram": executable file not found in $path'),
    (["/bin/nosuch"], 'exec: "/bin/nosuch": '),
    (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
])
def test_programs_that_cannot_run(run_in, command, text):
    result = run_in("--", *command)
    assert result.returncode == 255
    assert text in result.stderr.replace('\\"', '"').lower()


def test_cwd_that_is_not_there(run_in):
    result = run_in("--cwd", "/nonexistent/cwd", "--", "true")
    assert result.returncode in (0, 255)  # made, as for the container's own, or refused by name
    assert result.returncode == 0 or "/nonexistent/cwd" in result.stderr


def test_detached_process_goes_on(shared, sleeper):
    pid_file = shared.directory / "exec.pid"
    began = time.monotonic()
    shared("exec", "--detach", "--pid-file", pid_file, sleeper, "/bin/sh", "-c",
           "echo started > /tmp/detached; while [ ! -e /tmp/stop ]; do sleep 0.05; done; echo ended > /tmp/detached",
           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert time.monotonic() - began < 240 * SLOWDOWN
    pid = int(pid_file.read_text())
    os.kill(pid, 0)
    wait_for(lambda: shared("exec", sleeper, "cat", "/tmp/detached").stdout == "started\n", "sign of life")
    assert len(json.loads(shared("ps", "-f", "json", sleeper, check=True).stdout)) >= 2
    shared("exec", sleeper, "touch", "/tmp/stop", check=True)
    wait_for(lambda: shared("exec", sleeper, "cat", "/tmp/detached").stdout == "ended\n", "end")

    def gone():
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True
    wait_for(gone, "end of the pid that the engine watches")


def test_the_pid_of_a_detached_process_ends_with_its_code(shared, sleeper):
    """An engine waits for the pid in the pid file, as its child subreaper."""
    pid_file = shared.directory / "code.pid"
    script = f"""
import ctypes, os, subprocess
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.run({shared.command("exec", "-d", "--pid-file", pid_file, sleeper, "/bin/sh", "-c", "sleep 0.3; exit 37")!r},
               check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(os.waitstatus_to_exitcode(os.waitpid(int(open({str(pid_file)!r}).read()), 0)[1]))
"""
    result = subprocess.run(["/usr/bin/python3", "-c", script], env=shared.environment, timeout=120,
                            stdout=subprocess.PIPE, text=True, check=True)
    assert result.stdout.strip() == "37"


def test_pid_file_of_an_attended_process(shared, sleeper):
    pid_file = shared.directory / "attended.pid"
    process = shared.start_background("exec", "--pid-file", pid_file, sleeper, "/bin/sh", "-c", "read x; exit 3",
                                      stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for(pid_file.exists, "pid file")
    wait_for(lambda: pid_file.read_text() != "", "pid")
    os.kill(int(pid_file.read_text()), 0)
    process.communicate(b"go\n", timeout=60)
    assert process.returncode == 3


def test_detached_terminal_goes_to_the_console_socket(shared, sleeper):
    path = shared.directory / "exec-console.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(60)
    client = shared.start_background("exec", "--tty", "--detach", "--console-socket", path, sleeper, "/bin/sh", "-c",
                                     "tty; read line; echo got $line", stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    connection, _ = listener.accept()
    fds = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_LEN(fds.itemsize))
    fds.frombytes(ancillary[0][2][:fds.itemsize])
    # To the end of its output: engines read it before they go on, and the process keeps only its terminal.
    _, said = client.communicate(timeout=60)
    assert (client.returncode, said) == (0, b"")
    os.write(fds[0], b"hello\n")
    text = b""
    deadline = deadline_in(60)
    while b"got hello" not in text and time.monotonic() < deadline:
        try:
            data = os.read(fds[0], 4096)
        except OSError:
            break
        text += data
    os.close(fds[0])
    assert b"/dev/pts/" in text and b"got hello" in text


@pytest.mark.parametrize("flags, text", [
    (["--tty", "--detach"], "console socket"),
    (["--console-socket", "/nonexistent.sock", "--detach"], "console socket"),
])
def test_terminal_rules(run_in, flags, text):
    result = run_in(*flags, "--", "true")
    assert result.returncode != 0 and text in result.stderr


def test_no_terminal_unless_asked(run_in):
    assert run_in("--", "/bin/sh", "-c", "test -t 0 || test -t 1 || echo none", check=True).stdout == "none\n"


def test_many_at_once(run_in):
    def one(number):
        result = run_in("--", "/bin/sh", "-c", f"cat; echo {number} >&2; exit {number}", input=f"in {number}\n" * 1000)
        return result.returncode, result.stdout == f"in {number}\n" * 1000, result.stderr
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(one, range(1, 33)))
    assert results == [(number, True, f"{number}\n") for number in range(1, 33)]


@kiln_only
def test_a_killed_client_does_no_harm(shared, sleeper):
    process = shared.start_background("exec", sleeper, "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b"x\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"x\n"
    process.kill()
    process.wait()
    process.stdin.close()
    assert shared.state(sleeper)["status"] == "running"
    assert shared("exec", sleeper, "echo", "alive", check=True).stdout == "alive\n"
    # Its standard input has ended, and with it cat.
    wait_for(lambda: "cat" not in shared("ps", sleeper, check=True).stdout, "end of cat")


@kiln_only
def test_a_background_child_does_not_keep_exec_waiting(shared, sleeper):
    began = time.monotonic()
    result = shared("exec", sleeper, "/bin/sh", "-c", "sleep 500 & echo said")
    assert result.stdout == "said\n"
    assert time.monotonic() - began < 240 * SLOWDOWN
    shared("exec", sleeper, "killall", "-9", "sleep", check=False)


def test_stopped_container(kiln):
    container = kiln.start_sleeper()
    kiln("kill", container, "KILL", check=True)
    kiln.wait_status(container, "stopped")
    result = kiln("exec", container, "true")
    assert result.returncode == 255
    assert "cannot exec in a stopped container" in result.stderr
    unknown = kiln("exec", "nothing", "true")
    assert unknown.returncode != 0 and "container does not exist" in unknown.stderr


def test_created_container(kiln):
    container = kiln.new_id()
    bundle = kiln.bundle(["/bin/cat", "/tmp/from-exec"])
    output = kiln.directory / "output"
    with open(output, "wb") as out:
        kiln("create", "--bundle", bundle, container, check=True, stdout=out, stderr=out)
    kiln("exec", container, "/bin/sh", "-c", "echo before start > /tmp/from-exec", check=True)
    assert kiln.state(container)["status"] == "created"
    kiln("start", container, check=True)
    kiln.wait_status(container, "stopped")
    assert output.read_text() == "before start\n"


def test_processes_end_with_the_container(kiln):
    container = kiln.start_sleeper()
    process = kiln.start_background("exec", container, "sleep", "1000", stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL)
    wait_for(lambda: len(json.loads(kiln("ps", "-f", "json", container, check=True).stdout)) == 2, "process")
    kiln("kill", container, "KILL", check=True)
    assert process.wait(timeout=60) == 137


@pytest.mark.parametrize("arguments", [[], ["--"]])
def test_missing_command(shared, sleeper, arguments):
    assert shared("exec", sleeper, *arguments).returncode != 0
