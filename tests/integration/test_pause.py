# SPDX-License-Identifier: Apache-2.0
"""Paused: the containers are frozen, and once all of a machine's are, its vCPUs stand."""
import json
import pathlib
import socket
import subprocess
import time

import pytest

from conftest import SLOWDOWN, kiln_only
from test_kill9 import wait_for
from test_pods import member_of
from test_services import pass_fds

pytestmark = kiln_only

SETTLED = 1.0  # seconds, after which the machine of a paused container stands
BUSY = ("/bin/sh", "-c", "while :; do :; done")


class Vcpus:
    """What the threads of a machine's process have done: their time, and how often they were switched."""

    def __init__(self, kiln, container):
        helpers = kiln.helpers(kiln.state(container)["pid"])
        self.tasks = pathlib.Path(f"/proc/{helpers.get('qemu', helpers['vm'])}/task")

    def counters(self):
        found = {}
        for task in self.tasks.iterdir():
            # The built-in machine names them; QEMU's are all but its main thread.
            name = (task / "comm").read_text()
            if not name.startswith("vcpu") and (name.startswith("kiln") or task.name == self.tasks.parent.name):
                continue
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            status = (task / "status").read_text().splitlines()
            switches = sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
            found[task.name] = (int(fields[11]) + int(fields[12]), switches)
        assert found
        return found

    def assert_standing(self, seconds=3.0):
        time.sleep(SETTLED * SLOWDOWN)
        before = self.counters()
        time.sleep(seconds)
        assert self.counters() == before

    def busy_ticks(self, seconds=1.0):
        before = sum(ticks for ticks, _ in self.counters().values())
        time.sleep(seconds)
        return sum(ticks for ticks, _ in self.counters().values()) - before


@pytest.fixture(scope="module")
def busy(shared):
    return shared.start_sleeper(args=BUSY)


def assert_right_clock(kiln, container):
    """To half a second: the guest tells whole ones, at a moment while the command runs."""
    before = time.time()
    there = int(kiln("exec", container, "date", "+%s", check=True).stdout)
    assert before - 1.5 < there < time.time() + 0.5


def test_the_machine_of_a_paused_container_stands(shared, busy):
    vcpus = Vcpus(shared, busy)
    assert vcpus.busy_ticks() > 10
    shared("pause", busy, check=True)
    assert shared.state(busy)["status"] == "paused"
    vcpus.assert_standing()
    shared("resume", busy, check=True)
    assert shared.state(busy)["status"] == "running"
    assert vcpus.busy_ticks() > 10


def test_commands_wake_it_for_as_long_as_they_need(shared, busy):
    vcpus = Vcpus(shared, busy)
    shared("pause", busy, check=True)
    vcpus.assert_standing(1)
    assert "while :" in shared("ps", busy, check=True).stdout
    assert json.loads(shared("events", "--stats", busy, check=True).stdout)["data"]["pids"]["current"] == 1
    shared("update", "--pids-limit", "50", busy, check=True)
    shared("kill", busy, "URG", check=True)
    assert shared.state(busy)["status"] == "paused"
    vcpus.assert_standing()
    assert json.loads(shared("events", "--stats", busy, check=True).stdout)["data"]["pids"]["limit"] == 50
    shared("resume", busy, check=True)
    assert vcpus.busy_ticks() > 10


def test_the_clock_is_right_after_a_pause(shared, busy):
    assert_right_clock(shared, busy)
    shared("pause", busy, check=True)
    time.sleep(10)
    shared("resume", busy, check=True)
    assert_right_clock(shared, busy)


def test_output_from_before_the_pause_is_there(shared, busy):
    log = shared.directory / f"{busy}.log"
    shared("exec", busy, "/bin/sh", "-c", "echo from before > /proc/1/fd/1", check=True)
    shared("pause", busy, check=True)
    Vcpus(shared, busy).assert_standing(0.5)
    assert "from before\n" in log.read_text()
    shared("resume", busy, check=True)


def test_exec_waits_for_the_resume(shared, busy):
    vcpus = Vcpus(shared, busy)
    shared("pause", busy, check=True)
    refused = shared("exec", busy, "true")
    assert refused.returncode == 255 and "cannot exec in a paused container" in refused.stderr
    waiting = shared.start_background("exec", "--ignore-paused", busy, "echo", "at last", stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    vcpus.assert_standing(1)
    assert waiting.poll() is None
    shared("resume", busy, check=True)
    out, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, out, errors) == (0, "at last\n", "")


def test_an_exec_that_waits_can_be_interrupted(shared, busy):
    shared("pause", busy, check=True)
    waiting = shared.start_background("exec", "--ignore-paused", busy, "touch", "/interrupted", stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(SETTLED * SLOWDOWN)
    waiting.terminate()
    assert "interrupted while the container was paused" in waiting.communicate(timeout=30)[1]
    assert waiting.returncode == 255
    killed = shared.start_background("exec", "--ignore-paused", busy, "touch", "/interrupted", stdin=subprocess.DEVNULL)
    time.sleep(SETTLED * SLOWDOWN)
    killed.kill()
    killed.wait(10)
    shared("resume", busy, check=True)
    assert shared("exec", busy, "ls", "/interrupted").returncode == 1


@pytest.mark.parametrize("end", [("kill", "{}", "KILL"), ("delete", "--force", "{}")], ids=["kill", "delete"])
def test_the_end_of_a_paused_container(kiln, end):
    container = kiln.start_sleeper(args=BUSY)
    kiln("pause", container, check=True)
    waiting = kiln.start_background("exec", "--ignore-paused", container, "true", stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    Vcpus(kiln, container).assert_standing(1)
    kiln(*(word.format(container) for word in end), check=True)
    if end[0] == "kill":
        kiln.wait_status(container, "stopped", timeout=10)
        kiln("delete", container, check=True)
    assert "container not running" in waiting.communicate(timeout=30)[1]
    kiln.assert_clean()


def test_a_signal_is_delivered_after_the_resume(shared):
    script = "trap 'echo got it; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    container = shared.start_sleeper(args=["/bin/sh", "-c", script])
    log = shared.directory / f"{container}.log"
    wait_for(lambda: log.read_text() == "up\n", "trap")
    shared("pause", container, check=True)
    shared("kill", container, "TERM", check=True)
    Vcpus(shared, container).assert_standing(1)
    assert log.read_text() == "up\n" and shared.state(container)["status"] == "paused"
    shared("resume", container, check=True)
    shared.wait_status(container, "stopped")
    assert log.read_text() == "up\ngot it\n"
    shared("delete", container, check=True)


def test_a_process_of_a_paused_container_dies(shared, busy):
    """Of a signal that it does not catch; the kernel does not wait for a thaw with it (cgroup v2), nor does runc."""
    extra = shared.start_background("exec", busy, "sleep", "1000", stdin=subprocess.DEVNULL)
    wait_for(lambda: "sleep 1000" in shared("ps", busy, check=True).stdout, "process")
    vcpus = Vcpus(shared, busy)
    shared("pause", busy, check=True)
    vcpus.assert_standing(1)
    extra.terminate()
    assert extra.wait(30) == 143
    vcpus.assert_standing(1)
    assert shared.state(busy)["status"] == "paused"
    shared("resume", busy, check=True)


def test_the_end_of_a_paused_init_by_another_signal(kiln):
    """Without a pid namespace of its own, it dies of it at once; what it wrote reaches the host first."""
    def patch(spec):
        spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "pid"]
    container = kiln.start_sleeper(patch)
    kiln("pause", container, check=True)
    Vcpus(kiln, container).assert_standing(0.5)
    kiln("kill", container, "TERM", check=True)
    kiln.wait_status(container, "stopped", timeout=20)


def test_a_pod_stands_once_all_are_paused(kiln):
    first = kiln.start_sleeper(args=BUSY)
    second = kiln.start_sleeper(member_of(kiln, first), args=BUSY)
    vcpus = Vcpus(kiln, first)
    kiln("pause", first, check=True)
    time.sleep(SETTLED * SLOWDOWN)
    assert vcpus.busy_ticks() > 10, "the other one has been stopped too"
    assert kiln("exec", second, "echo", "alive", check=True).stdout == "alive\n"
    kiln("pause", second, check=True)
    vcpus.assert_standing()
    # One more gets in, and the machine goes on for it.
    third = kiln.start_sleeper(member_of(kiln, first))
    assert kiln("exec", third, "echo", "alive", check=True).stdout == "alive\n"
    assert [kiln.state(name)["status"] for name in (first, second)] == ["paused", "paused"]
    kiln("kill", third, "KILL", check=True)
    kiln.wait_status(third, "stopped")
    vcpus.assert_standing()
    kiln("delete", third, check=True)
    # One that ends leaves the others as they are.
    kiln("kill", second, "KILL", check=True)
    kiln.wait_status(second, "stopped")
    vcpus.assert_standing()
    kiln("delete", second, check=True)
    kiln("resume", first, check=True)
    assert vcpus.busy_ticks() > 10


def test_connections_to_a_passed_socket_wait_for_the_resume(kiln):
    path = kiln.directory / "listener"
    container = kiln.new_id()
    with socket.socket(socket.AF_UNIX) as listener, open(kiln.directory / "log", "wb") as log:
        listener.bind(str(path))
        listener.listen()
        # Nobody accepts in the guest: a connection that gets there waits in its queue.
        subprocess.run(kiln.command("run", "--detach", "--preserve-fds", "1", "--bundle", kiln.bundle(["sleep", "1000"]),
                                    container), check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                       close_fds=False, preexec_fn=pass_fds(listener.fileno()), env=kiln.environment, timeout=120)
    kiln("pause", container, check=True)
    time.sleep(SETTLED * SLOWDOWN)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(15)  # longer than the machine's vsock waits for an answer
        with pytest.raises(TimeoutError):
            client.recv(1)
        kiln("resume", container, check=True)
        client.settimeout(2)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_long_pause_is_not_an_end(kiln):
    """Longer than every time-out of the machine's."""
    container = kiln.start_sleeper(args=["/bin/sh", "-c", "while :; do date +%s; sleep 0.2; done"])
    log = kiln.directory / f"{container}.log"
    wait_for(log.read_text, "output")
    kiln("pause", container, check=True)
    deadline = time.monotonic() + 45
    while time.monotonic() < deadline:
        assert kiln.state(container)["status"] == "paused"
        time.sleep(1)
    kiln("resume", container, check=True)
    wait_for(lambda: abs(int(log.read_text().split()[-1]) - time.time()) < 2 * SLOWDOWN, "right time")
    assert kiln("exec", container, "true").returncode == 0
