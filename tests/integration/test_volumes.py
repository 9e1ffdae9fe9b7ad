# SPDX-License-Identifier: Apache-2.0
"""Volumes that the kubelet writes anew while containers run: configMap, secret, projected, downwardAPI."""
import os
import shutil
import subprocess
import time

import pytest

from conftest import SLOWDOWN, deadline_in, kiln_only
from kubelet_volume import PLACE, Volume, build_watcher
from test_kill9 import wait_for
from test_pods import member_of

pytestmark = kiln_only

SEEN_WITHIN = 2  # seconds


def mounting(*mounts):
    def patch(spec):
        spec["mounts"] += mounts
    return patch


@pytest.fixture(scope="module")
def watcher(tmp_path_factory):
    path = build_watcher(tmp_path_factory.mktemp("watcher"))
    return {"destination": "/bin/watcher", "type": "bind", "source": str(path), "options": ["bind", "ro"]}


def output(kiln, container):
    return (kiln.directory / f"{container}.log").read_text()


def start_watcher(kiln, patch, *paths):
    container = kiln.start_sleeper(patch, args=["/bin/watcher", *paths])
    wait_for(lambda: "ready" in output(kiln, container), "change", 20)
    return container


def read(kiln, container, name, place=PLACE):
    return kiln("exec", container, "cat", f"{place}/{name}", check=True).stdout


def assert_soon(what, why):
    deadline = deadline_in(SEEN_WITHIN)
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert what(), why()


def test_a_change_is_told_to_watchers_and_to_be_read(kiln, watcher):
    volume = Volume(kiln.directory)
    volume.write({"key": "one", "goes": "away"})
    container = start_watcher(kiln, mounting(volume.mount(), watcher), PLACE, f"{PLACE}/key")
    assert read(kiln, container, "key") == "one"
    for round_ in ("two", "three"):
        before = len(output(kiln, container))
        volume.write({"key": round_, "comes": "new"})
        assert_soon(lambda: f"{PLACE} MOVED_TO ..data\n" in output(kiln, container)[before:],
                    lambda: output(kiln, container))
        assert read(kiln, container, "key") == round_
    told = output(kiln, container)
    assert f"{PLACE} CREATE comes\n" in told
    assert f"{PLACE} DELETE goes\n" in told
    assert f"{PLACE}/key DELETE_SELF" in told  # the file, that its link led to
    assert kiln("exec", container, "ls", PLACE, check=True).stdout.split() == ["comes", "key"]
    assert kiln("exec", container, "touch", f"{PLACE}/mine").returncode != 0


def test_modes_owners_and_bytes_are_the_volumes(kiln):
    secret = Volume(kiln.directory, "secret")
    binary = bytes(range(256)) * 100
    secret.write({"token": binary}, mode=0o400)
    projected = Volume(kiln.directory, "projected")
    projected.write({"deep/er/file": "x"}, mode=0o640, group=1000)
    os.chown(projected.path, 0, 1000)
    os.chmod(projected.path, 0o2777)
    container = kiln.start_sleeper(mounting(secret.mount("/secret"), projected.mount("/projected")))

    def look():
        script = "stat -L -c '%a %u %g %s' /secret/token /projected/deep/er/file /projected; md5sum < /secret/token"
        return kiln("exec", container, "/bin/sh", "-c", script, check=True).stdout.splitlines()

    def sum_of(content):
        return subprocess.run(["md5sum"], input=content, capture_output=True, check=True).stdout.decode().strip()

    assert look()[:3] == ["400 0 0 25600", "640 0 1000 1", "2777 0 1000 " + look()[2].split()[3]]
    assert look()[3] == sum_of(binary)
    secret.write({"token": binary[::-1]}, mode=0o440, group=7)
    wait_for(lambda: look()[0] == "440 0 7 25600", "change", 20)
    assert look()[3] == sum_of(binary[::-1])
    assert kiln("exec", "--user", "1000:1000", container, "cat", "/projected/deep/er/file", check=True).stdout == "x"


def test_the_last_of_many_quick_changes_stays_and_none_is_seen_half(kiln):
    volume = Volume(kiln.directory)
    volume.write({"a": "0", "b": "0"})
    # Through one version's directory, as a careful reader does it.
    script = f"while :; do cd $(readlink -f {PLACE}/..data) 2>/dev/null && a=$(cat a 2>/dev/null) && b=$(cat b 2>/dev/null) " \
             "&& [ \"$a\" != \"$b\" ] && echo half $a $b; done"
    container = kiln.start_sleeper(mounting(volume.mount()), args=["/bin/sh", "-c", script])
    for i in range(1, 201):
        volume.write({"a": str(i), "b": str(i)})
    # An open in the midst of a change may fail, as where the kubelet's directory is mounted itself.
    wait_for(lambda: kiln("exec", container, "cat", f"{PLACE}/a").stdout == "200", "change", 20)
    assert read(kiln, container, "b") == "200"
    assert "half" not in output(kiln, container)
    names = kiln("exec", container, "ls", "-A", PLACE, check=True).stdout.split()
    assert names == ["..2026_11_02_10_00_00.000000201", "..data", "a", "b"]


def test_what_is_empty_at_first_is_filled_and_a_sub_path_stays(kiln, watcher):
    volume = Volume(kiln.directory, "downward-api")
    other = Volume(kiln.directory)
    other.write({"key": "one"})
    container = start_watcher(
        kiln, mounting(volume.mount(), other.mount("/sub", os.readlink(other.path / "..data") + "/key"), watcher), PLACE)
    assert kiln("exec", container, "cat", "/sub", check=True).stdout == "one"
    volume.write({"labels": "a=b"})
    assert_soon(lambda: f"{PLACE} CREATE labels\n" in output(kiln, container), lambda: output(kiln, container))
    assert read(kiln, container, "labels") == "a=b"
    other.write({"key": "two"})
    time.sleep(SEEN_WITHIN)
    assert kiln("exec", container, "cat", "/sub", check=True).stdout == "one"


def test_members_of_a_pod_have_the_newest_and_hear_of_changes(kiln, watcher):
    volume = Volume(kiln.directory)
    volume.write({"key": "one"})
    first = kiln.start_sleeper(mounting(volume.mount()))
    member = start_watcher(kiln, member_of(kiln, first, more=mounting(volume.mount(), watcher)), PLACE)
    volume.write({"key": "two"})
    assert_soon(lambda: "MOVED_TO ..data" in output(kiln, member), lambda: output(kiln, member))
    wait_for(lambda: read(kiln, first, "key") == read(kiln, member, "key") == "two", "change", 20)
    # One that ends takes its copy with it, and the next starts with the newest.
    kiln("delete", "--force", member, check=True)
    volume.write({"key": "three"})
    again = kiln.start_sleeper(member_of(kiln, first, more=mounting(volume.mount())))
    assert read(kiln, again, "key") == "three"
    # The kubelet takes the volume away before the sandbox ends.
    shutil.rmtree(volume.path)
    assert read(kiln, again, "key") == "three"
    os.kill(kiln.state(again)["pid"], 9)
    kiln("delete", "--force", again, check=True)
    kiln("delete", "--force", first, check=True)
    kiln.assert_clean()


def test_a_change_while_paused_is_there_after_the_resume(kiln, watcher):
    volume = Volume(kiln.directory)
    volume.write({"key": "one"})
    container = start_watcher(kiln, mounting(volume.mount(), watcher), PLACE)
    kiln("pause", container, check=True)
    time.sleep(1 * SLOWDOWN)
    volume.write({"key": "two"})
    time.sleep(1 * SLOWDOWN)
    kiln("resume", container, check=True)
    assert_soon(lambda: "MOVED_TO ..data" in output(kiln, container), lambda: output(kiln, container))
    assert read(kiln, container, "key") == "two"


def test_a_volume_that_is_too_large_is_shared_with_a_warning(kiln):
    volume = Volume(kiln.directory)
    volume.write({"key": "one", "large": b"x" * (9 << 20)})
    container, log = kiln.new_id(), kiln.directory / "log"
    kiln("--log", log, "run", "--detach", "--bundle", kiln.bundle(["sleep", "1000"], mounting(volume.mount())), container,
         check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert "too large" in log.read_text()
    volume.write({"key": "two"})
    wait_for(lambda: read(kiln, container, "key") == "two", "change", 20)
