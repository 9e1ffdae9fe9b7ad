# SPDX-License-Identifier: Apache-2.0
"""kiln's shim where test_containerd.py does not look: deaths, restarts, loggers, the command line."""
import os
import pathlib
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BACKEND, BUILD, kiln_only
from engines.containerd import CONTAINERD, CTR, ShimContainerd
from engines.engine import eventually, need, settles

need(CONTAINERD, CTR)
pytestmark = kiln_only

SHIM = BUILD / "containerd-shim-kiln-v2"
SLEEP = ["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory, busybox_rootfs):
    made = ShimContainerd(tmp_path_factory.mktemp("shim"), busybox_rootfs)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def clean(engine):
    """Every test leaves what it found."""
    yield
    if engine.daemon.poll() is not None:  # a test that failed in between
        engine.start_daemon()
    for name in engine.tasks():
        engine("task", "delete", "--force", name, check=False)
    for name in engine("container", "list", "--quiet").split():
        engine("container", "delete", name)
    settles(lambda: {key: value for key, value in engine.traces().items() if value}, {})


def start(engine, *command, flags=()):
    name = engine.new_name()
    engine.run("--detach", *flags, engine.image, name, *(command or SLEEP))
    return name


# -- the command line

def run_shim(*args, **options):
    return subprocess.run([SHIM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=60, **options)


def test_its_version_and_what_it_is():
    done = run_shim("-v")
    assert done.returncode == 0 and re.search(rb"^containerd-shim-kiln-v2:\n  Version:  \d", done.stdout)
    done = run_shim("-info", input=b"")
    assert done.returncode == 0 and b"io.containerd.kiln.v2" in done.stdout and b'"ociVersionMin"' in done.stdout


@pytest.mark.parametrize("args, words", [
    (["-nonsense"], b"flag provided but not defined: -nonsense"),
    (["-id", "x", "start"], b"namespace cannot be empty"),
    (["-namespace", "n", "-id", "../x", "start"], b"id"),
    (["-namespace", "n", "-id", "x", "nonsense"], b"no such action"),
    ([], b"io.containerd.kiln.v2"),
])
def test_a_command_line_that_is_none(tmp_path, args, words):
    done = run_shim(*args, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_delete_of_what_is_not_there(tmp_path):
    for _ in range(2):
        done = run_shim("-namespace", "kiln-test", "-id", "nobody", "-bundle", tmp_path, "delete", cwd=tmp_path,
                        stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr


# -- where output goes

def test_a_logger_gets_both_streams_and_its_arguments(engine):
    log = engine.directory / "logger.txt"
    logger = engine.directory / "logger"
    logger.write_text("#!/bin/sh\nexec 9>>\"$2\"\necho \"$1 $CONTAINER_ID $CONTAINER_NAMESPACE\" >&9\n"
                      "sed 's/^/out: /' <&3 >&9 5>&- &\nsed 's/^/err: /' <&4 >&9 5>&- &\nexec 5>&-\nwait\n")
    logger.chmod(0o755)
    name = start(engine, "sh", "-c", "echo one; echo two >&2",
                 flags=["--log-uri", f"binary://{logger}?path={str(log).replace('/', '%2F')}"])
    eventually(lambda: log.exists() and log.read_text().count("\n") == 3)
    first, *rest = log.read_text().splitlines()
    assert first == f"path {name} {engine.mark}" and sorted(rest) == ["err: two", "out: one"]


def test_a_logger_that_does_not_start(engine):
    done = engine.run("--detach", "--log-uri", "binary:///no/such/logger", engine.image, engine.new_name(), "true", check=False)
    assert done.returncode == 1 and "logger `/no/such/logger`" in done.stderr, done.stderr


# -- containerd goes and comes back

def test_containers_outlive_containerd(engine):
    names = [start(engine, "sh", "-c", f"trap 'exit {i}' TERM; echo up; while :; do sleep 0.1; done",
                   flags=["--log-uri", f"file://{engine.directory}/{i}.log"]) for i in range(3)]
    logs = [engine.directory / f"{i}.log" for i in range(3)]
    eventually(lambda: all(log.exists() and log.read_text() == "up\n" for log in logs))  # a signal before that is lost
    before = engine.parts()
    engine.kill_daemon()
    # One ends while nobody is there to hear of it.
    gone = [pid for pid in before["shim"] if names[2] in pathlib.Path(f"/proc/{pid}/cmdline").read_text()]
    monitors = {pid: pathlib.Path(f"/proc/{pid}/cmdline").read_text() for pid in before["monitor"]}
    victim = next(pid for pid, command in monitors.items() if names[2] in command)
    os.kill(victim, signal.SIGTERM)
    eventually(lambda: victim not in engine.processes())
    assert gone[0] in engine.processes()  # it has something to say
    engine.start_daemon()
    settles(engine.tasks, {names[0]: "RUNNING", names[1]: "RUNNING", names[2]: "STOPPED"})
    assert "exit code 2" in engine("task", "delete", names[2], check=False).stderr
    assert engine("task", "exec", "--exec-id", "again", names[0], "echo", "here") == "here"
    settles(lambda: set(engine.parts()["shim"]), set(before["shim"]) - set(gone))


def test_containerd_dies_under_load(engine):
    names = [start(engine) for _ in range(2)]
    commands = [engine.start("task", "exec", "--exec-id", f"e{i}", names[i % 2], "sh", "-c", "sleep 1; echo done")
                for i in range(6)]
    creating = engine.start("run", "--detach", *map(str, engine.run_flags()), engine.image, engine.new_name("late"), *SLEEP)
    time.sleep(0.7)
    engine.kill_daemon()
    for command in [*commands, creating]:
        command.communicate(timeout=60)
    engine.start_daemon()
    eventually(lambda: [engine.tasks().get(name) for name in names] == ["RUNNING"] * 2)
    for name in names:
        assert engine("task", "exec", "--exec-id", "after", name, "echo", "here") == "here"


# -- deaths

@pytest.mark.parametrize("victim", ["shim", "monitor", "vmm", "fs", *(["qemu"] if BACKEND == "qemu" else [])])
def test_a_part_is_killed(engine, victim):
    name = start(engine)
    os.kill(engine.parts()[victim][0], signal.SIGKILL)
    eventually(lambda: engine.tasks().get(name) in (None, "STOPPED"))
    if victim != "shim":
        assert "exit code 137" in engine("task", "delete", name, check=False).stderr


def test_the_guest_panics(engine):
    name = start(engine, flags=["--privileged"])
    engine("task", "exec", "--exec-id", "panic", name, "sh", "-c",
           "mount -o remount,rw /proc/sys 2>/dev/null; echo c > /proc/sysrq-trigger", check=False)
    eventually(lambda: engine.tasks().get(name) in (None, "STOPPED"))


def test_a_failed_create_leaves_nothing(engine):
    done = engine.run("--detach", "--net-host", engine.image, engine.new_name(), "true", check=False)
    assert done.returncode == 1 and "network" in done.stderr


def test_many_at_once(engine):
    def one(number):
        done = engine.run("--rm", engine.image, engine.new_name(f"m{number}-"), "sh", "-c", f"echo {number}; exit {number}",
                          check=False)
        assert (done.returncode, done.stdout) == (number, f"{number}\n"), done.stderr

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(1, 9)))


def test_checkpoint_is_refused(engine):
    name = start(engine)
    done = engine("task", "checkpoint", name, check=False)
    assert done.returncode == 1 and "cannot be checkpointed" in done.stderr, done.stderr


def test_metrics_know_the_limits(engine):
    name = start(engine, flags=["--memory-limit", str(96 << 20)])
    metrics = engine("task", "metrics", name)
    assert re.search(rf"memory.limit_in_bytes\s+{96 << 20}\b|memory.usage_limit\s+{96 << 20}\b", metrics), metrics


def test_its_own_memory(engine):
    start(engine)
    time.sleep(2)
    status = pathlib.Path(f"/proc/{engine.parts()['shim'][0]}/status").read_text()
    assert int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) <= 8192
