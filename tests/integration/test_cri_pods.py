# SPDX-License-Identifier: Apache-2.0
"""Pods as a kubelet runs them: containerd's CRI plugin, with the runtime handlers that engines/cri.py names."""
import json
import pathlib
import signal

import pytest

from conftest import BOOT_ID, cgroups_named
from engines import cri_pod
from engines.cri import PAIRS, Cri, need_cri
from engines.cri_images import WEB_SERVER
from engines.cri_pod import Pod
from engines.engine import eventually, settles
from kubelet_volume import PLACE, Volume, build_watcher

need_cri()


@pytest.fixture(scope="module", params=PAIRS, ids="containerd{0[0]}-{0[1]}".format)
def pair(request):
    return request.param


@pytest.fixture(scope="module")
def cri(pair, tmp_path_factory):
    engine = Cri(tmp_path_factory.mktemp("cri"), pair[0])
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def handler(pair):
    return pair[1]


@pytest.fixture(scope="module")
def pod(cri, handler):
    """The one of most tests."""
    made = Pod(cri, handler, hostname="the-pod", dns_config={"servers": ["10.10.10.10"], "searches": ["example.org"]})
    yield made
    made.remove()


@pytest.fixture(scope="module")
def sleeper(pod):
    return pod.container("sleep", "1000")


def fetch(engine, url):
    """What a process on the engine's host gets."""
    done = engine.inside("/bin/busybox", "wget", "-q", "-O", "-", url)
    return done.stdout if done.returncode == 0 else None


def test_containers_of_a_pod_share_its_network_and_directories(pod, tmp_path):
    empty_dir = {"host_path": str(tmp_path), "container_path": "/shared"}
    server = pod.container(image=WEB_SERVER, mounts=[empty_dir])
    writer = pod.container("sh", "-c", "echo written > /shared/file; sleep 1000", mounts=[empty_dir])
    script = "for i in 1 2 3 4 5 6 7 8 9; do [ -f /shared/file ] && wget -q -O - localhost && break; sleep 0.5; done; cat /shared/file"
    reader = pod.container("sh", "-c", script, mounts=[{**empty_dir, "readonly": True}])
    assert (reader.wait()["exitCode"], reader.log()) == (0, "Welcome\nwritten")
    assert (tmp_path / "file").read_text() == "written\n"
    assert fetch(pod.engine, f"http://{pod.address()}") == "Welcome\n"
    # Localhost is the pod's, the processes are each container's own.
    assert "nginx" not in writer.exec("ps") and "nginx" in server.exec("ps")
    for container in (server, writer, reader):
        container.remove()


def test_a_pod_may_share_its_processes(cri, handler):
    shared = Pod(cri, handler, pid=cri_pod.POD)
    shared.container("sleep", "1234")
    watcher = shared.container("sleep", "1000")
    assert "sleep 1234" in watcher.exec("ps")
    assert "sleep" not in watcher.exec("cat", "/proc/1/cmdline")
    shared.remove()


def test_a_machine_of_its_own(handler, pod, sleeper):
    boot_ids = {sleeper.exec("cat", "/proc/sys/kernel/random/boot_id") for _ in range(2)}
    other = pod.container("cat", "/proc/sys/kernel/random/boot_id")
    assert other.wait()["exitCode"] == 0
    assert boot_ids == {other.log()}
    assert (boot_ids != {BOOT_ID}) == (handler != "runc")
    other.remove()


def test_what_the_pod_says_of_names(sleeper):
    assert sleeper.exec("hostname") == "the-pod"
    assert sleeper.exec("cat", "/etc/resolv.conf").split() == ["search", "example.org", "nameserver", "10.10.10.10"]


def test_probes_and_sessions(sleeper):
    assert sleeper.exec("sh", "-c", "echo good; echo bad >&2").split() == ["good", "bad"]
    failed = sleeper.exec("sh", "-c", "exit 3", check=False)
    assert failed.returncode != 0 and "3" in failed.stderr
    slow = sleeper.engine("exec", "--sync", "--timeout", "1", sleeper.id, "sleep", "30", check=False)
    assert slow.returncode != 0 and "DeadlineExceeded" in slow.stderr
    assert sleeper.stream("cat", flags=["--interactive"], input="typed\n") == "typed"
    assert "sleep 30" not in sleeper.exec("ps")


def test_an_end_has_a_code_and_a_log(pod):
    ended = pod.container("sh", "-c", "echo one; echo two >&2; exit 7")
    status = ended.wait()
    assert (status["exitCode"], status["reason"]) == (7, "Error")
    lines = (pod.logs / status["logPath"].rsplit("/", 1)[1]).read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines) == ["stderr F two", "stdout F one"]
    ended.remove()


@pytest.mark.parametrize("trap, code", [("trap 'exit 5' TERM;", 5), ("trap '' TERM;", 128 + signal.SIGKILL)])
def test_termination_is_asked_for_then_forced(pod, trap, code):
    service = pod.container("sh", "-c", f"{trap} echo ready; while :; do sleep 0.1; done")
    eventually(lambda: service.log() == "ready")
    service.stop(seconds=2)
    assert service.wait()["exitCode"] == code
    service.remove()


def test_a_restarted_container_is_a_new_one_in_the_same_pod(pod, sleeper):
    boot_id = sleeper.exec("cat", "/proc/sys/kernel/random/boot_id")
    for attempt in range(3):
        again = pod.container("sh", "-c", "cat /attempt /proc/sys/kernel/random/boot_id; echo lost > /attempt")
        assert again.wait()["exitCode"] == 0
        assert again.log().splitlines()[-1] == boot_id, attempt
        assert "lost" not in again.log()
        again.remove()


def test_port_forward_reaches_the_pods_localhost(pod):
    server = pod.container(image=WEB_SERVER)
    # crictl, like kubectl, gives a forward up for good when a connection is refused.
    eventually(lambda: fetch(pod.engine, f"http://{pod.address()}"))
    forward, port = pod.forward(80)
    try:
        for _ in range(3):
            assert fetch(pod.engine, f"http://127.0.0.1:{port}") == "Welcome\n"
    finally:
        forward.terminate()
        forward.wait()
        server.remove()


def test_limits_can_be_changed(pod):
    """What the container's own cgroup says, whatever the version of its kernel's cgroups."""
    limited = pod.container("sleep", "1000", linux={"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_quota": 50000,
                                                                  "cpu_period": 100000}})
    read = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes " \
           "/sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us"
    assert limited.exec("sh", "-c", f"({read}) 2>/dev/null").split() == [str(64 << 20), "50000", "100000"]
    limited.update("--memory", 96 << 20, "--cpu-quota", 70000)
    assert limited.exec("sh", "-c", f"({read}) 2>/dev/null").split() == [str(96 << 20), "70000", "100000"]
    limited.remove()


def test_one_of_three_is_killed_for_its_memory_and_comes_again(pod, sleeper):
    server = pod.container(image=WEB_SERVER)
    script = "cat /proc/sys/kernel/random/boot_id; head -c 100m /dev/zero | tail"
    limits = {"linux": {"resources": {"memory_limit_in_bytes": 32 << 20}}}
    for _ in range(2):
        greedy = pod.container("sh", "-c", script, **limits)
        status = greedy.wait()
        assert status["exitCode"] == 137 or status["reason"] == "OOMKilled", status
        assert greedy.log() == sleeper.exec("cat", "/proc/sys/kernel/random/boot_id")
        greedy.remove()
    assert sleeper.exec("wget", "-q", "-O", "-", "127.0.0.1") == "Welcome"
    server.remove()


def test_a_changed_config_map_is_seen_by_who_watches(pod, handler, tmp_path):
    volume = Volume(tmp_path)
    volume.write({"key": "old"})
    watcher = pod.container(
        "/bin/watcher", PLACE,
        mounts=[{"host_path": str(volume.path), "container_path": PLACE, "readonly": True},
                {"host_path": str(build_watcher(tmp_path)), "container_path": "/bin/watcher", "readonly": True}])
    eventually(lambda: "ready" in watcher.log())
    volume.write({"key": "new"})
    eventually(lambda: "..data" in watcher.log(), 2 if handler == "kiln" else 10)
    assert watcher.exec("cat", f"{PLACE}/key") == "new"
    watcher.remove()


def test_stats_of_a_container(pod):
    busy = pod.container("sh", "-c", "while :; do :; done")

    def used():
        stats = busy.stats()
        return int(stats["cpu"]["usageCoreNanoSeconds"]["value"]), int(stats["memory"]["workingSetBytes"]["value"])

    first = used()[0]
    eventually(lambda: used()[0] > first + 10**8 and used()[1] > 0)
    busy.remove()


def test_containers_have_no_cgroup_on_the_node_from_which_a_kubelet_would_count(cri, pod, sleeper, handler):
    """A kubelet takes what it finds there for the container's figures, and asks containerd where there is nothing."""
    assert cgroups_named(pod.id), "the sandbox has one"
    assert bool(cgroups_named(sleeper.id)) == (handler == "runc")
    if handler != "runc":
        pid = json.loads(cri("inspect", sleeper.id))["info"]["pid"]
        assert pod.id in pathlib.Path(f"/proc/{pid}/cgroup").read_text()


def test_masked_and_read_only_paths(pod):
    shown = pod.container("sh", "-c", "wc -c < /etc/passwd; touch /tmp/x",
                          linux={"security_context": {"masked_paths": ["/etc/passwd"], "readonly_paths": ["/tmp"]}})
    assert shown.wait()["exitCode"] == 1
    assert shown.log().splitlines()[:1] == ["0"]
    assert "Read-only file system" in (pod.logs / shown.status()["logPath"].rsplit("/", 1)[1]).read_text()
    shown.remove()


def test_a_pod_that_is_gone_leaves_nothing(cri, handler):
    def present():
        return {"processes": sorted(cri.processes().values()), "mounts": cri.mounts(), "cgroups": cgroups_named(cri.mark),
                "addresses": sorted(path.name for path in (cri.directory / "cni/leases/pods").glob("[0-9]*")),
                "interfaces": cri.interfaces(), "pods": cri("pods", "--quiet"), "containers": cri("ps", "--all", "--quiet")}

    def one():
        made = Pod(cri, handler)
        made.container("sleep", "1000")
        made.container("true").wait()
        made.remove()

    one()  # what there is once and for all
    before = present()
    one()
    settles(present, before)
