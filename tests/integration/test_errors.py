# SPDX-License-Identifier: Apache-2.0
"""What goes wrong says what, where and why, and leaves nothing behind."""
import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest

from conftest import BACKEND, BUILD, SLOWDOWN, TOP, kiln_only

BROKEN = json.loads((TOP / "tests/data/broken_configs.json").read_text())


def merge_patch(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


@kiln_only
@pytest.mark.parametrize("variant", BROKEN, ids=lambda variant: variant["name"].replace(" ", "-"))
def test_broken_config(shared, variant):
    directory = shared.directory / f"broken-{BROKEN.index(variant)}"
    (directory / "rootfs").mkdir(parents=True)
    text = variant["raw"] if "raw" in variant else json.dumps(merge_patch(shared.default_spec(), variant["patch"]))
    (directory / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    result = shared("run", "--bundle", directory, shared.new_id())
    assert result.returncode == 1
    assert variant["message"] in unescaped(result.stderr)
    assert result.stderr.count("\n") == 1
    shared.assert_clean()


def unescaped(text):
    """The message of a log line: time="…" level=error msg="…"."""
    for old, new in [('\\"', '"'), ("\\\\", "\\")]:
        text = text.replace(old, new)
    return text


@kiln_only
@pytest.mark.parametrize("change, message", [
    (lambda spec: spec.pop("process"), "/process"),
    (lambda spec: spec["linux"].update(intelRdt={"closID": "x"}), "/linux/intelRdt"),
    (lambda spec: spec["linux"].update(namespaces=[{"type": "mount"}, {"type": "uts"}]), "network namespace"),
    (lambda spec: spec["linux"].update(namespaces=[{"type": "network"}, {"type": "uts"}]), "mount namespace"),
    (lambda spec: spec["linux"]["namespaces"].append({"type": "cgroup", "path": "/proc/1/ns/cgroup"}), "cgroup"),
])
def test_what_a_vm_cannot_do_is_refused_by_name(shared, change, message):
    def patch(spec):
        change(spec)
    result = shared.run(["true"], patch)
    assert result.returncode == 1 and message in result.stderr
    shared.assert_clean()


def test_bundle_without_config(kiln):
    result = kiln("run", "--bundle", kiln.directory, kiln.new_id())
    assert result.returncode == 1
    assert "config.json" in result.stderr and "not found" in result.stderr or "no such file" in result.stderr
    kiln.assert_clean()


def test_bundle_that_is_not_there(kiln):
    result = kiln("run", "--bundle", "/nonexistent/bundle", kiln.new_id())
    assert result.returncode == 1 and "/nonexistent/bundle" in result.stderr
    kiln.assert_clean()


def test_rootfs_missing(kiln):
    result = kiln.run(["true"], rootfs="/nonexistent/rootfs")
    assert result.returncode == 1
    assert "/nonexistent/rootfs" in result.stderr and "no such file or directory" in result.stderr.lower()
    kiln.assert_clean()


@kiln_only
def test_rootfs_that_is_a_file(kiln):
    path = kiln.directory / "file"
    path.write_text("x")
    result = kiln.run(["true"], rootfs=path)
    assert result.returncode == 1 and "not a directory" in result.stderr
    kiln.assert_clean()


@kiln_only
def test_rootfs_without_anything_in_it(kiln):
    empty = kiln.directory / "empty"
    empty.mkdir()
    result = kiln.run(["/bin/true"], rootfs=empty, writable=True)
    assert result.returncode == 1 and '/bin/true' in result.stderr
    kiln.assert_clean()


@pytest.mark.parametrize("command", [["state"], ["start"], ["delete"], ["kill"], ["ps"], ["pause"], ["resume"],
                                     ["exec"]], ids=" ".join)
def test_unknown_container(shared, command):
    words = {"kill": ["KILL"], "exec": ["true"]}.get(command[0], [])
    result = shared(*command, "nothing", *words)
    assert result.returncode != 0 and "container does not exist" in result.stderr
    shared.assert_clean()


def test_unknown_command_and_flag(shared):
    assert shared("nosuchcommand").returncode != 0
    result = shared("run", "--no-such-flag", "x")
    assert result.returncode != 0 and "no-such-flag" in result.stderr


def test_duplicate_id_leaves_the_first_alone(kiln):
    container = kiln.start_sleeper()
    again = kiln("run", "--bundle", kiln.bundle(), container)
    assert again.returncode == 1 and "exist" in again.stderr
    assert kiln.state(container)["status"] == "running"
    assert kiln("exec", container, "echo", "alive", check=True).stdout == "alive\n"


def test_pid_file_that_cannot_be_written(kiln):
    result = kiln("run", "--detach", "--pid-file", "/nonexistent/dir/pid", "--bundle", kiln.bundle(["sleep", "1000"]),
                  kiln.new_id())
    assert result.returncode == 1 and "/nonexistent/dir" in result.stderr
    kiln.assert_clean()


def test_console_socket_that_nobody_listens_on(kiln):
    result = kiln("create", "--console-socket", "/nonexistent/console.sock",
                  "--bundle", kiln.bundle(["sh"], terminal=True), kiln.new_id())
    assert result.returncode == 1 and "/nonexistent/console.sock" in result.stderr
    kiln.assert_clean()


# -- the machine


@pytest.fixture
def guest_copy(kiln):
    """A copy of the build's guest image that the test may spoil, with a configuration that names it."""
    copy = kiln.directory / "guest"
    shutil.copytree(BUILD / "guest", copy)
    kiln.write_config(f"backend: {BACKEND}\nguest:\n  directory: {copy}\n  boot_timeout: 120\nmachine:\n  memory: 128M\n")
    return copy


@kiln_only
@pytest.mark.parametrize("name", ["vmlinux", "initramfs.cpio"])
def test_guest_image_without_a_file(kiln, guest_copy, name):
    (guest_copy / name).unlink()
    result = kiln.run(["true"])
    assert result.returncode == 1
    assert str(guest_copy / name) in result.stderr or (str(guest_copy) in result.stderr and name in result.stderr)
    kiln.assert_clean()


@kiln_only
def test_guest_directory_that_is_not_there(kiln):
    kiln.write_config(f"backend: {BACKEND}\nguest:\n  directory: /nonexistent/guest\n")
    result = kiln.run(["true"])
    assert result.returncode == 1 and "/nonexistent/guest" in result.stderr
    kiln.assert_clean()


@kiln_only
@pytest.mark.parametrize("size", [0, 100, 4096, 5_000_000], ids="{} bytes".format)
def test_truncated_kernel(kiln, guest_copy, size):
    kernel = guest_copy / "vmlinux"
    os.truncate(kernel, size)
    began = time.monotonic()
    result = kiln.run(["true"])
    assert result.returncode == 1
    assert str(kernel) in result.stderr
    assert time.monotonic() - began < 240 * SLOWDOWN
    kiln.assert_clean()


@kiln_only
def test_kernel_that_is_something_else(kiln, guest_copy):
    (guest_copy / "vmlinux").write_bytes(b"#!/bin/sh\nexit 0\n" * 1000)
    result = kiln.run(["true"])
    assert result.returncode == 1
    assert str(guest_copy / "vmlinux") in result.stderr
    kiln.assert_clean()


def cpio_of(directory):
    """What the kernel takes for an initramfs, of everything below `directory`."""
    names = subprocess.run(["find", ".", "-print0"], cwd=directory, check=True, stdout=subprocess.PIPE).stdout
    return subprocess.run(["cpio", "--null", "-o", "-H", "newc", "--quiet"], cwd=directory, check=True, input=names,
                          stdout=subprocess.PIPE).stdout


def silent_init(kiln, script):
    root = kiln.directory / "silent"
    for name in ["bin", "dev", "proc", "sys"]:
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    (root / "init").write_text("#!/bin/sh\n" + script)
    (root / "init").chmod(0o755)
    return cpio_of(root)


@kiln_only
def test_agent_that_never_answers(kiln, guest_copy):
    kiln.write_config(kiln.config.read_text().replace("boot_timeout: 120", "boot_timeout: 25"))
    spoil(guest_copy, silent_init(kiln, "/bin/busybox mount -t devtmpfs dev /dev; exec >/dev/kmsg 2>&1\n"
                                        "echo '<2>line one of the silent init'\n"
                                        "echo '<2>cannot find the agent, giving up'\n"
                                        "while :; do /bin/busybox sleep 1000; done\n"))
    began = time.monotonic()
    result = kiln.run(["true"])
    elapsed = time.monotonic() - began
    assert result.returncode == 1
    assert "did not answer within 25 s" in result.stderr
    assert "line one of the silent init" in result.stderr
    assert "cannot find the agent, giving up" in result.stderr
    assert elapsed > 24
    kiln.assert_clean()


@kiln_only
def test_init_that_ends_is_a_panic_with_its_last_lines(kiln, guest_copy):
    spoil(guest_copy, silent_init(kiln, "/bin/busybox mount -t devtmpfs dev /dev; exec >/dev/console 2>&1\n"
                                        "echo about to leave\nexit 3\n"))
    result = kiln.run(["true"])
    assert result.returncode == 1
    assert "kernel has panicked" in result.stderr and "console ends with" in result.stderr
    assert "did not answer within" not in result.stderr  # its end was noticed, not waited out
    kiln.assert_clean()


@kiln_only
@pytest.mark.parametrize("command, reason", [
    ("/bin/busybox reboot -f", "the guest has reset itself"),
    ("/bin/busybox poweroff -f", "the guest has powered off"),
    ("echo c >/proc/sysrq-trigger", "the guest's kernel has panicked"),
])
def test_guest_that_ends_itself_says_how(kiln, guest_copy, command, reason):
    spoil(guest_copy, silent_init(kiln, f"/bin/busybox mount -t proc proc /proc\n{command}\n"
                                        "while :; do /bin/busybox sleep 1000; done\n"))
    result = kiln.run(["true"])
    assert result.returncode == 1
    assert f"the virtual machine has ended: {reason}" in result.stderr
    assert result.stderr.count("console") <= 1
    kiln.assert_clean()


@kiln_only
def test_initramfs_that_is_garbage(kiln, guest_copy):
    spoil(guest_copy, os.urandom(100_000))
    result = kiln.run(["true"])
    assert result.returncode == 1
    assert "panic" in result.stderr.lower() or str(guest_copy) in result.stderr
    kiln.assert_clean()


def spoil(guest, initramfs):
    """Another initramfs, with the manifest's consent, so that it is the boot that has to notice."""
    (guest / "initramfs.cpio").write_bytes(initramfs)
    manifest = json.loads((guest / "manifest.json").read_text())
    manifest.pop("files", None)
    (guest / "manifest.json").write_text(json.dumps(manifest))


@kiln_only
@pytest.mark.parametrize("text, message", [
    ("guest:\n  directory: relative\n", ":2: `guest.directory` must be an absolute path, is `relative`"),
    ("machine:\n  vcpus: 1\n  colour: red\n", ":3: unknown key `machine.colour`"),
    ("machine:\n  vcpus: 0\n", ":2: `machine.vcpus`"),
    ("machine:\n  memory: 1M\n", ":2: `machine.memory`"),
    ("backend: xen\n", ":1: `backend` must be auto, kvm or qemu, is `xen`"),
    ("backend: qemu\nqemu:\n  binary: /nonexistent/qemu\n", "/nonexistent/qemu"),
    ("vmm: /nonexistent/kiln-vmm\n", "/nonexistent/kiln-vmm"),
    ("[unclosed", "kiln.yaml:"),
])
def test_broken_configuration(kiln, text, message):
    kiln.write_config(text)
    result = kiln.run(["true"])
    assert result.returncode == 1 and message in result.stderr
    kiln.assert_clean()


@kiln_only
def test_configuration_that_is_not_there(kiln):
    kiln.config.unlink()
    result = kiln.run(["true"])
    assert result.returncode == 1 and str(kiln.config) in result.stderr
    kiln.assert_clean()


@kiln_only
@pytest.mark.parametrize("annotation, value, message", [
    ("io.kiln.vcpus", "lots", "io.kiln.vcpus"),
    ("io.kiln.backend", "qemu", "io.kiln.backend"),      # not among the allowed ones
    ("io.kiln.qemu_binary", "/bin/sh", "io.kiln.qemu_binary"),  # no annotation can name a path
])
def test_annotations_that_are_refused(kiln, annotation, value, message):
    result = kiln.run(["true"], lambda spec: spec.update(annotations={annotation: value}))
    assert result.returncode == 1 and message in result.stderr
    kiln.assert_clean()


def test_errors_go_to_the_log_in_json(kiln):
    log = kiln.directory / "log.json"
    kiln("--log", log, "--log-format", "json", "run", "--bundle", "/nonexistent/bundle", kiln.new_id())
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert entries[-1]["level"] == "error" and "/nonexistent/bundle" in entries[-1]["msg"]


@kiln_only
def test_a_failure_inside_the_guest_names_the_step(kiln):
    def patch(spec):
        spec["linux"]["sysctl"] = {"kernel.no_such_sysctl": "1"}
    result = kiln.run(["true"], patch)
    assert result.returncode == 1 and "no_such_sysctl" in result.stderr
    kiln.assert_clean()


@kiln_only
@pytest.mark.parametrize("root", ["file", "unwritable"])
def test_state_directory_that_cannot_be(kiln, root):
    if root == "file":
        kiln.root.write_text("")
        result = kiln.run(["true"])
        assert result.returncode == 1 and str(kiln.root) in result.stderr
        kiln.root.unlink()
    else:
        kiln.root = pathlib.Path("/proc/kiln-state")
        result = kiln.run(["true"])
        assert result.returncode == 1 and "/proc/kiln-state" in result.stderr
