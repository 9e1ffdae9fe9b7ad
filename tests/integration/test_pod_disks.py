# SPDX-License-Identifier: Apache-2.0
"""Containers of a pod that bring disks: its machine runs already, and takes them into spare slots."""
import fcntl
import os
import signal

import pytest

from conftest import BACKEND, kiln_only
from engines.engine import eventually
from test_block import disk, make, on_image
from test_pod_sandbox import member_of, start_pod

SPARE = 4  # machine.spare_drives, of a pod

pytestmark = kiln_only
takes_disks = pytest.mark.skipif(BACKEND != "kvm", reason="QEMU's machine takes no disks while it runs")


@pytest.fixture(scope="module")
def pod(shared):
    return start_pod(shared)


@pytest.fixture
def new_disk(tmp_path):
    def made(name):
        tree = tmp_path / f"{name}.tree"
        tree.mkdir()
        (tree / "name").write_text(f"{name}\n")
        return make("ext4", tmp_path / f"{name}.img", tree, megabytes=8)
    return made


def is_free(image):
    with open(image, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@takes_disks
def test_root_and_volume_come_and_go(shared, pod, new_disk, tmp_path, busybox_rootfs):
    root = make("ext4", tmp_path / "root.img", busybox_rootfs)
    data = new_disk("data")
    for number in range(SPARE + 1):  # the slots are used again
        out = shared.sh(f"cat /data/name; echo {number} > /data/number; echo {number} > /etc/number; grep -c ^/dev/vd /proc/mounts",
                        member_of(shared, pod, more=disk(data)), rootfs=root)
        assert out.splitlines() == ["data", "2"]
        assert is_free(root) and is_free(data)
        assert on_image(data, "cat /number") == on_image(root, "cat /etc/number") == f"{number}\n"


@takes_disks
def test_each_sees_its_own(shared, pod, new_disk):
    names = [f"d{number}" for number in range(SPARE)]
    images = {name: new_disk(name) for name in names}
    members = {name: shared.start_sleeper(member_of(shared, pod, more=disk(images[name]))) for name in names}
    for name, member in members.items():
        assert shared("exec", member, "cat", "/data/name", check=True).stdout == f"{name}\n"
    done = shared("run", "--bundle", shared.bundle(["true"], member_of(shared, pod, more=disk(new_disk("more")))), shared.new_id())
    assert done.returncode == 1 and "the machine takes no further disk" in done.stderr, done.stderr
    shared("kill", members["d0"], "KILL", check=True)
    shared.wait_status(members["d0"], "stopped")
    assert shared.sh("cat /data/name", member_of(shared, pod, more=disk(images["d0"]))) == "d0\n"
    # A monitor that is killed leaves the disk to the pod's, which takes it back.
    os.kill(shared.state(members["d1"])["pid"], signal.SIGKILL)
    eventually(lambda: is_free(images["d1"]))
    for member in members.values():
        shared("delete", "--force", member, check=True)
    assert all(is_free(image) for image in images.values())


@takes_disks
def test_a_read_only_disk_is_one(shared, pod, new_disk):
    image = new_disk("fixed")
    before = image.read_bytes()
    out = shared.sh("cat /data/name; (: > /data/new) 2>&1 || true", member_of(shared, pod, more=disk(image, "ro")))
    assert out.startswith("fixed\n") and "Read-only file system" in out
    assert image.read_bytes() == before


@pytest.mark.skipif(BACKEND == "kvm", reason="kiln's own machine takes disks while it runs")
def test_qemu_has_no_room_for_them(shared, pod, new_disk):
    image = new_disk("data")
    done = shared("run", "--bundle", shared.bundle(["true"], member_of(shared, pod, more=disk(image))), shared.new_id())
    assert done.returncode == 1 and "the machine takes no further disk" in done.stderr, done.stderr
    assert is_free(image)
