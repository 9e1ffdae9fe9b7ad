# SPDX-License-Identifier: Apache-2.0
"""kill -9 of every process at several steps: `delete --force` cleans up, twice, and nothing is left."""
import json
import os
import signal
import subprocess
import time

import pytest

from conftest import BACKEND, deadline_in, kiln_only, read_command

pytestmark = kiln_only

# QEMU is a process of its own, below the one that owns the machine.
VICTIMS = ["monitor", "vm", *(["qemu"] if BACKEND == "qemu" else []), "fs"]


def wait_for(condition, what, timeout=60):
    deadline = deadline_in(timeout)
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.02)


def kill_victim(kiln, container, victim):
    pid = kiln.state(container)["pid"]
    processes = {"monitor": pid, **kiln.helpers(pid)}
    assert set(processes) == set(VICTIMS)
    os.kill(processes[victim], signal.SIGKILL)
    return processes


def delete_twice_and_look(kiln, container):
    for _ in range(2):
        result = kiln("delete", "--force", container)
        assert result.returncode == 0, result.stderr
    assert kiln("state", container).returncode == 1
    assert kiln("list", "-q", check=True).stdout == ""
    kiln.assert_clean()


@pytest.mark.parametrize("victim", VICTIMS)
def test_while_it_runs(kiln, victim):
    container = kiln.start_sleeper()
    processes = kill_victim(kiln, container, victim)
    kiln.wait_status(container, "stopped")
    # Nothing of it runs on, before anybody deletes it.
    wait_for(lambda: not any(read_command(pid) for pid in processes.values()), "end of its processes")
    assert kiln("exec", container, "true").returncode != 0
    delete_twice_and_look(kiln, container)


@pytest.mark.parametrize("victim", VICTIMS)
def test_after_create(kiln, victim):
    container = kiln.new_id()
    kiln("create", "--bundle", kiln.bundle(), container, check=True, stdout=subprocess.DEVNULL,
         stderr=subprocess.DEVNULL)
    kill_victim(kiln, container, victim)
    assert kiln("start", container).returncode == 1
    delete_twice_and_look(kiln, container)


@pytest.mark.parametrize("victim", ["monitor", BACKEND if BACKEND == "qemu" else "vm"])
def test_delete_at_once(kiln, victim):
    """Without waiting for the rest to notice."""
    container = kiln.start_sleeper()
    kill_victim(kiln, container, victim)
    delete_twice_and_look(kiln, container)


@pytest.mark.parametrize("victim", VICTIMS[1:])
def test_a_foreground_run_ends_and_says_why(kiln, victim):
    container = kiln.new_id()
    process = kiln.start_background("run", "--bundle", kiln.bundle(["/bin/sh", "-c", "echo up; sleep 1000"]), container,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    kill_victim(kiln, container, victim)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 137
    del errors  # the reason is in the log
    delete_twice_and_look(kiln, container)


def create_in_background(kiln, container, bundle=None):
    return kiln.start_background("create", "--bundle", bundle or kiln.bundle(), container, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize("delay_ms", [0, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560])
def test_the_command_in_the_middle_of_create(kiln, delay_ms):
    container = kiln.new_id()
    process = create_in_background(kiln, container)
    time.sleep(delay_ms / 1000)
    process.kill()
    process.wait()
    delete_twice_and_look(kiln, container)


def undone_or_settled(kiln, container):
    """It may go between any two looks: one look alone is taken."""
    state = kiln("state", container)
    return state.returncode != 0 or json.loads(state.stdout)["status"] in ("created", "stopped")


@pytest.mark.parametrize("delay_ms", [0, 30, 300, 1500])
def test_the_command_s_end_undoes_create_by_itself(kiln, delay_ms):
    """Nobody deletes: the monitor notices that its creator is gone. The id is free again."""
    container = kiln.new_id()
    process = create_in_background(kiln, container, kiln.bundle(["sleep", "1000"]))
    time.sleep(delay_ms / 1000)
    process.kill()
    process.wait()
    wait_for(lambda: not kiln.processes() or undone_or_settled(kiln, container), "end of its processes")
    delete_twice_and_look(kiln, container)
    kiln("create", "--bundle", kiln.bundle(), container, check=True, stdout=subprocess.DEVNULL,
         stderr=subprocess.DEVNULL)
    delete_twice_and_look(kiln, container)


def monitor_of(kiln):
    for pid, command in kiln.processes().items():
        if " monitor " in command + " ":
            return pid
    return None


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("delay_ms", [0, 400])
def test_a_process_in_the_middle_of_create(kiln, victim, delay_ms):
    container = kiln.new_id()
    process = create_in_background(kiln, container)

    def find():
        monitor = monitor_of(kiln)
        if victim == "monitor" or monitor is None:
            return monitor
        return kiln.helpers(monitor).get(victim)
    wait_for(lambda: find() is not None, victim)
    time.sleep(delay_ms / 1000)
    os.kill(find(), signal.SIGKILL)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert errors != b""
    # The command has undone it all by itself.
    assert kiln("list", "-q", check=True).stdout == ""
    kiln.assert_clean()
    delete_twice_and_look(kiln, container)


def test_everything_at_once(kiln):
    container = kiln.start_sleeper()
    for pid in kiln.processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    delete_twice_and_look(kiln, container)


def test_a_killed_delete_can_be_repeated(kiln):
    container = kiln.start_sleeper()
    process = kiln.start_background("delete", "--force", container)
    time.sleep(0.02)
    process.kill()
    process.wait()
    delete_twice_and_look(kiln, container)


def test_two_deletes_at_once(kiln):
    container = kiln.start_sleeper()
    both = [kiln.start_background("delete", "--force", container) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    delete_twice_and_look(kiln, container)


def test_a_damaged_record_can_be_deleted(kiln):
    container = kiln.start_sleeper()
    for pid in kiln.processes():
        os.kill(pid, signal.SIGKILL)
    (kiln.root / container / "state.json").write_text("{")
    assert kiln("state", container).returncode == 1
    delete_twice_and_look(kiln, container)


def test_a_terminated_create_cleans_up_after_itself(kiln):
    container = kiln.new_id()
    process = create_in_background(kiln, container)
    wait_for(lambda: monitor_of(kiln) is not None, "monitor")
    time.sleep(0.5)
    process.terminate()
    process.wait(timeout=60)
    kiln.assert_clean(timeout=30)
