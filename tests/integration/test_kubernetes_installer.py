# SPDX-License-Identifier: Apache-2.0
"""packaging/kubernetes: what its installer does to a node, and that its files agree with each other."""
import json
import os
import pathlib
import re
import shutil
import uuid

import pytest
import yaml

from conftest import BUSYBOX, TOP, cgroups_named, kiln_only
from engines import go_programs
from engines.engine import eventually, need
from kubernetes_node import MANIFESTS, NAME, Node

pytestmark = kiln_only
need("/usr/bin/containerd", "/usr/bin/wget")

VERSION_2 = 'version = 2\nimports = []\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "of/this:node"\n'
VERSION_3 = 'version = 3\n[plugins."io.containerd.cri.v1.images".pinned_images]\n  sandbox = "of/this:node"\n'
READY = {NAME: {"kiln.io/runtime": "true"}}


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path, VERSION_2)
    yield made
    made.close()


def handlers(node):
    """The runtime handlers that a kubelet would see: {name: its runtime's path}."""
    crictl = go_programs.program("crictl")
    target = node.root / "opt/crictl"  # /usr is read-only there
    shutil.copy(crictl, target)
    try:
        out = node.run("/opt/crictl", "--runtime-endpoint", "unix:///run/containerd/containerd.sock", "info")
        config = json.loads(out[out.index("{\n"):])["config"]  # behind its warnings
        return {name: of.get("runtimePath", "") for name, of in config["containerd"]["runtimes"].items()}
    finally:
        target.unlink()


def version_of(node):
    return os.readlink(node.root / "opt/kiln/current")


@pytest.mark.parametrize("containerd", ["1", "2"])
def test_installed_twice_and_removed(tmp_path, containerd):
    try:
        own = go_programs.program("containerd") if containerd == "2" else None
        go_programs.program("crictl")
    except go_programs.Unavailable as reason:
        pytest.skip(str(reason))
    node = Node(tmp_path, VERSION_3 if own else VERSION_2, own)
    try:
        before = node.files()
        assert list(handlers(node)) == ["runc"]
        node.complete("install")
        assert json.loads(node.labels()) == READY and node.restarts() == 2
        assert handlers(node) == {"runc": "", "kiln": f"/opt/kiln/{version_of(node)}/containerd-shim-kiln-v2"}
        assert "of/this:node" in node.run("containerd", "config", "dump")
        installed = node.files()
        node.complete("install")
        assert node.files() == installed and node.restarts() == 2
        node.complete("remove")
        assert node.files() == before and node.restarts() == 3
        assert json.loads(node.labels()) == {NAME: {}} and list(handlers(node)) == ["runc"]
        node.complete("remove")
        assert node.files() == before and node.restarts() == 3
    finally:
        node.close()


@pytest.mark.parametrize("mode", ["install", "remove"])
def test_killed_at_every_step(node, mode):
    before = node.files()
    node.complete("install")
    wanted = {"install": node.files(), "remove": before}[mode]
    node.complete("remove")
    node.count_steps()
    step = 0
    while True:
        node.complete("remove" if mode == "install" else "install")
        step += 1
        if not node.is_killed(mode, step):
            break
        node.complete(mode)
        assert node.files() == wanted, f"killed at step {step}: {node.log()}"
        assert ("runtimes.kiln]" in node.run("containerd", "config", "dump")) == (mode == "install")
        assert node.runs_with_its_files()
    assert step > 5, "the steps are not counted"


def test_pods_keep_the_version_that_they_were_started_with(tmp_path):
    node = Node(tmp_path, VERSION_2)
    mark = f"ktk{uuid.uuid4().hex[:8]}"
    try:
        rootfs = node.root / "var/rootfs"
        for name in ("bin", "dev", "proc", "sys", "tmp"):
            (rootfs / name).mkdir(parents=True)
        shutil.copy(BUSYBOX, rootfs / "bin/busybox")
        node.complete("install")
        first = version_of(node)
        sleeper = ["ctr", "run", "--detach", "--runtime", f"/opt/kiln/{first}/containerd-shim-kiln-v2", "--cgroup",
                   f"/{mark}", "--rootfs", "/var/rootfs", "sleeper", "/bin/busybox", "sleep", "1000"]
        node.run(*sleeper)
        node.configure("backend: qemu\nmachine:\n  memory: 300M\n")
        node.complete("install")
        second = version_of(node)
        assert {first, second} <= {path.name for path in (node.root / "opt/kiln").iterdir()} and first != second
        assert node.run("ctr", "task", "exec", "--exec-id", "e", "sleeper", "/bin/busybox", "echo", "alive") == "alive\n"
        remover = node.start("remove")
        eventually(lambda: f"/opt/kiln/{first}: waiting for the pods" in node.log())
        assert json.loads(node.labels()) == {NAME: {}}
        assert "runtimes.kiln]" in node.run("containerd", "config", "dump")
        node.stop(remover)
        node.run("ctr", "task", "delete", "--force", "sleeper")
        node.run("ctr", "container", "delete", "sleeper")
        node.complete("remove")
        assert not (node.root / "opt/kiln").exists()
    finally:
        node.close()
        for path in cgroups_named(mark):
            os.rmdir(path)


@pytest.mark.skipif(re.search(r"\b(vmx|svm)\b", pathlib.Path("/proc/cpuinfo").read_text()) is not None,
                    reason="this host has hardware virtualization")
def test_a_host_that_cannot_run_it_is_not_labelled(node):
    node.complete("install")
    node.configure("machine:\n  vcpus: 1\n")
    assert "no hardware virtualization, and kiln.yaml does not ask for emulation" in node.fails("install")
    assert json.loads(node.labels()) == {NAME: {}}


def test_a_configuration_that_containerd_cannot_read_is_taken_back(node):
    broken = "version = 2\n[plugins\n"
    (node.root / "etc/containerd/config.toml").write_text(broken)
    before = node.files()
    assert "containerd cannot read its configuration" in node.fails("install")
    assert {path: text for path, text in node.files().items() if path.startswith("etc")} == {
        path: text for path, text in before.items() if path.startswith("etc")}
    assert node.restarts() == 1 and node.labels() == "{}"


def test_what_somebody_else_wrote_is_left_alone(node):
    theirs = node.root / "etc/containerd/conf.d/kiln.toml"
    theirs.parent.mkdir()
    theirs.write_text("# ours, not yours\n")
    assert "left alone" in node.fails("install")
    assert theirs.read_text() == "# ours, not yours\n" and node.restarts() == 1


# -- the files of the folder


def manifests(name):
    return [part for part in yaml.safe_load_all((MANIFESTS / name).read_text()) if part]


def of_kind(kind, *names):
    found = [part for name in names for part in manifests(name) if part["kind"] == kind]
    assert found, kind
    return found


def test_the_manifests_agree_with_the_script_and_the_drop_in():
    script = (MANIFESTS / "installer.sh").read_text()
    label = re.search(r"^label=(.*)$", script, re.M)[1]
    runtime_class, = of_kind("RuntimeClass", "kiln.yaml")
    assert runtime_class["scheduling"]["nodeSelector"] == {label: "true"}
    drop_in = (TOP / "packaging/engines/containerd.toml").read_text()
    assert f".containerd.runtimes.{runtime_class['handler']}]" in drop_in
    pod, = manifests("example-pod.yaml")
    assert pod["spec"]["runtimeClassName"] == runtime_class["metadata"]["name"]
    account, = of_kind("ServiceAccount", "kiln.yaml")
    binding, = of_kind("ClusterRoleBinding", "kiln.yaml")
    role, = of_kind("ClusterRole", "kiln.yaml")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [(subject["name"], subject["namespace"]) for subject in binding["subjects"]] == [
        (account["metadata"]["name"], account["metadata"]["namespace"])]
    for part in of_kind("DaemonSet", "kiln.yaml", "remove.yaml"):
        template = part["spec"]["template"]
        assert part["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
        assert part["metadata"]["namespace"] == account["metadata"]["namespace"]
        assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]
        assert template["spec"]["hostPID"] is True
        container, = template["spec"]["containers"]
        assert container["image"] == "REGISTRY/kiln-installer:VERSION"
        assert container["args"][0] in ("install", "remove")
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in template["spec"]["volumes"]}
        assert f"ready={container['readinessProbe']['exec']['command'][-1]}\n" in script
        assert container["volumeMounts"][0]["mountPath"] == re.search(r"^place=(.*)$", script, re.M)[1]
        for variable in container["env"]:
            assert f"${variable['name']}" in script or f"${{{variable['name']}:-" in script


def test_the_image_has_what_the_script_copies():
    text = (MANIFESTS / "Containerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    assert {"kiln", "kiln-vmm", "containerd-shim-kiln-v2", "guest"} < set(sources)
    for source in sources:
        assert (TOP / source).exists() or (TOP / "build" / source).exists() or source == "guest", source
