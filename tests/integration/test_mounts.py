# SPDX-License-Identifier: Apache-2.0
"""config.json /mounts, /root and the file-system part of /linux."""
import os
import stat
import subprocess

import pytest

from conftest import IS_KILN, all_capabilities, kiln_only

MOUNTINFO = "cat /proc/self/mountinfo"


def parse_mountinfo(text):
    """{destination: (options, propagation fields, fs type, super options)}; the last mount on a place wins."""
    mounts = {}
    for line in text.splitlines():
        if " - " not in line:
            continue
        left, right = line.split(" - ", 1)
        fields = left.split()
        kind, _, super_options = right.split(" ", 2)
        mounts[fields[4]] = (set(fields[5].split(",")), fields[6:], kind, super_options)
    return mounts


@pytest.fixture(scope="module")
def default_mounts(shared, sleeper):
    return parse_mountinfo(shared("exec", sleeper, "cat", "/proc/self/mountinfo", check=True).stdout)


@pytest.mark.parametrize("destination, kind, options", [
    ("/proc", "proc", {"rw"}),
    ("/dev", "tmpfs", {"rw", "nosuid"}),
    ("/dev/pts", "devpts", {"rw", "nosuid", "noexec"}),
    ("/dev/shm", "tmpfs", {"rw", "nosuid", "nodev", "noexec"}),
    ("/dev/mqueue", "mqueue", {"rw", "nosuid", "nodev", "noexec"}),
    ("/sys", "sysfs", {"ro", "nosuid", "nodev", "noexec"}),
])
def test_default_mounts(default_mounts, destination, kind, options):
    assert default_mounts[destination][2] == kind
    assert options <= default_mounts[destination][0]


@kiln_only
def test_cgroup2_is_mounted_read_only(default_mounts):
    assert default_mounts["/sys/fs/cgroup"][2] == "cgroup2"
    assert {"ro", "nosuid", "nodev", "noexec"} <= default_mounts["/sys/fs/cgroup"][0]


@kiln_only
def test_cgroup_namespace_shows_the_container_as_root(shared, sleeper):
    assert shared("exec", sleeper, "cat", "/proc/self/cgroup", check=True).stdout.splitlines()[-1].endswith(":/")


def test_default_devices(shared, sleeper):
    script = "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %F %a %t:%T' $d; done; " \
             "for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done; " \
             "echo x > null; head -c 2 zero | od -An -tx1; echo y > full || echo full"
    out = shared("exec", sleeper, "/bin/sh", "-c", script, check=True).stdout
    for name, minor in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)]:
        assert f"{name} character special file 666 1:{minor}" in out
    assert "tty character special file 666 5:0" in out
    assert "fd /proc/self/fd" in out and "stdin /proc/self/fd/0" in out and "ptmx pts/ptmx" in out
    assert " 00 00" in out and out.rstrip().endswith("full")


def add_mount(spec, destination, kind, source, options=()):
    spec["mounts"].append({"destination": destination, "type": kind, "source": str(source), "options": list(options)})


def test_bind_mount_of_a_directory_both_ways(kiln):
    shared_directory = kiln.directory / "data"
    shared_directory.mkdir()
    (shared_directory / "from-host").write_text("host\n")
    kiln.sh("cat /data/from-host; echo guest > /data/from-guest; mkdir /data/d; ln -s from-host /data/l",
            lambda spec: add_mount(spec, "/data", "bind", shared_directory, ["rbind", "rw"]))
    assert (shared_directory / "from-guest").read_text() == "guest\n"
    assert (shared_directory / "d").is_dir() and os.readlink(shared_directory / "l") == "from-host"


def test_bind_mount_of_a_single_file(kiln):
    source = kiln.directory / "file"
    source.write_text("one\n")
    out = kiln.sh("cat /etc/single; echo two >> /etc/single; ls /etc",
                  lambda spec: add_mount(spec, "/etc/single", "bind", source, ["bind"]))
    assert out.startswith("one\n") and "single" in out
    assert source.read_text() == "one\ntwo\n"


def test_read_only_bind_mount(kiln):
    source = kiln.directory / "ro"
    source.mkdir()
    (source / "f").write_text("x")
    script = "for c in 'touch /ro/new' 'rm /ro/f' 'mkdir /ro/d' 'chmod 777 /ro/f' 'sh -c \">/ro/f\"'; do " \
             "eval $c 2>/dev/null && echo BAD $c; done; mount -o remount,rw /ro 2>/dev/null; touch /ro/late 2>/dev/null && " \
             "echo BAD; cat /ro/f"
    def patch(spec):
        add_mount(spec, "/ro", "bind", source, ["rbind", "ro"])
    assert kiln.sh(script, patch) == "x"
    assert sorted(os.listdir(source)) == ["f"]


@kiln_only
def test_read_only_is_enforced_outside_the_guest(kiln):
    """Root with every capability in the guest remounts the share read-write and still cannot write."""
    source = kiln.directory / "ro"
    source.mkdir()
    (source / "f").write_text("x")
    def patch(spec):
        add_mount(spec, "/ro", "bind", source, ["rbind", "ro"])
        for kind in spec["process"]["capabilities"]:
            spec["process"]["capabilities"][kind] = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_CHOWN"]
    out = kiln.sh("mount -o remount,bind,rw /ro && grep ' /ro ' /proc/self/mountinfo | grep -q ' rw' && echo remounted;"
                  "echo y > /ro/f; touch /ro/n; rm /ro/f; chmod 0 /ro/f; mv /ro/f /ro/g; ln /ro/f /ro/h; true", patch)
    assert "remounted" in out
    assert os.listdir(source) == ["f"] and (source / "f").read_text() == "x"
    assert stat.S_IMODE((source / "f").stat().st_mode) != 0


@pytest.mark.parametrize("options, below", [(["rbind", "ro"], "rw"), (["rbind", "rro"], "ro"), (["bind", "ro"], "absent")])
def test_read_only_is_for_the_mount_itself_alone(kiln, options, below):
    """A tmpfs below the source of a read-only bind mount."""
    source = kiln.directory / "tree"
    (source / "nested").mkdir(parents=True)
    (source / "file").write_text("x")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "nested"], check=True)
    try:
        (source / "nested/file").write_text("y")
        out = kiln.sh("for c in 'touch /t/new' 'rm /t/file' 'chmod 777 /t/file' 'mv /t/nested/file /t/' 'rmdir /t/nested'; do "
                      "eval $c 2>/dev/null && echo BAD $c; done; "
                      "if test ! -e /t/nested/file; then echo absent; elif touch /t/nested/new 2>/dev/null; then echo rw; else echo ro; fi",
                      lambda spec: add_mount(spec, "/t", "bind", source, options))
        assert out.split("\n") == [below, ""]
        assert sorted(os.listdir(source)) == ["file", "nested"] and (source / "file").read_text() == "x"
        assert (source / "nested/new").exists() == (below == "rw")
    finally:
        subprocess.run(["umount", source / "nested"], check=True)


@pytest.mark.parametrize("options, expected", [
    (["nosuid", "nodev", "noexec"], {"nosuid", "nodev", "noexec"}),
    (["ro", "noatime"], {"ro", "noatime"}),
    (["nodiratime", "relatime"], {"nodiratime", "relatime"}),
])
def test_tmpfs_flags(kiln, options, expected):
    text = kiln.sh(MOUNTINFO, lambda spec: add_mount(spec, "/mnt", "tmpfs", "tmpfs", options))
    assert expected <= parse_mountinfo(text)["/mnt"][0]


def test_tmpfs_size_and_mode(kiln):
    def patch(spec):
        add_mount(spec, "/mnt", "tmpfs", "tmpfs", ["size=64k", "mode=0777", "uid=5", "gid=6"])
    out = kiln.sh("stat -c %a:%u:%g /mnt; dd if=/dev/zero of=/mnt/f bs=1k count=100 2>/dev/null || echo full; "
                  "stat -c %s /mnt/f", patch)
    assert out.split() == ["777:5:6", "full", "65536"]


def test_bind_mount_flags(kiln):
    source = kiln.directory / "flags"
    source.mkdir()
    def patch(spec):
        add_mount(spec, "/mnt", "bind", source, ["bind", "nosuid", "nodev", "noexec"])
    text = kiln.sh("cp /bin/busybox /mnt/true; /mnt/true 2>/dev/null && echo BAD; " + MOUNTINFO, patch)
    assert "BAD" not in text
    assert {"nosuid", "nodev", "noexec"} <= parse_mountinfo(text)["/mnt"][0]


@kiln_only
@pytest.mark.parametrize("options", [["rbind", "rro"], ["rbind", "rnosuid", "rnodev", "rnoexec"]])
def test_recursive_options_reach_submounts(kiln, options):
    source = kiln.directory / "tree"
    (source / "sub").mkdir(parents=True)
    def patch(spec):
        add_mount(spec, "/a", "tmpfs", "tmpfs")
        add_mount(spec, "/mnt", "bind", source, options)
    text = kiln.sh(MOUNTINFO, patch)
    assert {option[1:] for option in options[1:]} <= parse_mountinfo(text)["/mnt"][0]


@pytest.mark.parametrize("option, field", [("shared", "shared:"), ("rshared", "shared:"), ("private", None),
                                           ("rprivate", None), ("unbindable", "unbindable")])
def test_propagation_options(kiln, option, field):
    def patch(spec):
        add_mount(spec, "/mnt", "tmpfs", "tmpfs", [option])
    fields = parse_mountinfo(kiln.sh(MOUNTINFO, patch))["/mnt"][1]
    assert (fields == [] if field is None else any(f.startswith(field) for f in fields))


def test_slave_propagation(kiln):
    source = kiln.directory / "slave"
    source.mkdir()
    def patch(spec):
        add_mount(spec, "/mnt", "bind", source, ["bind", "slave"])
    fields = parse_mountinfo(kiln.sh(MOUNTINFO, patch))["/mnt"][1]
    assert not any(f.startswith("shared:") for f in fields)


@pytest.mark.parametrize("value, shared_root", [("shared", True), ("private", False), ("slave", False)])
@kiln_only
def test_rootfs_propagation(kiln, value, shared_root):
    fields = parse_mountinfo(kiln.sh(MOUNTINFO, lambda spec: spec["linux"].update(rootfsPropagation=value)))["/"][1]
    assert any(f.startswith("shared:") for f in fields) == shared_root


def test_tmpcopyup(kiln):
    def patch(spec):
        add_mount(spec, "/etc", "tmpfs", "tmpfs", ["tmpcopyup"])
    out = kiln.sh("cat /etc/group; touch /etc/new; stat -f -c %T /etc", patch)
    assert "user:x:1000:" in out


def test_read_only_root(kiln):
    out = kiln.sh("touch /new 2>/dev/null && echo BAD; touch /dev/shm/fine && echo fine", writable=False)
    assert out == "fine\n"


def test_writable_root_reaches_the_host(kiln):
    bundle = kiln.bundle(["/bin/sh", "-c", "echo data > /root/file; chown 12:34 /root/file; chmod 4755 /root/file"],
                         lambda spec: all_capabilities(spec, ["CAP_CHOWN", "CAP_FSETID", "CAP_FOWNER"]))
    kiln("run", "--bundle", bundle, kiln.new_id(), check=True)
    info = (bundle / "rootfs/root/file").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (12, 34, 0o4755)


def test_masked_and_read_only_paths(kiln):
    def patch(spec):
        spec["linux"]["maskedPaths"] = ["/etc/group", "/home", "/nonexistent"]
        spec["linux"]["readonlyPaths"] = ["/root", "/proc/sys", "/nonexistent2"]
    out = kiln.sh("cat /etc/group; ls -A /home; touch /home/x 2>/dev/null && echo BAD1; touch /root/x 2>/dev/null && "
                  "echo BAD2; echo 1 > /proc/sys/kernel/msgmax 2>/dev/null && echo BAD3; echo end", patch)
    assert out == "end\n"


def test_devices(kiln):
    def patch(spec):
        spec["linux"]["devices"] = [
            {"path": "/dev/mynull", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4},
            {"path": "/dev/sub/pipe", "type": "p", "fileMode": 0o600}]
    out = kiln.sh("stat -c '%F %a %u:%g %t:%T' /dev/mynull; stat -c '%F %a' /dev/sub/pipe", patch)
    assert out.splitlines() == ["character special file 640 3:4 1:3", "fifo 600"]


@kiln_only
def test_idmapped_mount_of_a_share_says_why_not_or_maps(kiln):
    source = kiln.directory / "idmap"
    source.mkdir()
    (source / "f").write_text("x")
    def patch(spec):
        spec["mounts"].append({
            "destination": "/mnt", "type": "bind", "source": str(source), "options": ["bind", "idmap"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]})
    result = kiln.run(["stat", "-c", "%u", "/mnt/f"], patch)
    assert (result.returncode == 0 and result.stdout == "1000\n") or "idmap" in result.stderr


def test_mountpoints_are_made_inside_the_rootfs_only(kiln):
    """CVE-2021-30465 and its kin: a symlink in the rootfs leads a mount nowhere but inside it."""
    outside = kiln.directory / "outside"
    outside.mkdir()
    bundle = kiln.bundle(["/bin/sh", "-c", "echo data > /data/deep/f; ls /data/deep"],
                         lambda spec: add_mount(spec, "/data/deep", "tmpfs", "tmpfs"))
    (bundle / "rootfs/data").symlink_to(outside)
    kiln("run", "--bundle", bundle, kiln.new_id())
    assert os.listdir(outside) == []


def test_mount_over_proc_through_a_symlink_is_refused(kiln):
    bundle = kiln.bundle()
    os.rmdir(bundle / "rootfs/proc")
    (bundle / "rootfs/proc").symlink_to("/tmp")
    result = kiln("run", "--bundle", bundle, kiln.new_id())
    assert result.returncode != 0 and "proc" in result.stderr
    kiln.assert_clean()


def test_missing_bind_source(kiln):
    result = kiln.run(["true"], lambda spec: add_mount(spec, "/mnt", "bind", "/nonexistent/source", ["bind"]))
    assert result.returncode == 1
    assert "/nonexistent/source" in result.stderr and "no such file or directory" in result.stderr.lower()
    kiln.assert_clean()


def test_unknown_file_system_type(kiln):
    result = kiln.run(["true"], lambda spec: add_mount(spec, "/mnt", "nosuchfs", "x"))
    assert result.returncode == 1
    assert not IS_KILN or "nosuchfs" in result.stderr


def test_the_mount_namespace_of_its_pid_has_its_files(kiln):
    """Engines enter it to copy files in and out."""
    data, single = kiln.directory / "data", kiln.directory / "single"
    data.mkdir()
    (data / "file").write_text("of the host\n")
    single.write_text("one file\n")

    def patch(spec):
        spec["mounts"] += [
            {"destination": "/made/data", "type": "bind", "source": str(data), "options": ["rbind", "ro"]},
            {"destination": "/etc/single", "type": "bind", "source": str(single), "options": ["bind"]}]
    container = kiln.start_sleeper(patch)
    kiln("exec", container, "/bin/sh", "-c", "echo of the guest > /root/new; ln -s /made/data/../../.. /up", check=True)

    def inside(script):
        return subprocess.run(["nsenter", "--target", str(kiln.state(container)["pid"]), "--mount", "/bin/busybox", "sh", "-c",
                               script], capture_output=True, text=True, check=False)
    assert inside("cat /made/data/file /etc/single /root/new").stdout == "of the host\none file\nof the guest\n"
    assert inside("ls /up/").stdout == inside("ls /").stdout
    assert inside("ls / | head -3").stdout == "bin\ndev\netc\n"
    assert "Read-only" in inside("echo > /made/data/new").stderr
    assert inside("echo changed > /etc/single").returncode == 0 and single.read_text() == "changed\n"


@kiln_only
def test_what_only_the_guest_has_is_empty_and_read_only_there(kiln):
    container = kiln.start_sleeper()
    script = "ls /proc /dev /sys; echo > /dev/new; cat /proc/1/comm"
    seen = subprocess.run(["nsenter", "--target", str(kiln.state(container)["pid"]), "--mount", "/bin/busybox", "sh", "-c",
                           script], capture_output=True, text=True, check=False)
    assert seen.stdout.split() == ["/dev:", "/proc:", "/sys:"]
    assert "/dev/new: Read-only file system" in seen.stderr and "'/proc/1/comm': No such file" in seen.stderr


def test_mounts_that_the_host_shares_get_none_of_the_containers(kiln):
    """A rootfs on a shared mount, as dockerd and systemd make them: nothing of the container is mounted back there."""
    bundle = kiln.bundle(["sleep", "1000"])
    subprocess.run(["mount", "--bind", bundle, bundle], check=True)
    try:
        subprocess.run(["mount", "--make-shared", bundle], check=True)
        container = kiln.new_id()
        kiln("run", "--detach", "--bundle", bundle, container, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            assert [line.split(" ")[4] for line in mounts if str(bundle) in line] == [str(bundle)]
        kiln("delete", "--force", container, check=True)
    finally:
        subprocess.run(["umount", "--lazy", bundle], check=True)
