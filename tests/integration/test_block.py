# SPDX-License-Identifier: Apache-2.0
"""Root file systems and mounts on block devices and image files."""
import json
import os
import re
import stat
import subprocess

import pytest

from conftest import kiln_only

pytestmark = kiln_only


def make(kind, image, tree, megabytes=24):
    """A file system of `kind` in the file `image`, with what is in `tree`."""
    if kind == "erofs":
        subprocess.run(["mkfs.erofs", "-zlz4", image, tree], check=True, stdout=subprocess.DEVNULL)
    else:
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([f"mkfs.{kind}", "-q", "-F", *(["-d", tree] if tree else []), image], check=True)
    return image


def on_image(image, command):
    return subprocess.run(["debugfs", "-R", command, image], check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True).stdout


def assert_unmounted(image):
    """That the last one who wrote it was done: no journal to replay, nothing to mend."""
    header = subprocess.run(["dumpe2fs", "-h", image], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            text=True).stdout
    assert re.search(r"^Filesystem state: +clean$", header, re.M)
    assert "needs_recovery" not in header
    subprocess.run(["e2fsck", "-fn", image], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def images(tmp_path_factory, busybox_rootfs):
    """{"ext4", "erofs": an image of the busybox root file system}; for reading only."""
    directory = tmp_path_factory.mktemp("images")
    return {kind: make(kind, directory / kind, busybox_rootfs) for kind in ("ext4", "erofs")}


@pytest.fixture
def root_image(tmp_path, busybox_rootfs):
    return make("ext4", tmp_path / "root.img", busybox_rootfs)


@pytest.fixture
def data_image(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/there").write_text("from the image\n")
    return make("ext4", tmp_path / "data.img", tmp_path / "tree", megabytes=8)


def disk(image, *options, kind="ext4"):
    def patch(spec):
        spec["mounts"].append({"destination": "/data", "type": kind, "source": str(image), "options": list(options)})
    return patch


def test_root_on_ext4_is_written_and_unmounted(kiln, root_image):
    out = kiln.sh("echo hello > /etc/made; grep ' / ' /proc/mounts", rootfs=root_image)
    assert re.match(r"/dev/vd[a-z] / ext4 rw", out)
    assert on_image(root_image, "cat /etc/made") == "hello\n"
    assert_unmounted(root_image)
    assert kiln.sh("cat /etc/made", rootfs=root_image) == "hello\n"
    kiln.assert_clean()


def test_root_of_a_killed_container_is_unmounted_too(kiln, root_image):
    container = kiln.start_sleeper(rootfs=root_image, args=("sh", "-c", "sleep 1000 & sleep 1000"))
    kiln("exec", container, "sh", "-c", "echo late > /etc/late", check=True)
    kiln("kill", container, "KILL", check=True)
    kiln.wait_status(container, "stopped")
    assert on_image(root_image, "cat /etc/late") == "late\n"
    assert_unmounted(root_image)


@pytest.mark.parametrize("kind", ["ext4", "erofs"])
def test_read_only_root(kiln, images, kind):
    before = images[kind].read_bytes()
    out = kiln.sh("(: > /etc/made) 2>&1; grep ' / ' /proc/mounts; cat /sys/block/vd*/ro", rootfs=images[kind],
                  writable=False)
    assert "Read-only file system" in out
    assert re.search(rf"^/dev/vd[a-z] / {kind} ro", out, re.M)
    assert out.splitlines()[-1] == "1"  # the device is, and not only its mount
    assert images[kind].read_bytes() == before


def test_erofs_is_read_only_whatever_the_configuration_says(kiln, images):
    assert "Read-only file system" in kiln.sh("(: > /etc/made) 2>&1 || true", rootfs=images["erofs"])


def test_containers_share_an_image_that_they_read(kiln, images):
    kiln.start_sleeper(rootfs=images["erofs"])
    assert kiln.sh("echo both", rootfs=images["erofs"]) == "both\n"


def test_volume_on_an_image(kiln, data_image):
    out = kiln.sh("cat /data/there; echo new > /data/new; grep ' /data ' /proc/mounts", disk(data_image, "noatime"))
    assert out.startswith("from the image\n") and re.search(r"^/dev/vd[a-z] /data ext4 rw,noatime", out, re.M)
    assert on_image(data_image, "cat /new") == "new\n"
    assert_unmounted(data_image)


def test_read_only_volume_and_mount_s_loop_option(kiln, data_image):
    before = data_image.read_bytes()
    out = kiln.sh("cat /data/there; (: > /data/new) 2>&1; cat /sys/block/vd*/ro", disk(data_image, "ro", "loop"))
    assert out.splitlines()[0] == "from the image" and out.splitlines()[-1] == "1"
    assert "Read-only file system" in out
    assert data_image.read_bytes() == before


def test_option_of_the_file_system_s_own(kiln, data_image):
    out = kiln.sh("grep ' /data ' /proc/mounts", disk(data_image, "errors=remount-ro", "data=journal", "sync"))
    assert "errors=remount-ro" in out and "data=journal" in out and "sync" in out.replace("async", "")


def test_root_and_several_volumes(kiln, root_image, data_image, images):
    def patch(spec):
        disk(data_image)(spec)
        spec["mounts"].append({"destination": "/lower", "type": "erofs", "source": str(images["erofs"])})
    out = kiln.sh("cat /data/there; ls /lower/bin/busybox; for d in /sys/block/vd*; do cat $d/serial; echo; done",
                  patch, rootfs=root_image)
    lines = out.splitlines()
    assert lines[:2] == ["from the image", "/lower/bin/busybox"]
    assert [name.split("-")[0] for name in lines[2:]] == ["rootfs", "mount", "mount"]


def test_pause_and_resume_with_a_volume(kiln, data_image):
    container = kiln.start_sleeper(disk(data_image))
    kiln("pause", container, check=True)
    kiln("resume", container, check=True)
    assert kiln("exec", container, "cat", "/data/there", check=True).stdout == "from the image\n"


@pytest.mark.parametrize("kind", ["ext4", "erofs"])
def test_box_writes_over_an_image(kiln, images, kind):
    before = images[kind].read_bytes()
    done = kiln("box", "--rootfs", images[kind], "--", "/bin/sh", "-c", "echo over > /etc/new; cat /etc/new",
                check=True)
    assert done.stdout == "over\n"
    assert images[kind].read_bytes() == before
    kiln.assert_clean()


def test_block_device_of_the_host(kiln, data_image):
    device = subprocess.run(["losetup", "--find", "--show", data_image], check=True, stdout=subprocess.PIPE,
                            text=True).stdout.strip()
    try:
        assert kiln.sh("cat /data/there; echo new > /data/new", disk(device)) == "from the image\n"
        assert on_image(device, "cat /new") == "new\n"
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


# -- what cannot be

def fails(kiln, patch=None, **options):
    result = kiln.run(["true"], patch, **options)
    assert result.returncode == 1
    kiln.assert_clean()
    return result.stderr


def test_image_that_is_written_has_one_container(kiln, root_image):
    kiln.start_sleeper(rootfs=root_image)
    result = kiln.run(["true"], rootfs=root_image)
    assert result.returncode == 1 and "in use by another container" in result.stderr


def test_one_image_twice_in_a_container(kiln, data_image):
    def patch(spec):
        disk(data_image)(spec)
        disk(data_image)(spec)
    assert "in use" in fails(kiln, patch)


def test_root_without_a_file_system(kiln, tmp_path):
    (tmp_path / "text").write_text("no file system\n" * 1000)
    assert "no file system that is known here" in fails(kiln, rootfs=tmp_path / "text")


def test_volume_that_is_missing(kiln, tmp_path):
    message = fails(kiln, disk(tmp_path / "missing"))
    assert "missing" in message and "No such file or directory" in message


def test_volume_that_is_no_disk(kiln):
    assert "neither a block device nor an image file" in fails(kiln, disk("/dev/null"))


def test_volume_of_another_type_than_said(kiln, images):
    assert "open the ext4 file system: Invalid argument" in fails(kiln, disk(images["erofs"], "ro"))


def test_volume_that_the_guest_cannot_mount(kiln, data_image):
    assert "the guest's kernel has no file system `f2fs`" in fails(kiln, disk(data_image, kind="f2fs"))


def test_option_that_the_file_system_lacks(kiln, data_image):
    assert "option `colour`" in fails(kiln, disk(data_image, "colour=red"))


def test_broken_root(kiln, root_image):
    with open(root_image, "r+b") as file:
        file.seek(1024 + 4)
        file.write(b"\xff" * 40)  # its sizes; the magic number stays
    assert "open the ext4 file system" in fails(kiln, rootfs=root_image)


def test_killed_machine_leaves_the_image_to_others(kiln, root_image):
    container = kiln.start_sleeper(rootfs=root_image)
    vmm = kiln.helpers(kiln.state(container)["pid"])["vm"]
    subprocess.run(["kill", "-9", str(vmm)], check=True)
    kiln.wait_status(container, "stopped")
    kiln("delete", container, check=True)
    # Its journal is replayed by the next one.
    assert kiln.sh("echo again", rootfs=root_image) == "again\n"
    assert_unmounted(root_image)
    assert json.loads(kiln("list", "--format", "json", check=True).stdout) in ([], None)
    kiln.assert_clean()


# -- devices as such

@pytest.fixture
def loop_device(data_image):
    device = subprocess.run(["losetup", "--find", "--show", data_image], check=True, stdout=subprocess.PIPE,
                            text=True).stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def host_device(path, destination, access="rwm"):
    """A patch: what engines write for --device."""
    number = os.stat(path).st_rdev

    def patch(spec):
        kind = "b" if stat.S_ISBLK(os.stat(path).st_mode) else "c"
        where = {"type": kind, "major": os.major(number), "minor": os.minor(number)}
        spec["linux"]["devices"] = [{"path": destination, "fileMode": 0o660, "uid": 0, "gid": 6, **where}]
        spec["linux"]["resources"]["devices"] += [{"allow": True, "access": access, **where}]
    return patch


def test_block_device_of_the_host_as_a_device(kiln, loop_device):
    out = kiln.sh("stat -c '%F %a %u:%g' /dev/disk7; head -c 4 /dev/zero | dd of=/dev/disk7 bs=1 conv=notrunc 2>/dev/null; "
                  "printf kiln | dd of=/dev/disk7 bs=1 seek=8 conv=notrunc 2>/dev/null; sync; blockdev --getsize64 /dev/disk7",
                  host_device(loop_device, "/dev/disk7"))
    size = int(subprocess.run(["blockdev", "--getsize64", loop_device], check=True, stdout=subprocess.PIPE).stdout)
    assert out.splitlines() == ["block special file 660 0:6", str(size)]
    subprocess.run(["blockdev", "--flushbufs", loop_device], check=True)
    with open(loop_device, "rb") as device:
        assert device.read(12)[8:] == b"kiln"


def test_block_device_that_may_only_be_read(kiln, loop_device):
    with open(loop_device, "rb") as device:
        before = device.read(4096)
    done = kiln.run(["/bin/sh", "-c", "head -c 2048 /dev/disk7 | wc -c; echo x > /dev/disk7"],
                    host_device(loop_device, "/dev/disk7", "r"))
    assert done.stdout == "2048\n" and done.returncode != 0
    with open(loop_device, "rb") as device:
        assert device.read(4096) == before


def test_devices_that_a_machine_cannot_have(kiln):
    def patch(spec):
        spec["linux"]["devices"] = [{"path": "/dev/dri/card0", "type": "c", "major": 226, "minor": 0}]
    message = fails(kiln, patch)
    assert "device `/dev/dri/card0` (c 226:0): the guest's kernel has no such device" in message

    def missing(spec):
        spec["linux"]["devices"] = [{"path": "/dev/missing", "type": "b", "major": 4000, "minor": 1}]
    assert "device `/dev/missing`: the host has no block device 4000:1" in fails(kiln, missing)


def test_the_guests_own_devices_come_with_their_drivers(kiln):
    def patch(spec):
        spec["linux"]["devices"] = [{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666}]
        spec["linux"]["resources"]["devices"] += [{"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"}]
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_NET_ADMIN")
    assert "tap9" in kiln.sh("tunctl -t tap9 >/dev/null; ls /sys/class/net", patch)
