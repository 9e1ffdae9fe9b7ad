# SPDX-License-Identifier: Apache-2.0
"""Pods of a real cluster of one node, as docs/kubernetes.md says what works. Not collected by the ordinary suite, for its
name: Kubernetes takes Go and minutes to build."""
import json
import re
import signal
import subprocess

import pytest
import yaml

from conftest import BOOT_ID, kiln_only
from engines import go_programs
from engines.cri import need_cri
from engines.cri_images import IMAGE
from engines.engine import eventually, settles
from engines.kubernetes import MANIFESTS, NODE, Kubernetes
from kubelet_volume import build_watcher

pytestmark = kiln_only
need_cri()
GUEST_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    try:
        for name in go_programs.SLOW_PROGRAMS:
            go_programs.program(name)
    except go_programs.Unavailable as reason:
        pytest.skip(str(reason))
    made = Kubernetes(tmp_path_factory.mktemp("k"))
    try:
        made.run("first-of-all")  # what there is once and for all: a bridge, an image
        made.kubectl("delete", "pod", "first-of-all")
        eventually(lambda: not made.has_pods(), 60)
        made.idle = made.present()
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def only_its_own(cluster):
    """Nothing of a test's pods is left on the node."""
    yield
    cluster.kubectl("delete", "pods", "--all")
    cluster.kubectl("delete", "configmap/cm", "secret/sec", "--ignore-not-found")
    settles(cluster.present, cluster.idle, 60)


def object_of(kind, name, **fields):
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}


def statuses(cluster, name):
    """{container: its status}"""
    return {one["name"]: one for one in cluster.get("pod", name)["status"].get("containerStatuses", [])}


def test_the_first_pod(cluster):
    pod, = yaml.safe_load_all((MANIFESTS / "example-pod.yaml").read_text())
    pod["spec"]["containers"][0]["image"] = IMAGE
    cluster.apply(pod)
    name = cluster.wait_ready(pod["metadata"]["name"])
    assert cluster.kubectl("logs", name).startswith("Linux ")
    assert cluster.exec(name, "cat", GUEST_BOOT_ID) != BOOT_ID
    made = cluster.get("pod", name)
    assert made["spec"]["overhead"]["memory"] and made["spec"]["nodeName"] == NODE
    assert cluster.exec(name, "sh", "-c", "exit 3", check=False).returncode == 3
    assert cluster.exec(name, "cat", input="through stdin") == ""


def test_exec_attach_cp_and_port_forward(cluster, tmp_path):
    pod = cluster.run("tools", {"command": ["sh", "-c", "mkdir /www; echo hello > /www/index.html; httpd -p 8080 -h /www; cat"],
                                "stdin": True})
    attached = cluster.start_kubectl("attach", "-i", "-q", pod, stdin=subprocess.PIPE)
    attached.stdin.write("to its stdin\n")
    attached.stdin.flush()
    assert attached.stdout.readline() == "to its stdin\n"
    attached.kill()
    attached.wait()
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 4096)
    cluster.kubectl("cp", source, f"{pod}:/tmp/copied")
    cluster.kubectl("cp", f"{pod}:/tmp/copied", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    forward = cluster.start_kubectl("port-forward", f"pod/{pod}", ":8080")
    port = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())[1]
    assert cluster.inside("wget", "-qO-", f"http://127.0.0.1:{port}/", check=True).stdout == "hello\n"
    forward.terminate()
    forward.wait()


@pytest.fixture(scope="module")
def watcher(tmp_path_factory):
    directory = tmp_path_factory.mktemp("watcher")
    build_watcher(directory)
    return {"name": "watcher", "hostPath": {"path": str(directory)}}


def test_volumes_follow_their_objects(cluster, watcher):
    cluster.apply(object_of("ConfigMap", "cm", data={"a": "one"}), object_of("Secret", "sec", stringData={"p": "one"}))
    mounts = {"cm": "/cm", "sec": "/sec", "down": "/down", "proj": "/proj"}
    volumes = [{"name": "cm", "configMap": {"name": "cm"}}, {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 0o400}},
               {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
               {"name": "proj", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "cm"}}]}},
               watcher]
    pod = cluster.run("volumes", {
        "command": ["/watcher/watcher", *mounts.values()],
        "volumeMounts": [{"name": name, "mountPath": place} for name, place in {**mounts, "watcher": "/watcher"}.items()] + [
            {"name": "cm", "mountPath": "/one-file", "subPath": "a"}]}, volumes=volumes)
    assert cluster.exec(pod, "cat", "/cm/a", "/sec/p", "/proj/a", "/one-file") == "one" * 4
    assert cluster.exec(pod, "cat", "/proj/token").count(".") == 2
    assert cluster.exec(pod, "stat", "-L", "-c", "%a", "/sec/p") == "400"
    cluster.apply(object_of("ConfigMap", "cm", data={"a": "two", "b": "new"}), object_of("Secret", "sec", stringData={"p": "two"}))
    cluster.kubectl("label", "pod", pod, "color=red")

    def seen():
        return {line.split()[0] for line in cluster.kubectl("logs", pod).splitlines() if "MOVED_TO ..data" in line}
    eventually(lambda: seen() == set(mounts.values()), 30, 0.5)
    assert cluster.exec(pod, "cat", "/cm/a", "/cm/b", "/sec/p", "/proj/a", "/one-file") == "twonewtwotwoone"
    assert 'color="red"' in cluster.exec(pod, "cat", "/down/labels")


def test_empty_dirs_host_paths_and_eviction(cluster, tmp_path):
    (tmp_path / "from-node").write_text("node\n")
    places = [{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
              {"name": "node", "mountPath": "/node"}, {"name": "disk", "mountPath": "/below", "subPath": "a/b"}]
    volumes = [{"name": "disk", "emptyDir": {"sizeLimit": "8Mi"}}, {"name": "node", "hostPath": {"path": str(tmp_path)}},
               {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}]
    pod = cluster.run("dirs", {"volumeMounts": places}, {"volumeMounts": places[:2]}, volumes=volumes,
                      securityContext={"fsGroup": 4321})
    cluster.exec(pod, "sh", "-c", "echo x > /disk/f; echo y > /memory/f; echo z > /below/f; echo w > /node/from-pod")
    assert cluster.exec(pod, "sh", "-c", "cat /disk/f /memory/f /disk/a/b/f", container="c1") == "x\ny\nz"
    assert (tmp_path / "from-pod").read_text() == "w\n" and cluster.exec(pod, "cat", "/node/from-node") == "node"
    assert cluster.exec(pod, "stat", "-c", "%g %a", "/disk") == "4321 2777"
    full = cluster.exec(pod, "dd", "if=/dev/zero", "of=/memory/big", "bs=1M", "count=8", check=False)
    assert full.returncode == 1 and "No space left" in full.stderr
    cluster.exec(pod, "dd", "if=/dev/zero", "of=/disk/big", "bs=1M", "count=16")
    eventually(lambda: cluster.get("pod", pod)["status"].get("reason") == "Evicted", 60, 0.5)
    assert "exceeds the limit" in cluster.get("pod", pod)["status"]["message"]


def test_init_containers_sidecars_probes_and_hooks(cluster, tmp_path):
    shared = {"volumeMounts": [{"name": "d", "mountPath": "/d"}, {"name": "node", "mountPath": "/node"}]}
    inits = cluster.pod("unused", {
        "name": "first", "command": ["sh", "-c", f"cat {GUEST_BOOT_ID} > /d/first"], **shared}, {
        "name": "sidecar", "restartPolicy": "Always", **shared,
        "command": ["sh", "-c", "trap 'date +%s%N > /node/sidecar; exit 0' TERM; while :; do sleep 0.1; done"],
        "startupProbe": {"exec": {"command": ["test", "-e", "/d/first"]}, "periodSeconds": 1}})["spec"]["containers"]
    pod = cluster.run("life", {
        "command": ["sh", "-c", "touch /tmp/ok; sleep 5; rm /tmp/ok; exec sleep 1000"],
        "livenessProbe": {"exec": {"command": ["cat", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 2}}, {
        "command": ["sh", "-c", "mkdir /www; echo ok > /www/ok; httpd -p 8080 -h /www; "
                    "trap 'date +%s%N > /node/main; exit 0' TERM; while :; do sleep 0.1; done"],
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/ok"}, "periodSeconds": 1, "timeoutSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 5},
        "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo > /node/started"]}},
                      "preStop": {"exec": {"command": ["sh", "-c", "date +%s%N > /node/stopping; sleep 1"]}}}, **shared}, {
        "command": ["sh", "-c", "[ -e /d/again ] && exec sleep 1000; touch /d/again; echo -n the last word > /dev/termination-log; exit 7"],
        **shared}, initContainers=inits, volumes=[{"name": "d", "emptyDir": {}}, {"name": "node", "hostPath": {"path": str(tmp_path)}}],
        terminationGracePeriodSeconds=20)
    assert cluster.exec(pod, "cat", "/d/first", container="c1") == cluster.exec(pod, "cat", GUEST_BOOT_ID, container="c0")
    ended = statuses(cluster, pod)["c2"]["lastState"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (7, "the last word")
    eventually(lambda: statuses(cluster, pod)["c0"]["restartCount"] >= 1, 60, 0.5)
    assert statuses(cluster, pod)["c1"]["restartCount"] == 0 and statuses(cluster, pod)["c1"]["ready"]
    cluster.exec(pod, "killall", "httpd", container="c1")
    eventually(lambda: statuses(cluster, pod)["c1"]["restartCount"] == 1 and statuses(cluster, pod)["c1"]["ready"], 60, 0.5)
    (tmp_path / "main").unlink()
    cluster.kubectl("delete", "pod", pod)
    times = [int((tmp_path / name).read_text()) for name in ("stopping", "main", "sidecar")]
    assert times == sorted(times) and (tmp_path / "started").exists()


def test_a_container_out_of_memory_is_restarted_and_the_other_goes_on(cluster):
    pod = cluster.run("oom", {"command": ["sh", "-c", "sleep 5; a=x; while :; do a=$a$a; done"]}, {})
    other = cluster.exec(pod, "cat", GUEST_BOOT_ID, container="c1")
    eventually(lambda: statuses(cluster, pod)["c0"]["restartCount"] >= 1, 60, 0.5)
    assert statuses(cluster, pod)["c0"]["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert statuses(cluster, pod)["c1"]["restartCount"] == 0
    assert cluster.exec(pod, "cat", GUEST_BOOT_ID, container="c1") == other


def test_security_contexts_and_sysctls(cluster):
    pod = cluster.run("secure", {
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "command": ["sh", "-c", "httpd -f -p 81 -h / & exec sleep 1000"], "volumeMounts": [{"name": "d", "mountPath": "/d"}]}, {
        "securityContext": {"runAsUser": 0, "runAsNonRoot": False, "capabilities": {"add": ["NET_ADMIN"]},
                            "seccompProfile": {"type": "Unconfined"}}},
        shareProcessNamespace=True, hostname="chosen", volumes=[{"name": "d", "emptyDir": {}}], securityContext={
            "runAsUser": 1234, "runAsGroup": 1235, "fsGroup": 4321, "runAsNonRoot": True,
            "supplementalGroups": [777], "seccompProfile": {"type": "RuntimeDefault"}, "sysctls": [
                {"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}, {"name": "kernel.shm_rmid_forced", "value": "1"}]})
    assert cluster.exec(pod, "id", container="c0") == "uid=1234 gid=1235 groups=777,1235,4321"
    assert cluster.exec(pod, "hostname") == "chosen"
    status = dict(line.split(":\t", 1) for line in cluster.exec(pod, "cat", "/proc/self/status").splitlines())
    assert (status["CapEff"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "1", "2")
    assert "Read-only file system" in cluster.exec(pod, "touch", "/x", check=False).stderr
    cluster.exec(pod, "touch", "/d/x")
    assert cluster.exec(pod, "cat", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/net/ipv4/ip_unprivileged_port_start") == "1\n80"
    assert "httpd -f -p 81" in cluster.exec(pod, "ps", container="c1")
    cluster.exec(pod, "ip", "link", "add", "b0", "type", "bridge", container="c1")


def test_a_running_pod_is_resized(cluster):
    pod = cluster.run("sized", {"resources": {"limits": {"cpu": "500m", "memory": "128Mi"}}})
    first = statuses(cluster, pod)["c0"]["containerID"]
    cluster.kubectl("patch", "pod", pod, "--subresource", "resize", "--patch", json.dumps({"spec": {"containers": [
        {"name": "c0", "resources": {"requests": {"cpu": "250m", "memory": "96Mi"}, "limits": {"cpu": "250m", "memory": "96Mi"}}}]}}))
    eventually(lambda: cluster.exec(pod, "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max")
               == f"25000 100000\n{96 << 20}", 60, 0.5)
    eventually(lambda: statuses(cluster, pod)["c0"]["resources"]["limits"] == {"cpu": "250m", "memory": "96Mi"}, 60, 0.5)
    assert statuses(cluster, pod)["c0"]["containerID"] == first


def test_pods_outlive_the_kubelet_and_containerd(cluster):
    pod = cluster.run("alive", {}, {})
    before = {name: one["containerID"] for name, one in statuses(cluster, pod).items()}
    boot = cluster.exec(pod, "cat", GUEST_BOOT_ID)
    cluster.restart_kubelet(signal.SIGKILL)
    cluster.restart_containerd(signal.SIGKILL)
    eventually(lambda: cluster.exec(pod, "true", check=False).returncode == 0, 60, 0.5)
    assert cluster.exec(pod, "cat", GUEST_BOOT_ID) == boot
    assert {name: one["containerID"] for name, one in statuses(cluster, pod).items()} == before
    assert all(one["restartCount"] == 0 for one in statuses(cluster, pod).values())
