# SPDX-License-Identifier: Apache-2.0
"""check, features, spec, version, guest, help: what kiln says about itself and about the host."""
import json
import os
import pathlib
import re
import subprocess

import pytest

from conftest import BACKEND, BUILD, RUNTIME, kiln_only

pytestmark = kiln_only


def test_check_is_one_line_for_each_finding(shared):
    result = shared("check")
    lines = result.stdout.splitlines()
    assert len(lines) >= 6
    text = result.stdout.lower()
    for subject in ("kvm", "backend", "guest", "vhost", "tun", "cgroup"):
        assert subject in text, subject


def test_check_agrees_with_the_host(shared):
    """A /dev/kvm without hardware virtualization counts as absent, and check says so."""
    text = shared("check").stdout
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    hardware = re.search(r"\b(vmx|svm)\b", flags) is not None
    if os.path.exists("/dev/kvm") and not hardware:
        assert re.search(r"vmx.*svm|no hardware virtualization", text)
    kvm_line = next(line for line in text.splitlines() if "kvm" in line.lower())
    assert kvm_line.strip()


def test_check_json_has_the_same_findings(shared):
    result = shared("check", "--json")
    document = json.loads(result.stdout)
    findings = document["findings"] if isinstance(document, dict) else document
    assert len(findings) >= 6
    for finding in findings:
        assert isinstance(finding, dict) and finding
    assert result.returncode == shared("check").returncode


def test_check_with_a_missing_guest_image_fails(kiln):
    assert kiln("check").returncode == 0, "this host runs the other tests"
    kiln.write_config("guest:\n  directory: /nonexistent/guest\n")
    result = kiln("check")
    assert result.returncode != 0 and "/nonexistent/guest" in result.stdout + result.stderr


def test_auto_says_in_one_line_what_it_picked(kiln):
    """No word on a host with KVM, one line without."""
    kiln.write_config("machine:\n  memory: 256M\n")
    result = kiln.run(["/bin/echo", "hello"])
    assert (result.returncode, result.stdout) == (0, "hello\n")
    hardware = re.search(r"\b(vmx|svm)\b", pathlib.Path("/proc/cpuinfo").read_text()) is not None
    assert result.stderr.count("\n") == (0 if hardware else 1)
    assert hardware or "qemu" in result.stderr


def test_version_names_program_and_specification(shared):
    for words in (["--version"], ["-v"], ["version"]):
        text = shared(*words, check=True).stdout
        assert re.search(r"kiln version \d+\.\d+\.\d+", text), words
        assert re.search(r"spec: 1\.\d+\.\d+", text), words


def test_features_are_those_of_the_runtime_spec(shared):
    features = json.loads(shared("features", check=True).stdout)
    assert features["ociVersionMin"] == "1.0.0"
    assert features["ociVersionMax"].startswith("1.2")
    assert set(features["hooks"]) == {"prestart", "createRuntime", "createContainer", "startContainer", "poststart",
                                      "poststop"}
    linux = features["linux"]
    assert {"mount", "pid", "network", "uts", "ipc", "user", "cgroup", "time"} <= set(linux["namespaces"])
    assert linux["cgroup"]["v2"] is True
    assert "SCMP_ACT_ERRNO" in linux["seccomp"]["actions"]
    assert "SCMP_CMP_MASKED_EQ" in linux["seccomp"]["operators"]
    assert "SCMP_ARCH_X86_64" in linux["seccomp"]["archs"]


def test_spec_writes_what_run_takes(kiln):
    kiln("spec", "--bundle", kiln.directory, check=True)
    spec = json.loads((kiln.directory / "config.json").read_text())
    assert spec["ociVersion"].startswith("1.")
    assert spec["process"]["args"] == ["sh"] and spec["process"]["terminal"] is True
    assert spec["root"] == {"path": "rootfs", "readonly": True}
    assert {namespace["type"] for namespace in spec["linux"]["namespaces"]} >= {"pid", "mount", "uts", "ipc", "network"}


def test_spec_rootless(kiln):
    kiln("spec", "--rootless", "--bundle", kiln.directory, check=True)
    spec = json.loads((kiln.directory / "config.json").read_text())
    assert "user" in {namespace["type"] for namespace in spec["linux"]["namespaces"]}
    assert spec["linux"]["uidMappings"][0]["hostID"] == os.geteuid()


def test_help_lists_every_command(shared):
    text = shared("--help", check=True).stdout
    for command in ("create", "start", "state", "kill", "delete", "run", "exec", "list", "ps", "spec", "features",
                    "guest", "check", "box", "version", "pause", "resume", "checkpoint", "restore", "install",
                    "uninstall"):
        assert re.search(rf"^\s+{command}\b", text, re.M), command
        assert shared(command, "--help", check=True).stdout


def test_the_guest_image_s_manifest_tells_the_truth():
    manifest = json.loads((BUILD / "guest/manifest.json").read_text())
    text = json.dumps(manifest)
    for name in ("vmlinux", "initramfs.cpio"):
        digest = subprocess.check_output(["sha256sum", BUILD / "guest" / name], text=True).split()[0]
        assert digest in text, name


def test_guest_build_from_a_kernel_and_modules(kiln):
    """An image from files instead of a package: a bzImage and its modules, unpacked by hand; a container runs on it."""
    packages = sorted((BUILD / "guest-cache").rglob("linux-image-*.deb"))
    if not packages:
        pytest.skip("the build's guest image was not made from a package of this cache")
    unpacked, image = kiln.directory / "unpacked", kiln.directory / "image"
    subprocess.run(["dpkg-deb", "--extract", packages[-1], unpacked], check=True)
    kernel, = (unpacked / "boot").glob("vmlinuz-*")
    modules, = (unpacked / "lib/modules").iterdir()
    kiln("guest", "build", "--quiet", "--kernel", kernel, "--modules", modules, "--output", image, check=True)
    assert (image / "vmlinux").read_bytes()[:4] == b"\x7fELF"
    kiln.write_config(f"backend: {BACKEND}\nguest:\n  directory: {image}\nmachine:\n  memory: 256M\n")
    assert kiln.sh("uname -r").strip() == modules.name


def test_guest_build_refuses_what_is_no_kernel(kiln):
    result = kiln("guest", "build", "--kernel", "/bin/busybox", "--output", kiln.directory / "image")
    assert result.returncode != 0 and "/bin/busybox" in result.stderr
    assert not (kiln.directory / "image" / "vmlinux").exists()


def test_programs_find_their_guest_image_from_any_directory(kiln):
    result = subprocess.run([RUNTIME, "--root", str(kiln.root), "check"], cwd="/", stdout=subprocess.PIPE, text=True,
                            timeout=60, check=False)
    assert str(BUILD / "guest") in result.stdout


@pytest.mark.parametrize("words", [[], ["--no-such-flag"], ["--log-format", "xml", "list"]])
def test_wrong_command_lines(shared, words):
    result = shared(*words)
    assert result.returncode != 0 and result.stderr != ""
