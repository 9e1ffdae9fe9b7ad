# SPDX-License-Identifier: Apache-2.0
"""runc's command line to the letter: flags, words that engines look for, exit codes, formats."""
import array
import json
import os
import re
import select
import signal
import socket
import subprocess

import pytest

from conftest import kiln_only


def said(result):
    """The message of the one line that a command logged."""
    line = re.fullmatch(r'time="[^"]+" level=error msg=("(?:[^"\\]|\\.)*"|\S*)\n', result.stderr)
    assert line, result.stderr
    return json.loads(line[1]) if line[1].startswith('"') else line[1]


# -- command lines that are wrong


@kiln_only
@pytest.mark.parametrize("words, message, code", [
    (["state"], '"state" requires exactly 1 argument(s)', 1),
    (["start", "a", "b"], '"start" requires exactly 1 argument(s)', 1),
    (["kill"], '"kill" requires a minimum of 1 argument(s)', 1),
    (["ps"], '"ps" requires a minimum of 1 argument(s)', 1),
    (["exec"], '"exec" requires a minimum of 1 argument(s)', 1),
    (["checkpoint"], '"checkpoint" requires exactly 1 argument(s)', 1),
    (["run", "--no-such-flag", "x"], "flag provided but not defined: -no-such-flag", 1),
    (["exec", "--no-such-flag", "x"], "flag provided but not defined: -no-such-flag", 1),
    (["nosuchcommand"], "No help topic for 'nosuchcommand'", 3),
    (["list", "--format", "xml"], "invalid format option", 1),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_wrong_command_lines(shared, words, message, code):
    result = shared(*words)
    assert (result.returncode, result.stdout) == (code, "")
    text = said(result)
    assert text == message or text == f"kiln: {message}"


def test_the_container_comes_before_the_signal(shared):
    assert said(shared("kill", "nothing", "NOSUCH")) == "container does not exist"


def test_criu_is_taken(shared):
    shared("--criu", "/nonexistent/criu", "list", check=True)


# -- checkpoint and restore

CRIU_FLAGS = ["--image-path", "/nonexistent/i", "--work-path", "/nonexistent/w", "--tcp-established", "--ext-unix-sk",
              "--shell-job", "--file-locks", "--manage-cgroups-mode", "soft", "--empty-ns", "network", "--auto-dedup"]


@kiln_only
def test_checkpoint_says_not_yet(shared, sleeper):
    flags = [*CRIU_FLAGS, "--leave-running", "--pre-dump", "--parent-path", "p", "--lazy-pages", "--status-fd", "1",
             "--page-server", "127.0.0.1:1"]
    result = shared("checkpoint", *flags, sleeper)
    assert result.returncode == 1 and "not supported yet" in said(result)
    assert shared.state(sleeper)["status"] == "running"
    assert said(shared("checkpoint", "nothing")) == "container does not exist"
    wrong = shared("checkpoint", "--manage-cgroups-mode", "odd", sleeper)
    assert wrong.returncode == 1 and said(wrong) == "Invalid manage cgroups mode value"


@kiln_only
def test_restore_says_not_yet(shared):
    container = shared.new_id()
    flags = [*CRIU_FLAGS, "--detach", "--no-pivot", "--no-subreaper", "--pid-file", "/nonexistent/p",
             "--console-socket", "/nonexistent/s", "--lsm-profile", "selinux:x", "--lsm-mount-context", "x"]
    result = shared("restore", *flags, "--bundle", shared.bundle(), container)
    assert result.returncode == 1 and "not supported yet" in said(result)
    assert shared("state", container).returncode == 1
    missing = shared("restore", "--bundle", "/nonexistent", container)
    assert missing.returncode == 1 and "not found" in said(missing)


# -- the words for each state


def test_words_for_a_stopped_container(kiln):
    container = kiln.start_sleeper()
    kiln("kill", "--all", container, "KILL", check=True)
    kiln.wait_status(container, "stopped")
    assert said(kiln("kill", container)) == "container not running"
    assert said(kiln("kill", container, "0")) == "container not running"
    assert kiln("kill", "--all", container, "KILL").returncode == 0
    assert said(kiln("pause", container)) == "container not running"
    assert said(kiln("resume", container)) == "container not paused"
    assert said(kiln("start", container)) == "cannot start a container that has stopped"
    assert said(kiln("exec", container, "true")) == "exec failed: cannot exec in a stopped container"
    table = kiln("ps", container, check=True).stdout.splitlines()
    assert len(table) == 1 and table[0].split() == "UID PID PPID C STIME TTY TIME CMD".split()
    assert json.loads(kiln("ps", "--format", "json", container, check=True).stdout) is None
    state = kiln.state(container)
    assert state["status"] == "stopped" and state["pid"] == 0


def test_words_for_running_and_paused(kiln):
    container = kiln.start_sleeper()
    assert said(kiln("start", container)) == "cannot start an already running container"
    assert said(kiln("resume", container)) == "container not paused"
    assert said(kiln("delete", container)) == f"cannot delete container {container} that is not stopped: running"
    again = kiln("create", "--bundle", kiln.bundle(), container)
    assert again.returncode == 1 and said(again).endswith("container with given ID already exists")
    kiln("pause", container, check=True)
    assert said(kiln("pause", container)) == "container not running"
    assert said(kiln("start", container)) == "cannot start a container in the paused state"
    assert said(kiln("delete", container)) == f"cannot delete container {container} that is not stopped: paused"
    assert said(kiln("exec", container, "true")) == \
        "exec failed: cannot exec in a paused container (use --ignore-paused to override)"
    kiln("resume", container, check=True)
    assert kiln.state(container)["status"] == "running"


@pytest.mark.parametrize("spelling", ["TERM", "SIGTERM", "sigterm", "term", "15", None], ids=str)
def test_signal_spellings(shared, spelling):
    script = "trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done"
    container = shared.new_id()
    client = shared.start_background("run", "--bundle", shared.bundle(["/bin/sh", "-c", script]), container,
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"up\n"
    shared("kill", container, "0", check=True)
    shared("kill", container, *([spelling] if spelling else []), check=True)
    assert client.wait(60) == 42


def test_forced_delete_of_what_is_not_there(shared):
    result = shared("delete", "--force", "nothing")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# -- list, state, ps


def test_list(kiln):
    assert kiln("list", check=True).stdout == "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
    assert json.loads(kiln("list", "--format", "json", check=True).stdout) is None
    assert kiln("list", "--quiet", check=True).stdout == ""
    container = kiln.start_sleeper()
    state = kiln.state(container)
    assert kiln("list", "-q", check=True).stdout == f"{container}\n"
    (entry,) = json.loads(kiln("list", "-f", "json", check=True).stdout)
    assert entry == {**state, "owner": "root"}
    assert set(state) == {"ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"}
    assert state["owner"] == ""
    header, row = kiln("list", check=True).stdout.splitlines()
    assert row.split() == [container, str(state["pid"]), "running", state["bundle"], state["created"], "root"]
    # Go's tabwriter: three spaces after the widest cell.
    assert header.index("CREATED") == row.index(state["bundle"]) + len(state["bundle"]) + 3


def test_ps_options(shared, sleeper):
    def ps(*options):
        return shared("ps", sleeper, *options, check=True).stdout.splitlines()
    header, row = ps()
    assert header.split() == "UID PID PPID C STIME TTY TIME CMD".split()
    assert row.split()[0] == "root" and row.endswith("sleep 1000")
    (pid,) = json.loads(shared("ps", "-f", "json", sleeper, check=True).stdout)
    assert [line.split() for line in ps("-o", "pid,comm")] == [["PID", "COMMAND"], [str(pid), "sleep"]]
    assert [line.split() for line in ps("-eo", "pid,ppid=PARENT")][0] == ["PID", "PARENT"]
    header, row = ps("aux")
    assert header.split()[:8] == "USER PID %CPU %MEM VSZ RSS TTY STAT".split()
    columns = row.split()
    assert columns[:2] == ["root", str(pid)] and columns[7].startswith("S") and int(columns[5]) > 0
    assert float(columns[3]) < 100
    without = shared("ps", sleeper, "-o", "comm")
    assert without.returncode == 1 and said(without) == "couldn't find PID field in ps output"
    unknown = shared("ps", sleeper, "--no-such-option")
    assert unknown.returncode == 1 and "option" in said(unknown)


# -- the log


@pytest.mark.parametrize("name", [b"no\xff\x1b[1m<such>\"file", "ünï".encode()], ids=["bytes", "text"])
def test_a_json_log_is_json_whatever_it_speaks_of(kiln, name):
    log = kiln.directory / "log"
    log.write_text("first\n")
    bundle = os.fsencode(kiln.directory) + b"/" + name
    result = subprocess.run([*map(os.fsencode, kiln.command("--log", log, "--log-format", "json", "run", "--bundle")),
                             bundle, b"x"], env=kiln.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, timeout=60)
    assert result.returncode == 1
    lines = log.read_bytes().decode("utf-8").splitlines()
    assert lines[0] == "first" and len(lines) == 2
    entry = json.loads(lines[1])
    assert set(entry) == {"level", "msg", "time"} and entry["level"] == "error"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", entry["time"])
    assert result.stderr != b""  # people read the terminal


# -- who is told of the process


def listener(directory, name):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(directory / name))
    server.listen()
    server.settimeout(60)
    return server


def receive_pidfd(server):
    connection, _ = server.accept()
    with connection:
        fds = array.array("i")
        data, ancillary, _, _ = connection.recvmsg(64, socket.CMSG_LEN(fds.itemsize))
    fds.frombytes(ancillary[0][2][:fds.itemsize])
    return data, fds[0]


def pid_of(pidfd):
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as info:
        return int(re.search(r"^Pid:\s*(-?\d+)$", info.read(), re.M)[1])


@kiln_only
def test_pidfd_socket_of_a_container(kiln):
    server = listener(kiln.directory, "pidfd.sock")
    container = kiln.new_id()
    with open(os.devnull, "wb") as null:
        kiln("create", "--pidfd-socket", kiln.directory / "pidfd.sock", "--bundle", kiln.bundle(["sleep", "1000"]),
             container, check=True, stdout=null, stderr=null)
    what, pidfd = receive_pidfd(server)
    assert what == b"standard" and pid_of(pidfd) == kiln.state(container)["pid"]
    kiln("start", container, check=True)
    kiln("kill", container, "KILL", check=True)
    assert select.select([pidfd], [], [], 60)[0] == [pidfd]
    os.close(pidfd)


@kiln_only
def test_pidfd_socket_of_a_process(shared, sleeper):
    server = listener(shared.directory, "exec-pidfd.sock")
    pid_file = shared.directory / "pidfd.pid"
    shared("exec", "--detach", "--pid-file", pid_file, "--pidfd-socket", shared.directory / "exec-pidfd.sock", sleeper,
           "sleep", "77", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    what, pidfd = receive_pidfd(server)
    assert what == b"setns" and pid_of(pidfd) == int(pid_file.read_text())
    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    assert select.select([pidfd], [], [], 60)[0] == [pidfd]
    os.close(pidfd)


@kiln_only
@pytest.mark.parametrize("flag", ["--pidfd-socket", "--pid-file"])
def test_create_leaves_nothing_when_nobody_can_be_told(kiln, flag):
    result = kiln("create", flag, "/nonexistent/dir/x", "--bundle", kiln.bundle(["sleep", "1000"]), kiln.new_id(),
                  stdout=subprocess.DEVNULL)
    assert result.returncode == 1 and "/nonexistent/dir" in said(result)
    kiln.assert_clean()


@kiln_only
@pytest.mark.parametrize("flags", [["--pid-file"], ["--detach", "--pid-file"], ["--pidfd-socket"]], ids=" ".join)
def test_exec_leaves_nothing_when_nobody_can_be_told(kiln, flags):
    container = kiln.start_sleeper()
    result = kiln("exec", *flags, "/nonexistent/dir/x", container, "sleep", "1000", stdout=subprocess.DEVNULL)
    assert result.returncode == 255 and "/nonexistent/dir" in said(result)
    assert len(json.loads(kiln("ps", "-f", "json", container, check=True).stdout)) == 1


def test_flags_without_effect_are_taken(kiln):
    kiln("run", "--no-pivot", "--no-new-keyring", "--preserve-fds", "0", "--no-subreaper", "--keep", "--bundle",
         kiln.bundle(["true"]), "kept-" + kiln.mark[-6:], check=True)
    assert kiln.state("kept-" + kiln.mark[-6:])["status"] == "stopped"
    kiln("delete", "kept-" + kiln.mark[-6:], check=True)
