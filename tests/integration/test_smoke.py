# SPDX-License-Identifier: Apache-2.0
"""One microVM that shows that the parts fit together: what `./check quick` boots."""
import json
import os
import subprocess

from conftest import BOOT_ID, BUILD, IS_KILN, kiln_only


def test_one_container_from_create_to_delete(kiln):
    """Another kernel, both streams, the shared root file system, exec, a signal's exit code, and nothing left."""
    container = kiln.new_id()
    bundle = kiln.bundle(["/bin/sh", "-c", "cat /proc/sys/kernel/random/boot_id; echo to stderr >&2; "
                          "echo written > /root/file; sleep 1000"])
    out, err = kiln.directory / "out", kiln.directory / "err"
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        kiln("create", "--bundle", bundle, container, check=True, stdout=stdout, stderr=stderr)
    assert kiln.state(container)["status"] == "created"
    assert out.read_text() == ""
    kiln("start", container, check=True)
    executed = kiln("exec", container, "/bin/sh", "-c", "until [ -s /root/file ]; do sleep 0.1; done; cat /root/file; exit 7")
    assert (executed.stdout, executed.returncode) == ("written\n", 7), executed.stderr
    assert (bundle / "rootfs/root/file").read_text() == "written\n"
    boot = out.read_text().strip()
    assert boot
    assert (boot != BOOT_ID) == IS_KILN
    assert err.read_text() == "to stderr\n"
    assert [entry["id"] for entry in json.loads(kiln("list", "--format", "json", check=True).stdout)] == [container]
    kiln("kill", container, "KILL", check=True)
    kiln.wait_status(container, "stopped")
    kiln("delete", container, check=True)
    kiln.assert_clean()


@kiln_only
def test_the_build_has_its_programs_and_guest_image():
    version = subprocess.run([BUILD / "kiln", "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("kiln version ")
    for name in ("kiln-vmm", "kiln-agent"):
        assert os.access(BUILD / name, os.X_OK), name
    manifest = json.loads((BUILD / "guest/manifest.json").read_text())
    for name, entry in manifest["files"].items():
        assert (BUILD / "guest" / name).stat().st_size == entry["size"]
