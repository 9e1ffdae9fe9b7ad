# SPDX-License-Identifier: Apache-2.0
"""Several bundles at once, each with a machine of its own."""
import subprocess
from concurrent.futures import ThreadPoolExecutor

from conftest import kiln_only


def test_two_bundles_run_at_once(kiln):
    """Each waits, through a directory they share, for the other: one after the other would never end."""
    meeting = kiln.directory / "meeting"
    meeting.mkdir()

    def run(me, other):
        def patch(spec):
            spec["hostname"] = me
            spec["mounts"].append({"destination": "/meeting", "type": "bind", "source": str(meeting),
                                   "options": ["rbind", "rw"]})
        script = f"echo {me} > /meeting/{me}; n=0; while [ ! -s /meeting/{other} ] && [ $n -lt 600 ]; do " \
                 f"sleep 0.1; n=$((n+1)); done; echo $(hostname) met $(cat /meeting/{other})"
        return kiln.run(["/bin/sh", "-c", script], patch, id=f"{me}-{kiln.mark[-6:]}")
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, ["first", "second"], ["second", "first"]))
    assert [(r.returncode, r.stdout) for r in results] == [(0, "first met second\n"), (0, "second met first\n")]
    kiln.assert_clean()


def test_they_share_no_memory_no_processes_no_names(kiln):
    one, two = kiln.start_sleeper(), kiln.start_sleeper()
    kiln("exec", one, "/bin/sh", "-c", "echo secret > /dev/shm/secret; touch /tmp/mine", check=True)
    kiln("exec", "--detach", one, "sleep", "500", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert kiln("exec", two, "ls", "/dev/shm", "/tmp", check=True).stdout == "/dev/shm:\n\n/tmp:\n"
    assert "sleep 500" not in kiln("exec", two, "ps", check=True).stdout
    boot_ids = {kiln("exec", c, "cat", "/proc/sys/kernel/random/boot_id", check=True).stdout for c in (one, two)}
    uuids = {kiln("exec", c, "cat", "/proc/sys/kernel/random/uuid", check=True).stdout for c in (one, two)}
    assert len(uuids) == 2
    assert len(boot_ids) in (1, 2)  # 1: both are on the host's kernel
    listed = sorted(kiln("list", "-q", check=True).stdout.split())
    assert listed == sorted([one, two])


@kiln_only  # runc 1.1 loses all three at times
def test_the_same_id_at_the_same_time_is_one_container(kiln):
    container = kiln.new_id()
    bundles = [kiln.bundle(["sleep", "1000"]) for _ in range(3)]
    creates = [kiln.start_background("create", "--bundle", bundle, container, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for bundle in bundles]
    codes = sorted(process.wait(timeout=120) for process in creates)
    assert codes == [0, 1, 1]
    state = kiln.state(container)
    assert state["status"] == "created" and state["bundle"] in map(str, bundles)
    kiln("delete", "--force", container, check=True)
    kiln.assert_clean()


def test_four_short_runs_in_a_burst(kiln):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: kiln.run(["/bin/sh", "-c", f"echo {i}; exit {i}"], id=f"r{i}-{kiln.mark[-6:]}"),
                                range(1, 5)))
    assert [(r.returncode, r.stdout) for r in results] == [(i, f"{i}\n") for i in range(1, 5)]
    kiln.assert_clean()
