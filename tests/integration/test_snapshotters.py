# SPDX-License-Identifier: Apache-2.0
"""Root file systems as containerd's snapshotters give them: overlays, and images with a file system of their own."""
import pathlib
import shutil

import pytest

from conftest import BACKEND, kiln_only
from engines import go_programs
from engines.containerd import (CONTAINERD, CTR, BlockContainerd, ErofsContainerd, ErofsDiskContainerd,
                                ShimContainerd)
from engines.engine import need, settles

need(CONTAINERD, CTR)
pytestmark = kiln_only


class OverlayContainerd(ShimContainerd):
    snapshotter = "overlayfs"


@pytest.fixture(scope="module", params=[(OverlayContainerd, "kiln"), (BlockContainerd, "/dev/vda"), (ErofsContainerd, "kiln"),
                                        (ErofsDiskContainerd, "overlay")],
                ids=["overlayfs", "blockfile", "erofs", "erofs-disk"])
def pair(request, tmp_path_factory, busybox_rootfs):
    kind, device = request.param
    if kind is not OverlayContainerd and (reason := go_programs.unavailable()):
        pytest.skip(reason)
    if issubclass(kind, ErofsContainerd):
        if not shutil.which("mkfs.erofs"):
            pytest.skip("erofs-utils is not installed")
        if "\terofs\n" not in pathlib.Path("/proc/filesystems").read_text():
            pytest.skip("this kernel has no erofs, by which containerd unpacks")
    engine = kind(tmp_path_factory.mktemp("snapshots"), busybox_rootfs)
    yield engine, device
    engine.close()


def test_a_container_writes_to_its_snapshot(pair):
    engine, device = pair
    name = engine.new_name()
    script = "grep ' / ' /proc/mounts; echo written > /file; cat /file; touch /bin/new && ls /bin/new; sync"
    lines = engine.run(engine.image, name, "sh", "-c", script).splitlines()
    assert lines[0].split()[0] == device and lines[1:] == ["written", "/bin/new"]
    engine("container", "delete", name)


def test_snapshots_are_apart_and_kept(pair):
    engine, _ = pair
    first, second = engine.new_name(), engine.new_name()
    engine.run("--detach", engine.image, first, "sh", "-c", "[ -e /file ] || echo one > /file; sleep 1000")
    assert engine.run("--rm", engine.image, second, "sh", "-c", "cat /file 2>&1 | tail -c 10; exit 4", check=False).returncode == 4
    engine("task", "kill", "--signal", "SIGKILL", first)
    settles(lambda: engine.tasks().get(first), "STOPPED")
    engine("task", "delete", first, check=False)
    engine("task", "start", "--detach", first)
    assert engine("task", "exec", "--exec-id", "look", first, "cat", "/file") == "one"
    engine("task", "kill", "--signal", "SIGKILL", first)
    settles(lambda: engine.tasks().get(first), "STOPPED")
    engine("task", "delete", first, check=False)
    engine("container", "delete", first)


def test_layers_change_remove_and_replace_what_is_below(pair):
    engine, _ = pair
    if not isinstance(engine, ErofsContainerd):
        pytest.skip("the image has one layer")
    name = engine.new_name()
    lines = engine.run(engine.image, name, "sh", "-c",
                       "ls /home /tmp; cat /etc/second /tmp/new; rm /etc/second /tmp/new; ls /etc").splitlines()
    assert lines == ["/home:", "", "/tmp:", "new", "second", "third", "group", "passwd"]
    engine("container", "delete", name)


def test_a_read_only_root(pair):
    engine, _ = pair
    done = engine.run("--rm", "--read-only", engine.image, engine.new_name(), "sh", "-c", "echo > /file", check=False)
    assert done.returncode == 1 and "Read-only file system" in done.stderr, done.stderr


def test_containers_of_a_pod_have_snapshots_of_their_own(pair):
    """On kiln's own machine a disk goes into the pod's machine while that runs; QEMU's has it shared."""
    engine, device = pair
    if BACKEND != "kvm" or not device.startswith("/dev/"):
        device = "kiln"
    pod = engine.new_name("pod")

    def annotations(kind):
        return ["--annotation", f"io.kubernetes.cri.container-type={kind}", "--annotation", f"io.kubernetes.cri.sandbox-id={pod}"]

    engine.run("--detach", *annotations("sandbox"), engine.image, pod, "pause")
    pid = next(line.split()[1] for line in engine("task", "list").splitlines() if line.startswith(pod))
    names = [engine.new_name(f"in{number}-") for number in range(2)]
    for name in names:
        engine.run("--detach", *annotations("container"), "--with-ns", f"network:/proc/{pid}/ns/net", engine.image, name,
                   "sh", "-c", f"echo {name} > /file; sleep 1000")
    for name in names:
        lines = engine("task", "exec", "--exec-id", "look", name, "sh", "-c", "sleep 0.5; cat /file; grep ' / ' /proc/mounts").splitlines()
        assert lines[0] == name and lines[1].startswith(device[:-1])
    for name in [*names, pod]:
        engine("task", "kill", "--signal", "SIGKILL", name)
        settles(lambda name=name: engine.tasks().get(name), "STOPPED")
        engine("task", "delete", name, check=False)
        engine("container", "delete", name)  # with its snapshot, which nobody has open any more


def test_nothing_is_left(pair):
    engine, _ = pair
    settles(lambda: {key: value for key, value in engine.traces().items() if value}, {})
