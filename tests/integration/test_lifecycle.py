# SPDX-License-Identifier: Apache-2.0
"""create, start, state, kill, delete, run, list, ps: as a user of runc expects them."""
import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BOOT_ID, deadline_in, kiln_only


def test_run_prints_output_and_leaves_nothing(kiln):
    result = kiln.run(["/bin/echo", "hello from", "a container"])
    assert (result.returncode, result.stdout, result.stderr) == (0, "hello from a container\n", "")
    kiln.assert_clean()


@kiln_only
def test_the_container_runs_on_its_own_kernel(kiln):
    assert kiln.sh("cat /proc/sys/kernel/random/boot_id").strip() != BOOT_ID


def test_create_start_wait_delete(kiln):
    container = kiln.new_id()
    bundle = kiln.bundle(["/bin/sh", "-c", "echo ran; exit 3"])
    pid_file = kiln.directory / "pid"
    output = kiln.directory / "output"
    with open(output, "wb") as out:
        kiln("create", "--bundle", bundle, "--pid-file", pid_file, container, check=True, stdout=out, stderr=out)
    state = kiln.state(container)
    assert state["status"] == "created"
    assert state["id"] == container
    assert state["bundle"] == str(bundle)
    assert state["pid"] == int(pid_file.read_text())
    assert output.read_text() == ""
    kiln("start", container, check=True)
    kiln.wait_status(container, "stopped")
    assert output.read_text() == "ran\n"
    kiln("delete", container, check=True)
    assert kiln("state", container).returncode != 0
    kiln.assert_clean()


def test_lifecycle_rules(kiln):
    """One container through its life; at each step what is refused, with runc's words."""
    container = kiln.new_id()
    bundle = kiln.bundle(["sleep", "1000"])
    missing = kiln("state", "nothing")
    assert missing.returncode == 1 and "container does not exist" in missing.stderr
    assert "container does not exist" in kiln("start", "nothing").stderr
    assert "container does not exist" in kiln("kill", "nothing", "KILL").stderr
    assert "container does not exist" in kiln("delete", "nothing").stderr
    assert kiln("delete", "--force", "nothing").returncode == 0
    kiln("create", "--bundle", bundle, container, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    again = kiln("create", "--bundle", bundle, container)
    assert again.returncode == 1 and "exist" in again.stderr
    assert kiln.state(container)["status"] == "created"
    kiln("start", container, check=True)
    assert kiln.state(container)["status"] == "running"
    assert "cannot start an already running container" in kiln("start", container).stderr
    refused = kiln("delete", container)
    assert refused.returncode == 1 and "not stopped" in refused.stderr
    listed = json.loads(kiln("list", "--format", "json", check=True).stdout)
    assert [(entry["id"], entry["status"], entry["bundle"]) for entry in listed] == [
        (container, "running", str(bundle))]
    table = kiln("list", check=True).stdout.splitlines()
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert table[1].split()[0] == container
    assert kiln("list", "-q", check=True).stdout == container + "\n"
    kiln("kill", container, "TERM", check=True)  # pid 1 of a pid namespace without a handler: not delivered
    kiln("kill", container, "KILL", check=True)
    kiln.wait_status(container, "stopped")
    stopped = kiln("kill", container, "TERM")
    assert stopped.returncode == 1 and "container not running" in stopped.stderr
    assert "cannot start a container that has stopped" in kiln("start", container).stderr
    kiln("delete", container, check=True)
    assert kiln("list", "-q", check=True).stdout == ""
    kiln.assert_clean()


def test_the_pid_of_the_container_ends_with_its_exit_code(kiln):
    """An engine's monitor waits for the pid that create wrote, as its child subreaper."""
    container = kiln.new_id()
    bundle = kiln.bundle(["/bin/sh", "-c", "exit 42"])
    script = f"""
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.run({kiln.command("create", "--bundle", bundle, "--pid-file", kiln.directory / "pid", container)!r},
               check=True, stdin=subprocess.DEVNULL)
pid = int(open({str(kiln.directory / "pid")!r}).read())
subprocess.run({kiln.command("start", container)!r}, check=True)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    result = subprocess.run(["/usr/bin/python3", "-c", script], env=kiln.environment, timeout=120,
                            stdout=subprocess.PIPE, text=True, check=True)
    assert result.stdout.strip() == "42"


@pytest.mark.parametrize("arguments", [[], ["--force"]])
def test_delete_of_a_created_container(kiln, arguments):
    container = kiln.new_id()
    kiln("create", "--bundle", kiln.bundle(), container, check=True, stdout=subprocess.DEVNULL,
         stderr=subprocess.DEVNULL)
    result = kiln("delete", *arguments, container)
    assert result.returncode == 0, result.stderr
    kiln.assert_clean()


def test_two_bundles_at_once_do_not_see_each_other(kiln):
    first = kiln.start_sleeper(lambda spec: spec.update(hostname="first"))
    second = kiln.start_sleeper(lambda spec: spec.update(hostname="second"))
    assert kiln("exec", first, "hostname", check=True).stdout == "first\n"
    assert kiln("exec", second, "hostname", check=True).stdout == "second\n"
    kiln("delete", "--force", first, check=True)
    assert kiln.state(second)["status"] == "running"
    assert kiln("exec", second, "hostname", check=True).stdout == "second\n"


def test_exit_codes(kiln):
    """Every exit code, through exec into one container, then the borders through run."""
    container = kiln.start_sleeper()
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda code: kiln("exec", container, "/bin/sh", "-c", f"exit {code}").returncode,
                              range(256)))
    assert codes == list(range(256))
    for code in (0, 1, 127, 255):
        assert kiln.run(["/bin/sh", "-c", f"exit {code}"]).returncode == code


def test_death_by_each_signal(kiln):
    """128 + n for every signal that ends a process."""
    container = kiln.start_sleeper()
    harmless = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGSTOP, signal.SIGTSTP,
                signal.SIGTTIN, signal.SIGTTOU}
    numbers = [n for n in range(1, 65) if n not in harmless and n not in (32, 33)]

    def die_of(number):
        return kiln("exec", container, "/bin/sh", "-c", f"(sleep 0.1; kill -{number} $$) & exec sleep 30").returncode
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(die_of, numbers)) == [128 + number for number in numbers]


def test_kill_delivers_each_signal_to_init(kiln):
    trap = "for n in $(seq 1 31); do case $n in 9|17|19) ;; *) trap \"echo got $n\" $n;; esac; done; echo ready;" \
           "while :; do sleep 0.05; done"
    container = kiln.new_id()
    output = kiln.directory / "output"
    with open(output, "wb") as out:
        kiln("run", "-d", "--bundle", kiln.bundle(["/bin/sh", "-c", trap]), container, check=True, stdout=out,
             stderr=out)
    deadline = deadline_in(30)
    while "ready" not in output.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    names = {1: "HUP", 2: "SIGINT", 10: "SIGUSR1", 12: "usr2", 15: "15", 28: "WINCH", 18: "CONT"}
    for number, name in names.items():
        kiln("kill", container, name, check=True)
        while f"got {number}\n" not in output.read_text() and time.monotonic() < deadline + 30:
            time.sleep(0.05)
        assert f"got {number}\n" in output.read_text()
    bad = kiln("kill", container, "NOSUCH")
    assert bad.returncode == 1 and "unknown signal" in bad.stderr
    kiln("kill", container, "KILL", check=True)


def test_kill_all_reaches_every_process(kiln):
    def shared_pids(spec):
        spec["process"]["args"] = ["/bin/sh", "-c", "sleep 1000 & sleep 1000 & wait"]
    container = kiln.start_sleeper(shared_pids)
    deadline = deadline_in(20)
    while len(json.loads(kiln("ps", "--format", "json", container, check=True).stdout)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kiln("kill", "--all", container, "KILL", check=True)
    kiln.wait_status(container, "stopped")


def test_ps(kiln):
    container = kiln.start_sleeper()
    pids = json.loads(kiln("ps", "-f", "json", container, check=True).stdout)
    assert len(pids) == 1 and pids[0] > 1
    table = kiln("ps", container, check=True).stdout.splitlines()
    assert table[0].split()[:2] == ["UID", "PID"]
    assert table[1].endswith("sleep 1000")


def test_state_is_complete(kiln):
    container = kiln.start_sleeper(lambda spec: spec.update(annotations={"org.example.key": "value"}))
    state = kiln.state(container)
    assert state["ociVersion"].startswith("1.")
    assert state["annotations"]["org.example.key"] == "value"
    assert state["rootfs"].endswith("/rootfs")
    assert re.match(r"\d{4}-\d\d-\d\dT", state["created"])
    os.kill(state["pid"], 0)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b", "."])
def test_bad_ids_are_refused(kiln, name):
    result = kiln("run", "--bundle", kiln.bundle(), name)
    assert result.returncode == 1
    assert "invalid" in result.stderr or "empty" in result.stderr
    kiln.assert_clean()


def test_spec_does_not_overwrite(kiln):
    assert kiln("spec", cwd=kiln.directory).returncode == 0
    again = kiln("spec", cwd=kiln.directory)
    assert again.returncode == 1 and "exist" in again.stderr


def test_log_file_in_both_formats(kiln):
    log = kiln.directory / "log"
    kiln("--log", log, "--log-format", "json", "state", "nothing")
    entry = json.loads(log.read_text().splitlines()[-1])
    assert entry["level"] == "error" and "does not exist" in entry["msg"] and entry["time"]
    log.unlink()
    kiln("--log", log, "state", "nothing")
    assert re.search(r'level=error msg=".*does not exist', log.read_text())


def test_features(kiln):
    features = json.loads(kiln("features", check=True).stdout)
    assert features["ociVersionMin"].startswith("1.0")
    assert {"prestart", "createRuntime", "poststop"} <= set(features["hooks"])
    assert {"ro", "rbind", "rro"} <= set(features["mountOptions"])
    assert "CAP_SYS_ADMIN" in features["linux"]["capabilities"]
    assert features["linux"]["seccomp"]["enabled"] is True


def test_version(kiln):
    assert re.search(r"\bversion \d", kiln("--version", check=True).stdout)
