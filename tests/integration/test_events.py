# SPDX-License-Identifier: Apache-2.0
"""`kiln events`: what the guest's cgroup of the container counts, and its OOM kills, as runc prints them."""
import json
import subprocess
import time

import pytest

from conftest import deadline_in, kiln_only

pytestmark = kiln_only

RUNC_MEMBERS = {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"}


def stats_of(kiln, container):
    lines = kiln("events", "--stats", container, check=True).stdout.splitlines()
    assert len(lines) == 1
    event = json.loads(lines[0])
    assert event["type"] == "stats" and event["id"] == container
    assert set(event["data"]) == RUNC_MEMBERS
    return event["data"]


def test_statistics_are_the_container_s(kiln):
    def patch(spec):
        spec["linux"]["resources"].update(memory={"limit": 100 << 20}, pids={"limit": 33})
    container = kiln.start_sleeper(patch)
    kiln("exec", "-d", container, "sleep", "1000", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = stats_of(kiln, container)
    assert before["pids"] == {"current": 2, "limit": 33}
    assert before["memory"]["usage"]["limit"] == 100 << 20
    assert 0 < before["memory"]["usage"]["usage"] < 100 << 20
    assert before["memory"]["raw"]["anon"] > 0
    assert "2MB" in before["hugetlb"]
    assert before["network_interfaces"] is None and before["intel_rdt"] == {}
    kiln("exec", container, "/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", check=True)
    after = stats_of(kiln, container)
    assert after["cpu"]["usage"]["total"] >= before["cpu"]["usage"]["total"] + 10_000_000  # ns
    kiln("pause", container, check=True)
    assert stats_of(kiln, container)["pids"]["current"] == 2
    kiln("resume", container, check=True)


def test_a_stream_of_statistics_ends_with_the_container(kiln):
    container = kiln.start_sleeper()
    watch = kiln.start_background("events", "--interval", "200ms", container, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        assert json.loads(watch.stdout.readline())["type"] == "stats"
    kiln("kill", container, "KILL", check=True)
    rest, errors = watch.communicate(timeout=30)
    assert watch.returncode == 0 and errors == ""
    assert all(json.loads(line)["type"] == "stats" for line in rest.splitlines())


def test_an_oom_kill_is_told_and_ends_with_137(kiln):
    def patch(spec):
        spec["linux"]["resources"]["memory"] = {"limit": 32 << 20, "swap": 32 << 20}
    container = kiln.new_id()
    bundle = kiln.bundle(["/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1; exit $?"], patch)
    process = kiln.start_background("create", "--bundle", bundle, container, stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait(timeout=60) == 0
    watch = kiln.start_background("events", "--interval", "1h", container, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)  # it has subscribed
    kiln("start", container, check=True)
    out, errors = watch.communicate(timeout=60)
    assert watch.returncode == 0 and errors == ""
    assert [json.loads(line) for line in out.splitlines()] == [{"type": "oom", "id": container}]
    deadline = deadline_in(10)
    record = {}
    while "exitCode" not in record and time.monotonic() < deadline:
        record = json.loads((kiln.root / container / "state.json").read_text())["kiln"]
    assert record["exitCode"] == 137 and record["oomKilled"]


@pytest.mark.parametrize("interval, said", [("0s", "duration interval must be greater than 0"),
                                            ("-1s", "duration interval must be greater than 0"),
                                            ("xx", "invalid duration")])
def test_bad_intervals_are_refused(shared, sleeper, interval, said):
    result = shared("events", f"--interval={interval}", sleeper)
    assert result.returncode == 1 and said in result.stderr


def test_a_container_that_does_not_run_is_refused(kiln):
    container = kiln.new_id()
    assert kiln.run(["true"], keep=True, id=container).returncode == 0
    for flags in (["--stats"], []):
        result = kiln("events", *flags, container)
        assert result.returncode == 1 and f"container with id {container} is not running" in result.stderr
    result = kiln("events", "--stats", "no-such")
    assert result.returncode == 1 and "container does not exist" in result.stderr


def test_readers_that_do_not_read_hold_nobody_up(kiln):
    """A watcher that is stopped gets no more than it takes."""
    container = kiln.start_sleeper()
    watch = kiln.start_background("events", "--interval", "10ms", container, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    time.sleep(2)  # the pipe is full
    assert stats_of(kiln, container)["pids"]["current"] == 1
    kiln("delete", "--force", container, check=True)
    watch.kill()
