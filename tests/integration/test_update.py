# SPDX-License-Identifier: Apache-2.0
"""`kiln update`: limits that change while the container runs, in the guest's cgroup and in the host's."""
import json
import subprocess

import pytest

from conftest import kiln_only
from host_cgroups import HostCgroup
from test_host_cgroup import parent, placed  # pylint: disable=unused-import

pytestmark = kiln_only


@pytest.fixture
def limited(kiln, parent):  # pylint: disable=redefined-outer-name
    """A running container with limits, its cgroup on the host, and a function that reads a file of the guest's."""
    container = kiln.start_sleeper(placed(
        f"/{parent}/c", memory={"limit": 96 << 20, "swap": 96 << 20}, pids={"limit": 50},
        cpu={"shares": 1024, "quota": 80000, "period": 100000}))

    def read(file):
        return kiln("exec", container, "cat", f"/sys/fs/cgroup/{file}", check=True).stdout.strip()
    yield container, HostCgroup(f"/{parent}/c"), read
    kiln("delete", "--force", container, check=True)


def test_flags_change_guest_host_and_state(kiln, limited):
    container, cgroup, read = limited
    kiln("update", "--memory", "64m", "--memory-swap", "80m", "--memory-reservation", "16m", "--cpu-quota", "50000",
         "--cpu-share", "2048", "--pids-limit", "30", container, check=True)
    assert read("memory.max") == str(64 << 20)
    assert read("memory.swap.max") == str(16 << 20)
    assert read("memory.low") == str(16 << 20)
    assert read("cpu.max") == "50000 100000"
    assert read("cpu.weight") == "79"
    assert read("pids.max") == "30"
    assert cgroup.read("cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert cgroup.read("cpu/cpu.shares", "cpu.weight") in ("2048", "79")
    # What is not named stays, also from one update to the next.
    kiln("update", "--cpu-period", "200000", container, check=True)
    assert read("cpu.max") == "50000 200000"
    assert read("memory.max") == str(64 << 20)
    state = json.loads((kiln.root / container / "state.json").read_text())["kiln"]["resources"]
    assert state["memory"]["limit"] == 64 << 20 and state["cpu"]["period"] == 200000 and state["pids"]["limit"] == 30


def test_a_file_and_standard_input(kiln, limited, tmp_path):
    container, _, read = limited
    file = tmp_path / "resources.json"
    # As Docker sends it: zero is what stays as it is.
    file.write_text(json.dumps({"memory": {"limit": 0, "swap": 0, "reservation": 0}, "pids": {"limit": 20},
                                "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
                                "blockIO": {"weight": 0}, "devices": None}))
    kiln("update", "--resources", file, "--pids-limit", "33", container, check=True)
    assert read("pids.max") == "20"
    assert read("memory.max") == str(96 << 20)
    kiln("update", "-r", "-", container, input='{"pids": {"limit": -1}}', check=True)
    assert read("pids.max") == "max"


def test_a_limit_set_at_run_time_bites(kiln, limited):
    container, _, _ = limited
    hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=40M", "count=1"]
    assert kiln("exec", container, *hog).returncode == 0
    kiln("update", "--memory", "24m", "--memory-swap", "24m", container, check=True)
    assert kiln("exec", container, *hog).returncode == 137
    kiln("update", "--memory", "96m", "--memory-swap", "96m", container, check=True)
    assert kiln("exec", container, *hog).returncode == 0


def test_more_than_the_machine_has_is_refused(kiln, limited):
    container, _, read = limited
    result = kiln("update", "--memory", "1g", "--memory-swap", "1g", "--pids-limit", "7", container)
    assert result.returncode == 1
    assert f"memory limit of {1 << 30} bytes: the container's VM has 192 MiB" in result.stderr
    assert read("memory.max") == str(96 << 20) and read("pids.max") == "50"


def test_more_cpus_than_the_machine_has_are_a_warning(kiln, limited):
    container, _, read = limited
    result = kiln("update", "--cpu-quota", "900000", container, check=True)
    assert "the container may use 9 CPUs, its VM has 1" in result.stderr
    assert read("cpu.max") == "900000 100000"


def test_what_the_host_refuses_changes_nothing(kiln, limited):
    container, cgroup, read = limited
    before = cgroup.read("cpu/cpu.shares", "cpu.weight")
    result = kiln("update", "--cpuset-cpus", "4000", "--cpu-share", "4096", container)
    assert result.returncode == 1 and "cpuset.cpus" in result.stderr
    assert cgroup.read("cpu/cpu.shares", "cpu.weight") == before
    assert read("cpu.weight") == "39"
    kiln("update", "--cpuset-cpus", "0", container, check=True)
    assert cgroup.read("cpuset/cpuset.cpus", "cpuset.cpus") == "0"


def test_what_the_guest_refuses_changes_nothing(kiln, limited):
    container, cgroup, read = limited
    before = cgroup.read("cpu/cpu.shares", "cpu.weight")
    result = kiln("update", "--cpu-rt-runtime", "5000", "--cpu-share", "4096", container)
    assert result.returncode == 1 and "realtimeRuntime" in result.stderr
    assert cgroup.read("cpu/cpu.shares", "cpu.weight") == before
    assert read("cpu.weight") == "39"


@pytest.mark.parametrize("arguments, said", [
    (["--memory", "xx"], "invalid value for memory: invalid size: 'xx'"),
    (["--cpu-quota", "xx"], 'invalid value for cpu-quota: strconv.ParseInt: parsing "xx": invalid syntax'),
    (["--memory", "90m", "--memory-swap", "1m"], "must not be less than limit"),
    (["--l3-cache-schema", "L3:0=f"], "Intel RDT/CAT: l3 cache schema is not enabled"),
    (["--mem-bw-schema", "MB:0=20"], "Intel RDT/MBA: memory bandwidth schema is not enabled"),
    (["--resources", "/nonexistent"], "/nonexistent"),
])
def test_bad_input_is_refused(shared, sleeper, arguments, said):
    result = shared("update", *arguments, sleeper)
    assert result.returncode == 1 and said in result.stderr.replace('\\"', '"')


@pytest.mark.parametrize("text", ["", "{", "[]", '{"memory": {"limit": "x"}}', '{"pids": 5}',
                                  pytest.param("x" * (2 << 20), id="too-long")])
def test_bad_json_is_refused(shared, sleeper, text):
    result = shared("update", "--resources", "-", sleeper, input=text)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1


def test_kernel_memory_is_ignored_with_a_warning(shared, sleeper):
    result = shared("update", "--kernel-memory", "5m", sleeper, check=True)
    assert "Kernel memory settings are ignored and will be removed" in result.stderr


def test_a_container_that_does_not_run_is_refused(kiln):
    container = kiln.new_id()
    assert kiln.run(["true"], keep=True, id=container).returncode == 0
    result = kiln("update", "--pids-limit", "5", container)
    assert result.returncode == 1 and "container not running" in result.stderr
    result = kiln("update", "--pids-limit", "5", "no-such")
    assert result.returncode == 1 and "container does not exist" in result.stderr


def test_a_created_container_can_be_updated(kiln):
    container = kiln.new_id()
    bundle = kiln.bundle(["cat", "/sys/fs/cgroup/pids.max"])
    output = kiln.directory / "out"
    with open(output, "wb") as out:
        kiln("create", "--bundle", bundle, container, check=True, stdout=out, stderr=subprocess.DEVNULL)
    kiln("update", "--pids-limit", "41", container, check=True)
    kiln("start", container, check=True)
    kiln.wait_status(container, "stopped")
    assert output.read_text() == "41\n"
