# SPDX-License-Identifier: Apache-2.0
"""A pod whose sandbox says by its annotations that it is one: a machine and namespaces, without a process."""
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

import test_pods
from conftest import deadline_in, kiln_only
from test_kill9 import wait_for

pytestmark = kiln_only

ALL = ("network", "ipc", "uts", "pid")


def sandbox_patch(more=None, **annotations):
    def patch(spec):
        spec["annotations"] = {"io.kubernetes.cri.container-type": "sandbox", **annotations}
        spec["hostname"] = "the-pod"
        spec["linux"]["sysctl"] = {"kernel.shmmni": "123", "net.ipv4.ip_unprivileged_port_start": "77"}
        if more is not None:
            more(spec)
    return patch


def sandbox_bundle(kiln, more=None, **annotations):
    """Nothing of its root file system is needed."""
    bundle = kiln.bundle(["/pause"], sandbox_patch(more, **annotations))
    shutil.rmtree(bundle / "rootfs")
    return bundle


def start_pod(kiln, more=None, **annotations):
    name = kiln.new_id("pod")
    bundle = sandbox_bundle(kiln, more, **annotations)
    with open(kiln.directory / f"{name}.log", "wb") as log:
        kiln("create", "--bundle", bundle, name, check=True, stdout=log, stderr=log)
        assert kiln.state(name)["status"] == "created"
        kiln("start", name, check=True)
    return name


def member_of(kiln, name, types=ALL[:3], more=None):
    def marked(spec):
        spec["annotations"] = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": name}
        spec["hostname"] = ""
        if more is not None:
            more(spec)
    return test_pods.member_of(kiln, name, types, marked)


@pytest.fixture(scope="module")
def pod(shared):
    return start_pod(shared)


def shell(kiln, container, script):
    return kiln("exec", container, "/bin/sh", "-c", script, check=True).stdout


def no_pid_namespace(spec):
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "pid"]


def programs_in_guest(kiln, name):
    """Of processes of the guest that are not the asking member's own."""
    script = 'for p in /proc/[0-9]*; do [ -n "$(tr -d "\\0" < $p/cmdline)" ] && echo ${p#/proc/} $(tr "\\0" " " < $p/cmdline); done; true'
    out = kiln.sh(script, member_of(kiln, name, more=no_pid_namespace))
    return [line for line in out.splitlines() if "/bin/sh -c" not in line]


def test_no_process_of_the_sandbox_runs(shared, pod):
    state = shared.state(pod)
    assert state["status"] == "running" and set(shared.helpers(state["pid"])) >= {"vm", "fs"}
    assert os.listdir(f"/proc/{state['pid']}/root") == [], "the host's files in its mount namespace"
    assert [line.split()[0] for line in programs_in_guest(shared, pod)] == ["1"], "the agent alone"
    assert len(shared("ps", pod, check=True).stdout.splitlines()) == 1
    assert json.loads(shared("ps", "--format", "json", pod, check=True).stdout) is None, "as runc's empty list"
    done = shared("exec", pod, "true")
    assert done.returncode == 255 and f"sandbox {pod} runs no process" in done.stderr
    again = shared("start", pod)
    assert again.returncode == 1 and "already running" in again.stderr


def test_three_containers_share_what_a_pod_shares(shared, pod):
    server = shared.start_sleeper(member_of(shared, pod), args=["nc", "-ll", "-p", "8000", "-e", "echo", "from-a-member"])
    other = shared.start_sleeper(member_of(shared, pod))
    shell(shared, other, "touch /dev/mqueue/letters")
    script = ("hostname; ls /dev/mqueue; cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_unprivileged_port_start;"
              "for i in 1 2 3 4 5 6 7 8 9; do nc 127.0.0.1 8000 && break; sleep 0.3; done")
    out = shared.sh(script, member_of(shared, pod))
    assert out.split() == ["the-pod", "letters", "123", "77", "from-a-member"]
    for container in (server, other):
        assert "sleep 1000" not in shell(shared, server, "ps") and shell(shared, container, "hostname") == "the-pod\n"
    # The guest's own ipc namespace is another one.
    apart = shared.sh("hostname; cat /proc/sys/kernel/shmmni", member_of(shared, pod, ("network",)))
    assert apart.split()[-1] != "123"
    shell(shared, other, "rm /dev/mqueue/letters")


def test_the_sandbox_counts_its_containers(shared, pod):
    container = shared.start_sleeper(member_of(shared, pod))
    data = json.loads(shared("events", "--stats", pod, check=True).stdout)["data"]
    own = json.loads(shared("events", "--stats", container, check=True).stdout)["data"]
    assert data["pids"]["current"] >= own["pids"]["current"] == 1
    assert data["memory"]["usage"]["usage"] >= own["memory"]["usage"]["usage"] > 0


def test_a_shared_pid_namespace_has_an_init_that_reaps(kiln):
    name = start_pod(kiln)
    assert len(programs_in_guest(kiln, name)) == 1, "made before anybody wanted it"
    one = kiln.start_sleeper(member_of(kiln, name, ALL), args=["sleep", "1111"])
    two = kiln.start_sleeper(member_of(kiln, name, ALL), args=["sleep", "2222"])
    seen = shell(kiln, two, "ps")
    assert "sleep 1111" in seen and "sleep 2222" in seen and "1 65534    {pod-init}" in seen
    shell(kiln, two, "(sleep 0.3 &); kill -TERM 1; kill -KILL 1; ls /proc/1/root > /dev/null 2>&1 && exit 1; true")
    wait_for(lambda: "sleep 0.3" not in shell(kiln, two, "ps"), "end of the orphan")
    assert "Z" not in shell(kiln, one, "cat /proc/[0-9]*/stat | sed 's/.*) //' | cut -c1").split()
    # Each member's end is its own, and the init outlives them all.
    for container in (one, two):
        kiln("kill", container, "KILL", check=True)
        kiln.wait_status(container, "stopped")
    assert kiln.sh("echo $$", member_of(kiln, name, ALL)).strip() not in ("", "1")
    kiln("delete", "--force", name, check=True)


def test_a_container_killed_for_memory_is_created_again(shared, pod):
    def limit(spec):
        spec["linux"]["resources"]["memory"] = {"limit": 32 << 20, "swap": 32 << 20}

    watcher = shared.start_sleeper(member_of(shared, pod))
    name = "hungry-" + shared.mark[-6:]
    hungry = shared.bundle(["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"], member_of(shared, pod, more=limit))
    modest = shared.bundle(["echo", "modest"], member_of(shared, pod, more=limit))
    for _ in range(2):
        done = shared("run", "--keep", "--bundle", hungry, name)
        assert done.returncode == 137 and shared.state(name)["status"] == "stopped"
        shared("delete", name, check=True)
    assert shared("run", "--bundle", modest, name, check=True).stdout == "modest\n"
    assert shell(shared, watcher, "hostname") == "the-pod\n" and shared.state(pod)["status"] == "running"


@pytest.mark.parametrize("number,code", [("TERM", 0), ("INT", 0), ("KILL", 137)])
def test_a_signal_ends_the_pod(kiln, tmp_path, number, code):
    name = kiln.new_id("pod")
    volume = tmp_path / "volume"
    volume.mkdir()

    def with_volume(spec):
        spec["mounts"].append({"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]})

    process = kiln.start_background("run", "--keep", "--bundle", sandbox_bundle(kiln), name, stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = deadline_in(60)
    while kiln("state", name).returncode != 0 or kiln.state(name)["status"] != "running":
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    member = kiln.start_sleeper(member_of(kiln, name, more=with_volume))
    shell(kiln, member, "echo written > /volume/file")
    for ignored in ("HUP", "USR1", "CHLD"):
        kiln("kill", name, ignored, check=True)
    # A machine that stands is woken.
    for action in ("pause", "resume", "pause"):
        kiln(action, member, check=True)
        kiln(action, name, check=True)
    assert kiln.state(name)["status"] == "paused"
    kiln("kill", name, number, check=True)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (code, "", "")
    for container in (name, member):
        kiln.wait_status(container, "stopped")
        kiln("delete", container, check=True)
    assert (volume / "file").read_text() == "written\n"
    kiln.assert_clean()


def test_a_sandbox_that_never_started_is_deleted(kiln):
    name = kiln.new_id("pod")
    bundle = sandbox_bundle(kiln)
    for _ in range(2):
        kiln("create", "--bundle", bundle, name, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        kiln("delete", name, check=True)
    kiln.assert_clean()


def test_the_death_of_the_sandboxs_monitor_takes_everything_down(kiln):
    name = start_pod(kiln)
    pid = kiln.state(name)["pid"]
    members = [kiln.start_sleeper(member_of(kiln, name, ALL)) for _ in range(2)]
    os.kill(pid, signal.SIGKILL)
    for container in (*members, name):
        kiln.wait_status(container, "stopped")
        kiln("delete", container, check=True)
    kiln.assert_clean()


def test_the_pods_limits_size_its_machine(kiln):
    sizes = {"io.kubernetes.cri.sandbox-memory": str(320 << 20), "io.kubernetes.cri.sandbox-cpu-period": "100000",
             "io.kubernetes.cri.sandbox-cpu-quota": "150000"}
    name = start_pod(kiln, **sizes)
    out = kiln.sh("grep -c ^processor /proc/cpuinfo; sed -n 's/MemTotal: *//p' /proc/meminfo", member_of(kiln, name))
    processors, kib = out.split()[:2]
    assert int(processors) == min(2, os.cpu_count())
    assert 320 << 10 <= int(kib) <= 416 << 10
    done = kiln("update", "--cpu-share", "512", name)
    assert done.returncode == 0, done.stderr


def test_what_a_sandbox_cannot_be_is_refused(kiln):
    def user(spec):
        spec["linux"]["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        spec["linux"].update(uidMappings=ids, gidMappings=ids)

    def terminal(spec):
        spec["process"]["terminal"] = True

    def sysctl(spec):
        spec["linux"]["sysctl"] = {"net.no.such": "1"}

    for more, words in ((user, "cannot share a user namespace"), (terminal, "/process/terminal"),
                        (sysctl, "the guest's kernel has no such parameter")):
        done = kiln("run", "--bundle", sandbox_bundle(kiln, more), kiln.new_id("pod"))
        assert done.returncode == 1 and words in done.stderr
    kiln.assert_clean()


def test_a_cri_o_sandbox_is_one_too(kiln):
    def crio(spec):
        spec["annotations"] = {"io.kubernetes.cri-o.ContainerType": "sandbox"}

    name = start_pod(kiln, crio)
    assert kiln.sh("hostname", member_of(kiln, name)) == "the-pod\n"
    assert "runs no process" in kiln("exec", name, "true").stderr


MEMORY = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
/* "count": a number that grows; otherwise: whether it grows. */
int main(int argc, char** argv) {
  int fd = open("/dev/shm/counter", O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, 4096) != 0) return 2;
  volatile unsigned* counter = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (counter == MAP_FAILED) return 3;
  for (; argc > 1; usleep(10000)) ++*counter;
  unsigned first = *counter;
  for (int i = 0; i < 200 && *counter == first; ++i) usleep(50000);
  puts(*counter != first ? "grows" : "stands");
  return 0;
}
"""


def test_a_volume_is_one_to_all_its_members(kiln, tmp_path):
    program = tmp_path / "bin"
    program.mkdir()
    (program / "memory.c").write_text(MEMORY)
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", program / "memory", program / "memory.c"], check=True)
    shm = tmp_path / "shm"
    shm.mkdir()

    def volumes(spec):
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/dev/shm"]
        for source, destination in ((shm, "/dev/shm"), (program, "/program")):
            spec["mounts"].append({"destination": destination, "type": "bind", "source": str(source), "options": ["rbind"]})

    name = start_pod(kiln)
    counting = kiln.start_sleeper(member_of(kiln, name, more=volumes), args=["/program/memory", "count"])
    patch = member_of(kiln, name, more=volumes)
    assert kiln.run(["/program/memory"], patch).stdout == "grows\n"
    # Another one's end takes nothing away, nor does that of the first.
    assert kiln.run(["/program/memory"], patch).stdout == "grows\n"
    second = kiln.start_sleeper(patch, args=["/program/memory", "count"])
    kiln("delete", "--force", counting, check=True)
    assert kiln.run(["/program/memory"], patch).stdout == "grows\n"
    kiln("delete", "--force", second, check=True)
    assert kiln.run(["/program/memory"], patch).stdout == "stands\n"
    assert kiln.sh("echo more > /dev/shm/more; cat /dev/shm/more", patch) == "more\n"
    assert (shm / "more").read_text() == "more\n"
