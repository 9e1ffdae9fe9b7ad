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


@pytest.fixture
def first(kiln):
    """The container that makes the sandbox."""
    return kiln.start_sleeper()


def test_members_share_one_machine_and_its_network(kiln, first):
    pid = kiln.state(first)["pid"]
    assert set(kiln.helpers(pid)) >= {"vm", "fs"}
    server = kiln.start_sleeper(member_of(kiln, first), args=["nc", "-ll", "-p", "8000", "-e", "echo", "from-a-member"])
    member = kiln.state(server)["pid"]
    assert kiln.helpers(member) == {}, "a machine of its own"
    assert os.readlink(f"/proc/{member}/ns/net") == os.readlink(f"/proc/{pid}/ns/net")
    script = "cat /proc/sys/kernel/random/boot_id; for i in 1 2 3 4 5 6 7 8 9; do nc 127.0.0.1 8000 && break; sleep 0.3; done"
    out = kiln.sh(script, member_of(kiln, first))
    boot_id, answer = out.split()
    assert answer == "from-a-member"
    assert kiln("exec", first, "cat", "/proc/sys/kernel/random/boot_id", check=True).stdout.strip() == boot_id
    # Each sees its own processes and files only.
    assert "nc -ll" not in kiln("exec", first, "ps", check=True).stdout
    assert "nc -ll" in kiln("exec", server, "ps", check=True).stdout


def test_members_have_their_own_codes_output_input_and_terminal(kiln, first):
    for code in (0, 7):
        done = kiln.run(["/bin/sh", "-c", f"read line; echo got $line; echo to-stderr >&2; exit {code}"],
                        member_of(kiln, first), input="hello\n")
        assert (done.returncode, done.stdout, done.stderr) == (code, "got hello\n", "to-stderr\n")
    done = kiln.run(["/bin/sh", "-c", "kill -9 $$"], member_of(kiln, first))
    assert done.returncode == 137
    assert kiln.state(first)["status"] == "running"


def test_namespaces_are_shared_as_they_are_asked_for(kiln, first):
    def names(script, types):
        return kiln.sh(script, member_of(kiln, first, types)).split()

    look = "readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; readlink /proc/self/ns/pid; readlink /proc/self/ns/net"
    ipc, uts, pid, net = kiln("exec", first, "/bin/sh", "-c", look, check=True).stdout.split()
    assert names(look, ("network", "ipc", "uts", "pid")) == [ipc, uts, pid, net]
    other = names(look, ("network",))
    assert other[3] == net and not {ipc, uts, pid} & set(other)
    # What is executed later is in them too.
    member = kiln.start_sleeper(member_of(kiln, first, ("network", "ipc", "uts", "pid")))
    assert kiln("exec", member, "/bin/sh", "-c", look, check=True).stdout.split() == [ipc, uts, pid, net]


def test_a_member_restarts_while_the_others_go_on(kiln, first):
    watcher = kiln.start_sleeper(member_of(kiln, first))
    container = "again-" + kiln.mark[-6:]
    bundle = kiln.bundle(["/bin/sh", "-c", "echo run >> /runs; cat /runs | wc -l"], member_of(kiln, first))
    for count in (1, 2, 3):
        done = kiln("run", "--bundle", bundle, container, check=True)
        assert done.stdout == f"{count}\n"
    for other in (first, watcher):
        assert kiln("exec", other, "true").returncode == 0
    # The guest keeps nothing of a container that is gone.
    groups = kiln("exec", first, "/bin/sh", "-c", "cat /proc/mounts | wc -l", check=True).stdout
    for _ in range(3):
        kiln("run", "--bundle", bundle, container, check=True)
    assert kiln("exec", first, "/bin/sh", "-c", "cat /proc/mounts | wc -l", check=True).stdout == groups


def test_volumes_limits_and_signals_are_each_members_own(kiln, first, tmp_path):
    def patch(spec):
        spec["mounts"].append({"destination": "/shared", "type": "bind", "source": str(tmp_path), "options": ["rbind", "rw"]})
        spec["linux"]["resources"]["memory"] = {"limit": 32 << 20}

    one = kiln.start_sleeper(member_of(kiln, first, more=patch))
    kiln("exec", one, "/bin/sh", "-c", "echo written > /shared/file", check=True)
    assert (tmp_path / "file").read_text() == "written\n"
    assert kiln("exec", first, "ls", "/shared").returncode != 0
    done = kiln("exec", one, "/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1")
    assert done.returncode != 0
    for action, status in (("pause", "paused"), ("resume", "running")):
        kiln(action, one, check=True)
        assert kiln.state(one)["status"] == status and kiln.state(first)["status"] == "running"
    kiln("kill", one, "KILL", check=True)
    kiln.wait_status(one, "stopped")
    kiln("delete", one, check=True)
    assert kiln("exec", first, "true").returncode == 0


def test_the_machine_ends_with_the_container_that_made_it(kiln, first):
    member = kiln.start_sleeper(member_of(kiln, first))
    kiln("delete", "--force", first, check=True)
    kiln.wait_status(member, "stopped")
    assert kiln("exec", member, "true").returncode == 255
    kiln("delete", member, check=True)
    kiln.assert_clean()


def test_a_member_whose_monitor_is_killed_leaves_the_guest(kiln, first):
    container = "victim-" + kiln.mark[-6:]
    patch = member_of(kiln, first, ("network", "pid"))
    with open(os.devnull, "wb") as null:
        kiln("run", "--detach", "--bundle", kiln.bundle(["sleep", "4242"], patch), container, check=True, stdout=null,
             stderr=null)
    assert "sleep 4242" in kiln("exec", first, "ps", check=True).stdout
    os.kill(kiln.state(container)["pid"], signal.SIGKILL)
    wait_for(lambda: "sleep 4242" not in kiln("exec", first, "ps", check=True).stdout, "end of its process")
    kiln("delete", "--force", container, check=True)
    # Its name is free again, in the guest too.
    done = kiln("run", "--bundle", kiln.bundle(["echo", "again"], patch), container, check=True)
    assert done.stdout == "again\n"


def test_a_member_that_cannot_be_created_leaves_nothing(kiln, first):
    for _ in range(2):
        done = kiln("run", "--bundle", kiln.bundle(["/not/there"], member_of(kiln, first)), "broken", stdin=subprocess.DEVNULL)
        assert done.returncode != 0 and "/not/there" in done.stderr
    assert kiln("state", "broken").returncode == 1
    assert kiln("exec", first, "true").returncode == 0


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
