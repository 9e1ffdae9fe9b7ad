# SPDX-License-Identifier: Apache-2.0
"""Limits that bite: the guest's cgroup of the container, and devices by BPF."""
import time

from conftest import all_capabilities, deadline_in, kiln_only, mount_of

pytestmark = kiln_only


def resources(**values):
    def patch(spec):
        spec["linux"]["resources"].update(values)
    return patch


def read_limits(kiln, names, patch):
    return kiln.sh("cd /sys/fs/cgroup; for f in " + " ".join(names) + "; do echo $(cat $f); done", patch).splitlines()


def test_limits_arrive(kiln):
    patch = resources(
        memory={"limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20},
        cpu={"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0", "idle": 0},
        pids={"limit": 77})
    # The cpuset is the host's: its CPUs are the VM's.
    values = read_limits(kiln, ["memory.max", "memory.low", "memory.swap.max", "cpu.weight", "cpu.max",
                                "cpuset.cpus.effective", "cpuset.mems.effective", "pids.max"], patch)
    assert values[0] == str(64 << 20)
    assert values[1] == str(32 << 20)
    assert values[2] == str(32 << 20)
    assert 15 <= int(values[3]) <= 60  # runc's conversions of shares have changed over time
    assert values[4:] == ["50000 100000", "0", "0", "77"]


def test_unified_values(kiln):
    patch = resources(unified={"memory.high": str(48 << 20), "pids.max": "55"})
    assert read_limits(kiln, ["memory.high", "pids.max"], patch) == [str(48 << 20), "55"]


def test_hugetlb_limit(kiln):
    patch = resources(hugepageLimits=[{"pageSize": "2MB", "limit": 4 << 20}])
    assert read_limits(kiln, ["hugetlb.2MB.max"], patch) == [str(4 << 20)]


def test_a_memory_hog_is_killed_and_reported(kiln):
    container = kiln.new_id()
    bundle = kiln.bundle(["/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1; exit $?"],
                         resources(memory={"limit": 32 << 20, "swap": 32 << 20}))
    log = kiln.directory / "log"
    result = kiln("--log", log, "--debug", "run", "--bundle", bundle, container)
    assert result.returncode == 137
    assert "oom" in (log.read_text() + result.stderr).lower()


def test_a_fork_bomb_stops_at_the_limit(kiln):
    # The shell of the bomb ends where it cannot fork; the outer one goes on with builtins alone.
    script = "(i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done) 2>/tmp/err; " \
             "read n < /sys/fs/cgroup/pids.current; echo $n; read e < /tmp/err; echo $e; " \
             "read o < /sys/fs/cgroup/pids.events; echo $o"
    current, said, events = kiln.sh(script, resources(pids={"limit": 20})).splitlines()
    assert 15 < int(current) <= 20
    assert "can't fork" in said
    assert events.startswith("max ") and int(events.split()[1]) > 0


def test_cpu_quota_slows_down(kiln):
    script = "s=$(cut -d' ' -f1 /proc/uptime); i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; " \
             "grep -E 'nr_throttled|throttled_usec' /sys/fs/cgroup/cpu.stat"
    out = kiln.sh(script, resources(cpu={"quota": 10000, "period": 100000}))
    throttled = dict(line.split() for line in out.splitlines())
    assert int(throttled["nr_throttled"]) > 0


def test_device_rules(kiln):
    """Only what the rules allow can be opened, in the way they allow; the last matching rule wins.

    Making nodes is allowed for all devices, as runc appends that rule.
    """
    def patch(spec):
        all_capabilities(spec, ["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYSLOG"])
        spec["linux"]["resources"]["devices"] = [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "w"},
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rw"},
            {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ]
    out = kiln.sh("cat /dev/null && echo null; cd /dev; mknod fuse c 10 229; mknod kmsg c 1 11; mknod other c 10 230;"
                  "(: > fuse) && echo fuse-w; (: < fuse) 2>&1; (: > kmsg) && echo kmsg-w; (: < kmsg) 2>&1; "
                  "(: > other) 2>&1; true", patch)
    lines = out.splitlines()
    assert [line for line in lines if "not permitted" not in line] == ["null", "fuse-w", "kmsg-w"]
    refused = [line for line in lines if "Operation not permitted" in line]
    assert ["fuse" in refused[0], "kmsg" in refused[1], "other" in refused[2]] == [True] * 3 and len(refused) == 3


def test_writable_cgroup_of_one_s_own(kiln):
    def patch(spec):
        mount = mount_of(spec, "/sys/fs/cgroup") if any(
            m["destination"] == "/sys/fs/cgroup" for m in spec["mounts"]) else None
        if mount is None:
            spec["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                                   "options": ["nosuid", "noexec", "nodev"]})
        else:
            mount["options"] = [o for o in mount["options"] if o not in ("ro",)]
    assert kiln.sh("mkdir /sys/fs/cgroup/sub && echo made", patch) == "made\n"


def test_pause_and_resume(kiln):
    container = kiln.new_id()
    output = kiln.directory / "ticks"
    with open(output, "wb") as out:
        kiln("run", "-d", "--bundle", kiln.bundle(["/bin/sh", "-c", "while :; do echo t; sleep 0.05; done"]), container,
             check=True, stdout=out, stderr=out)
    kiln("pause", container, check=True)
    assert kiln.state(container)["status"] == "paused"
    time.sleep(0.3)
    size = output.stat().st_size
    time.sleep(0.5)
    assert output.stat().st_size == size
    kiln("resume", container, check=True)
    deadline = deadline_in(10)
    while output.stat().st_size == size and time.monotonic() < deadline:
        time.sleep(0.05)
    assert output.stat().st_size > size
    assert kiln.state(container)["status"] == "running"
