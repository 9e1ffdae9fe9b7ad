# SPDX-License-Identifier: Apache-2.0
"""Containers that share a sandbox: one machine, and each its own life."""
import json
import os
import signal
import subprocess
import time

import pytest

from conftest import deadline_in, kiln_only
from netns import Namespace
from test_kill9 import wait_for

pytestmark = kiln_only


def member_of(kiln, container, types=("network", "ipc", "uts"), more=None):
    """A patch: the namespaces of these types are those of a running container, as engines name them."""
    pid = kiln.state(container)["pid"]

    def patch(spec):
        for entry in spec["linux"]["namespaces"]:
            name = {"network": "net"}.get(entry["type"], entry["type"])
            if entry["type"] in types:
                entry["path"] = f"/proc/{pid}/ns/{name}"
        if more is not None:
            more(spec)
    return patch


@pytest.fixture(scope="module")
def pod(shared):
    """The container that makes the sandbox of most tests."""
    return shared.start_sleeper()


@pytest.fixture
def first(kiln):
    """One that the test may end."""
    return kiln.start_sleeper()


def test_members_share_one_machine_and_its_network(shared, pod):
    pid = shared.state(pod)["pid"]
    assert set(shared.helpers(pid)) >= {"vm", "fs"}
    server = shared.start_sleeper(member_of(shared, pod), args=["nc", "-ll", "-p", "8000", "-e", "echo", "from-a-member"])
    member = shared.state(server)["pid"]
    assert shared.helpers(member) == {}, "a machine of its own"
    assert os.readlink(f"/proc/{member}/ns/net") == os.readlink(f"/proc/{pid}/ns/net")
    script = "cat /proc/sys/kernel/random/boot_id; for i in 1 2 3 4 5 6 7 8 9; do nc 127.0.0.1 8000 && break; sleep 0.3; done"
    out = shared.sh(script, member_of(shared, pod))
    boot_id, answer = out.split()
    assert answer == "from-a-member"
    assert shared("exec", pod, "cat", "/proc/sys/kernel/random/boot_id", check=True).stdout.strip() == boot_id
    # Each sees its own processes and files only.
    assert "nc -ll" not in shared("exec", pod, "ps", check=True).stdout
    assert "nc -ll" in shared("exec", server, "ps", check=True).stdout


def test_members_have_their_own_codes_output_input_and_terminal(shared, pod):
    for code in (0, 7):
        done = shared.run(["/bin/sh", "-c", f"read line; echo got $line; echo to-stderr >&2; exit {code}"],
                        member_of(shared, pod), input="hello\n")
        assert (done.returncode, done.stdout, done.stderr) == (code, "got hello\n", "to-stderr\n")
    done = shared.run(["/bin/sh", "-c", "sleep 1000 & kill -9 $!; wait $!"], member_of(shared, pod))
    assert done.returncode == 137
    assert shared.state(pod)["status"] == "running"


def test_namespaces_are_shared_as_they_are_asked_for(shared, pod):
    def names(script, types):
        return shared.sh(script, member_of(shared, pod, types)).split()

    look = "readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; readlink /proc/self/ns/pid; readlink /proc/self/ns/net"
    ipc, uts, pid, net = shared("exec", pod, "/bin/sh", "-c", look, check=True).stdout.split()
    assert names(look, ("network", "ipc", "uts", "pid")) == [ipc, uts, pid, net]
    other = names(look, ("network",))
    assert other[3] == net and not {ipc, uts, pid} & set(other)
    # What is executed later is in them too.
    member = shared.start_sleeper(member_of(shared, pod, ("network", "ipc", "uts", "pid")))
    assert shared("exec", member, "/bin/sh", "-c", look, check=True).stdout.split() == [ipc, uts, pid, net]


def test_a_members_pid_shows_its_files_and_its_limits_know_the_machine(shared, pod):
    member = shared.start_sleeper(member_of(shared, pod))
    shared("exec", member, "/bin/sh", "-c", "echo mine > /mine", check=True)
    # What podman cp does.
    seen = subprocess.run(["nsenter", "-t", str(shared.state(member)["pid"]), "-m", "cat", "/mine"], check=True,
                          stdout=subprocess.PIPE, text=True)
    assert seen.stdout == "mine\n"
    done = shared("update", "--memory", str(4 << 30), member)
    assert done.returncode == 1 and "the container's VM has 256 MiB" in done.stderr

    def patch(spec):
        spec["linux"]["resources"]["memory"] = {"limit": 4 << 30}
    done = shared.run(["true"], member_of(shared, pod, more=patch))
    assert done.returncode == 0 and "is more than the 256 MiB that sandbox" in done.stderr


def test_a_member_restarts_while_the_others_go_on(shared, pod):
    watcher = shared.start_sleeper(member_of(shared, pod))
    container = "again-" + shared.mark[-6:]
    bundle = shared.bundle(["/bin/sh", "-c", "echo run >> /runs; cat /runs | wc -l"], member_of(shared, pod))
    for count in (1, 2, 3):
        done = shared("run", "--bundle", bundle, container, check=True)
        assert done.stdout == f"{count}\n"
    for other in (pod, watcher):
        assert shared("exec", other, "true").returncode == 0
    # The guest keeps nothing of a container that is gone.
    groups = shared("exec", pod, "/bin/sh", "-c", "cat /proc/mounts | wc -l", check=True).stdout
    for _ in range(3):
        shared("run", "--bundle", bundle, container, check=True)
    assert shared("exec", pod, "/bin/sh", "-c", "cat /proc/mounts | wc -l", check=True).stdout == groups


def test_volumes_limits_and_signals_are_each_members_own(shared, pod, tmp_path):
    def patch(spec):
        spec["mounts"].append({"destination": "/shared", "type": "bind", "source": str(tmp_path), "options": ["rbind", "rw"]})
        spec["linux"]["resources"]["memory"] = {"limit": 32 << 20}

    one = shared.start_sleeper(member_of(shared, pod, more=patch))
    shared("exec", one, "/bin/sh", "-c", "echo written > /shared/file", check=True)
    assert (tmp_path / "file").read_text() == "written\n"
    assert shared("exec", pod, "ls", "/shared").returncode != 0
    done = shared("exec", one, "/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1")
    assert done.returncode != 0
    for action, status in (("pause", "paused"), ("resume", "running")):
        shared(action, one, check=True)
        assert shared.state(one)["status"] == status and shared.state(pod)["status"] == "running"
    shared("kill", one, "KILL", check=True)
    shared.wait_status(one, "stopped")
    shared("delete", one, check=True)
    assert shared("exec", pod, "true").returncode == 0


def test_the_machine_ends_with_the_container_that_made_it(kiln, first):
    member = kiln.start_sleeper(member_of(kiln, first))
    kiln("delete", "--force", first, check=True)
    kiln.wait_status(member, "stopped")
    assert kiln("exec", member, "true").returncode == 255
    kiln("delete", member, check=True)
    kiln.assert_clean()


def test_a_member_whose_monitor_is_killed_leaves_the_guest(shared, pod):
    container = "victim-" + shared.mark[-6:]
    patch = member_of(shared, pod, ("network", "pid"))
    with open(os.devnull, "wb") as null:
        shared("run", "--detach", "--bundle", shared.bundle(["sleep", "4242"], patch), container, check=True, stdout=null,
             stderr=null)
    assert "sleep 4242" in shared("exec", pod, "ps", check=True).stdout
    os.kill(shared.state(container)["pid"], signal.SIGKILL)
    wait_for(lambda: "sleep 4242" not in shared("exec", pod, "ps", check=True).stdout, "end of its process")
    shared("delete", "--force", container, check=True)
    # Its name is free again, in the guest too.
    done = shared("run", "--bundle", shared.bundle(["echo", "again"], patch), container, check=True)
    assert done.stdout == "again\n"


def test_a_member_that_cannot_be_created_leaves_nothing(shared, pod):
    for _ in range(2):
        done = shared("run", "--bundle", shared.bundle(["/not/there"], member_of(shared, pod)), "broken", stdin=subprocess.DEVNULL)
        assert done.returncode != 0 and "/not/there" in done.stderr
    assert shared("state", "broken").returncode == 1
    assert shared("exec", pod, "true").returncode == 0


def test_sandboxes_are_found_by_a_named_namespace_too(kiln):
    namespace = Namespace()
    try:
        def patch(spec):
            for entry in spec["linux"]["namespaces"]:
                if entry["type"] == "network":
                    entry["path"] = namespace.path

        one = kiln.start_sleeper(patch)
        two = kiln.start_sleeper(patch)
        look = ("exec", one, "cat", "/proc/sys/kernel/random/boot_id")
        other = ("exec", two, "cat", "/proc/sys/kernel/random/boot_id")
        assert kiln(*look, check=True).stdout == kiln(*other, check=True).stdout
        deadline = deadline_in(5)
        while len(json.loads(kiln("list", "--format", "json", check=True).stdout)) != 2:
            assert time.monotonic() < deadline
    finally:
        kiln.close()
        namespace.close()


def test_namespaces_of_containers_elsewhere_are_refused(kiln, first):
    other = kiln.start_sleeper()
    pid = kiln.state(other)["pid"]

    def foreign(spec):
        for entry in spec["linux"]["namespaces"]:
            if entry["type"] == "ipc":
                entry["path"] = f"/proc/{pid}/ns/ipc"

    done = kiln.run(["true"], member_of(kiln, first, ("network",), foreign))
    assert done.returncode == 1 and "is not that of a container in sandbox" in done.stderr
    done = kiln.run(["true"], foreign)
    assert done.returncode == 1 and "cannot join the ipc namespace" in done.stderr
