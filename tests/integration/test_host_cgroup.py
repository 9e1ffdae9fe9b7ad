# SPDX-License-Identifier: Apache-2.0
"""The machine's processes are in the container's cgroup on the host, within its limits, and nothing of it is left."""
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

import pytest

from conftest import RUNTIME, deadline_in, descendants, kiln_only
from host_cgroups import TOP, UNIFIED, HostCgroup, hierarchies

pytestmark = kiln_only


@pytest.fixture
def parent(kiln):
    """The name of a cgroup below which a test's containers go; it is the test's to remove, as with runc."""
    name = f"kiln-parent-{uuid.uuid4().hex[:8]}"
    yield name
    kiln.close()
    HostCgroup(name).remove()


def placed(path, **resources):
    def patch(spec):
        spec["linux"]["cgroupsPath"] = path
        spec["linux"]["resources"].update(resources)
    return patch


def wait_gone(cgroup, timeout=10):
    deadline = deadline_in(timeout)
    while cgroup.existing() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cgroup.existing() == []


def test_it_holds_exactly_our_processes(kiln, parent):
    cgroup = HostCgroup(f"/{parent}/c")
    container = kiln.start_sleeper(placed(f"/{parent}/c"))
    monitor = kiln.state(container)["pid"]
    ours = {monitor, *descendants(monitor)}
    assert len(ours) >= 3
    found = cgroup.processes()
    assert set(found) == set(hierarchies())
    assert all(pids == ours for pids in found.values()), found
    kiln("delete", "--force", container, check=True)
    assert cgroup.existing() == []
    assert HostCgroup(parent).existing() != []  # as runc leaves what is above


def test_without_a_path_it_has_the_container_s_id(kiln):
    container = kiln.start_sleeper()
    pid = kiln.state(container)["pid"]
    own = dict(line.split(":", 2)[1:] for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines())
    theirs = dict(line.split(":", 2)[1:] for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    for names, path in theirs.items():
        above = os.path.dirname(own[names]) if UNIFIED else own[names]
        assert path == f"{above.rstrip('/')}/{container}"
    kiln("delete", "--force", container, check=True)
    kiln.assert_clean()


def test_limits_leave_room_for_the_machine(kiln, parent):
    """Memory is the machine's and its processes'; CPU is as given; the number of processes is the guest's alone."""
    cgroup = HostCgroup(f"/{parent}/c")
    container = kiln.start_sleeper(placed(
        f"/{parent}/c", memory={"limit": 64 << 20, "swap": 64 << 20},
        cpu={"shares": 2048, "quota": 80000, "period": 100000, "cpus": "0", "mems": "0"}, pids={"limit": 5}))
    memory = int(cgroup.read("memory/memory.limit_in_bytes", "memory.max"))
    machine = 64 + 96  # MiB: machine.memory_overhead's default
    assert (machine + 128) << 20 < memory < (machine + 1024) << 20
    assert cgroup.read("cpu/cpu.shares", "cpu.weight") in ("2048", "79")
    assert cgroup.read("cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "80000"
    assert cgroup.read("cpuset/cpuset.cpus", "cpuset.cpus") == "0"
    assert cgroup.read("pids/pids.max", "pids.max") == "max"
    assert len(cgroup.all_processes()) >= 3


def test_the_boot_is_not_throttled(kiln, parent):
    """One hundredth of a CPU: a boot at that speed would take minutes."""
    cgroup = HostCgroup(f"/{parent}/c")
    container = kiln.new_id()
    bundle = kiln.bundle(["sleep", "1000"], placed(f"/{parent}/c", cpu={"quota": 1000, "period": 100000}))
    kiln("create", "--bundle", bundle, container, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert cgroup.read("cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "1000"
    kiln("delete", "--force", container, check=True)
    wait_gone(cgroup)


def test_two_containers_below_one_parent(kiln, parent):
    first = kiln.start_sleeper(placed(f"/{parent}/a"))
    second = kiln.start_sleeper(placed(f"/{parent}/b"))
    kiln("delete", "--force", first, check=True)
    assert HostCgroup(f"{parent}/a").existing() == []
    assert kiln.state(second)["status"] == "running"
    assert len(HostCgroup(f"{parent}/b").all_processes()) >= 3
    kiln("delete", "--force", second, check=True)
    wait_gone(HostCgroup(f"{parent}/b"))


def test_a_cgroup_with_processes_is_refused_and_left_alone(kiln, parent):
    cgroup = HostCgroup(f"/{parent}/c")
    cgroup.make()
    other = subprocess.Popen(["sleep", "1000"])
    try:
        cgroup.add(other.pid)
        result = kiln.run(["true"], placed(f"/{parent}/c"))
        assert result.returncode == 1
        assert "container's cgroup is not empty: 1 process(es) found" in result.stderr
        assert other.poll() is None and cgroup.all_processes() == {other.pid}
    finally:
        other.kill()
        other.wait()
    kiln.assert_clean()
    cgroup.remove()


def test_the_top_of_the_hierarchy_is_refused(kiln):
    result = kiln.run(["true"], placed("/"))
    assert result.returncode == 1 and "container's cgroup is not empty" in result.stderr
    kiln.assert_clean()


def test_a_leftover_without_processes_is_used_and_removed(kiln, parent):
    cgroup = HostCgroup(f"/{parent}/c")
    cgroup.make()
    assert kiln.run(["true"], placed(f"/{parent}/c")).returncode == 0
    wait_gone(cgroup)


def test_a_limit_that_the_host_refuses_names_the_file(kiln, parent):
    cgroup = HostCgroup(f"/{parent}/c")
    result = kiln.run(["true"], placed(f"/{parent}/c", cpu={"cpus": "4000"}))
    assert result.returncode == 1
    assert f"{parent}/c/cpuset.cpus" in result.stderr and "4000" in result.stderr
    assert cgroup.existing() == []
    kiln.assert_clean()


def test_a_block_device_that_the_host_has_not_names_the_file(kiln, parent):
    device = {"major": 255, "minor": 77, "rate": 1000}
    result = kiln.run(["true"], placed(f"/{parent}/c", blockIO={"throttleReadBpsDevice": [device]}))
    assert result.returncode == 1
    assert ("io.max" if UNIFIED else "blkio.throttle.read_bps_device") in result.stderr
    assert HostCgroup(f"/{parent}/c").existing() == []
    kiln.assert_clean()


def test_a_create_that_fails_later_leaves_nothing(kiln, parent):
    def patch(spec):
        placed(f"/{parent}/c")(spec)
        spec["hooks"] = {"prestart": [{"path": "/bin/false"}]}
    result = kiln.run(["true"], patch)
    assert result.returncode == 1
    assert HostCgroup(f"/{parent}/c").existing() == []
    kiln.assert_clean()


@pytest.mark.parametrize("victim", ["monitor", "vm", "everything"])
def test_kill_9_leaves_nothing_after_delete(kiln, parent, victim):
    cgroup = HostCgroup(f"/{parent}/c")
    container = kiln.start_sleeper(placed(f"/{parent}/c"))
    monitor = kiln.state(container)["pid"]
    pids = {"monitor": [monitor], "vm": [kiln.helpers(monitor)["vm"]],
            "everything": sorted(cgroup.all_processes())}[victim]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    kiln("delete", "--force", container, check=True)
    assert cgroup.existing() == []
    kiln.assert_clean()


def test_the_command_s_end_in_the_middle_of_create_leaves_nothing(kiln, parent):
    """The monitor removes its own cgroup, which it has to leave for that."""
    cgroup = HostCgroup(f"/{parent}/c")
    container = kiln.new_id()
    process = kiln.start_background("create", "--bundle", kiln.bundle(["sleep", "1000"], placed(f"/{parent}/c")),
                                    container, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL)
    deadline = deadline_in(30)
    while len(cgroup.all_processes()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    wait_gone(cgroup, 30)
    kiln.assert_clean()


def test_delete_takes_along_what_somebody_else_put_there(kiln, parent):
    """And what is nested below."""
    cgroup = HostCgroup(f"/{parent}/c")
    container = kiln.start_sleeper(placed(f"/{parent}/c"))
    guest = subprocess.Popen(["sleep", "1000"])
    try:
        for path in cgroup.directories().values():
            (path / "cgroup.procs").write_text(str(guest.pid))
        kiln("delete", "--force", container, check=True)
        assert guest.wait(timeout=10) == -signal.SIGKILL
    finally:
        guest.kill()
        guest.wait()
    assert cgroup.existing() == []


def test_vcpus_come_from_the_cpuset(kiln):
    cpus = os.cpu_count()
    spec = {"cpus": f"0-{cpus - 1}"}
    assert kiln.sh("nproc", placed("", cpu=spec)).strip() == str(cpus)


def test_maxima_of_the_configuration(kiln):
    """CPU limits are capped with a warning; memory that was promised is refused."""
    kiln.write_config(kiln.config.read_text() + "  max_vcpus: 1\n  max_memory: 300M\n")
    capped = kiln.run(["nproc"], placed("", cpu={"quota": 200000, "period": 100000}))
    if os.cpu_count() > 1:
        assert "the container may use 2 CPUs, its VM has 1 (machine.max_vcpus)" in capped.stderr
    assert capped.stdout.strip() == "1"
    refused = kiln.run(["true"], placed("", memory={"limit": 400 << 20}))
    assert refused.returncode == 1
    assert "needs a VM with 496 MiB of memory" in refused.stderr and "machine.max_memory" in refused.stderr

    def annotated(spec):
        spec["annotations"] = {"io.kiln.vcpus": "2"}
    refused = kiln.run(["true"], annotated)
    assert refused.returncode == 1 and "machine.max_vcpus" in refused.stderr
    kiln.assert_clean()


def test_systemd_is_missed_where_there_is_none(kiln, parent):
    if os.path.isdir("/run/systemd/system"):
        pytest.skip("this host runs systemd")
    bundle = kiln.bundle(["true"], placed("system.slice:kiln:c"))
    result = kiln("--systemd-cgroup", "run", "--bundle", bundle, kiln.new_id())
    assert result.returncode == 1
    assert "systemd not running on this host, cannot use systemd cgroups manager" in result.stderr
    bundle = kiln.bundle(["true"], placed(f"/{parent}/c"))
    result = kiln("--systemd-cgroup", "run", "--bundle", bundle, kiln.new_id())
    assert result.returncode == 1
    assert "expected cgroupsPath to be of format" in result.stderr and "slice:prefix:name" in result.stderr
    kiln.assert_clean()


def test_on_a_host_with_v2_alone(kiln, parent):
    """In a mount namespace that has nothing but v2; every step in it, since paths mean what is mounted there."""
    if UNIFIED:
        pytest.skip("this host is one, so that every other test is that")
    bundle = kiln.bundle(["sleep", "1000"], placed(f"/{parent}/c"))
    container = kiln.new_id()
    runtime = " ".join(kiln.command())
    script = f"""set -e
umount -R {TOP}
mount -t cgroup2 cgroup2 {TOP}
{runtime} run -d --bundle {bundle} {container}
cat {TOP}/{parent}/c/cgroup.procs
{runtime} delete --force {container}
test ! -e {TOP}/{parent}/c
"""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=kiln.environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= 3
    limited = kiln.bundle(["true"], placed(f"/{parent}/c", memory={"limit": 64 << 20}))
    script = f"umount -R {TOP}; mount -t cgroup2 cgroup2 {TOP}; {runtime} run --bundle {limited} {container}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=kiln.environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    # v1 has the memory controller on this host.
    assert done.returncode == 1 and f"{TOP}/{parent}/c/memory.max" in done.stderr
    kiln.assert_clean()


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def test_without_the_right_to_make_cgroups_a_container_without_limits_runs(kiln, parent):
    """As runc: one with limits, or with a path, is refused, and says why."""
    if subprocess.run([*NOBODY, "test", "-x", RUNTIME], check=False).returncode != 0:
        pytest.skip("the build directory is out of other users' reach")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="kiln-rootless-"))

    def run(patch):
        bundle = directory / uuid.uuid4().hex
        shutil.copytree(kiln.bundle(["echo", "hello"], patch), bundle, symlinks=True)
        subprocess.run(["chown", "-R", "65534:65534", directory], check=True)
        command = [*NOBODY, RUNTIME, "--config", directory / "kiln.yaml", "--root", directory / "state", "run",
                   "--bundle", bundle, kiln.new_id()]
        return subprocess.run(command, env=kiln.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    try:
        if subprocess.run([*NOBODY, "test", "-w", "/dev/kvm"], check=False).returncode == 0:
            shutil.copy(kiln.config, directory / "kiln.yaml")
        else:
            (directory / "kiln.yaml").write_text("backend: qemu\nqemu:\n  accel: tcg\n")
        plain = run(placed(""))
        assert plain.returncode == 0 and plain.stdout == "hello\n", plain.stderr
        limited = run(placed("", memory={"limit": 64 << 20}))
        assert limited.returncode == 1
        assert "cannot set memory limit: container could not join or create cgroup" in limited.stderr
        path = run(placed(f"/{parent}/c"))
        assert path.returncode == 1 and "Permission denied" in path.stderr
        assert not any((directory / "state").iterdir())
    finally:
        shutil.rmtree(directory)
    kiln.assert_clean()
