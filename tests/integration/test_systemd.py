# SPDX-License-Identifier: Apache-2.0
"""`--systemd-cgroup` with a real systemd: process 1 of namespaces and cgroups of its own, with nothing in it but a bus."""
import json
import os
import pathlib
import shutil
import subprocess
import time
import uuid

import pytest

from conftest import deadline_in, kiln_only
from host_cgroups import UNIFIED, hierarchies

SYSTEMD = "/lib/systemd/systemd"
missing = [program for program in (SYSTEMD, "/usr/bin/dbus-daemon", "/usr/bin/systemctl") if not os.path.exists(program)]
pytestmark = [kiln_only,
              pytest.mark.skipif(bool(missing), reason=f"this host has no {' and no '.join(missing)}"),
              pytest.mark.skipif(UNIFIED, reason="the set-up below mounts cgroup v1")]

UNITS = {
    "kiln-test.target": "[Unit]\nDefaultDependencies=no\nRequires=dbus.service\n",
    "dbus.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    "dbus.service": "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\nAfter=dbus.socket\n[Service]\nType=simple\n"
                    "ExecStart=/usr/bin/dbus-daemon --config-file=UNITS/bus.conf --address=systemd: --nofork "
                    "--nopidfile --systemd-activation\n",
    "bus.conf": "<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>"
                "<auth>EXTERNAL</auth><policy context='default'><allow user='*'/><allow own='*'/>"
                "<allow send_type='method_call'/><allow send_type='signal'/><allow send_type='method_return'/>"
                "<allow send_type='error'/><allow receive_type='method_call'/><allow receive_type='method_return'/>"
                "<allow receive_type='error'/><allow receive_type='signal'/></policy></busconfig>",
}

# Nothing of the host's can be written but what the test has made: systemd must not tidy up here.
START = """set -e
mount --make-rprivate /
mount --bind {directory} {directory}
umount -R /sys/fs/cgroup
mount -t tmpfs tmpfs /sys/fs/cgroup
for c in {controllers}; do mkdir /sys/fs/cgroup/$c; mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c; done
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
for d in /run /var /etc/systemd; do mount -t tmpfs tmpfs $d; done
mount -o remount,bind,ro /
mount -t proc proc /proc
mkdir -p /run/dbus /var/log /var/tmp
exec env -i container=kiln-test PATH="$PATH" SYSTEMD_UNIT_PATH={directory}/units \\
  {systemd} --system --unit=kiln-test.target --log-target=null --show-status=no
"""


class Systemd:
    def __init__(self, directory):
        self.name = f"kiln-systemd-{uuid.uuid4().hex[:8]}"
        self.directory = directory
        self.units = directory / "units"
        self.units.mkdir()
        for name, text in UNITS.items():
            (self.units / name).write_text(text.replace("UNITS", str(self.units)))
        controllers = " ".join(name for name in hierarchies() if name and "=" not in name)
        script = directory / "start.sh"
        script.write_text(START.format(directory=directory, controllers=controllers, systemd=SYSTEMD))
        self.make_cgroups()
        self.process = subprocess.Popen(
            ["unshare", "--cgroup", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=self.enter)
        self.pid = None
        self.wait_for_bus()

    def tops(self):
        return [mount / self.name for mount in hierarchies().values()]

    def make_cgroups(self):
        for top in self.tops():
            top.mkdir()
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (top / file).exists() and top.parent.name == "cpuset":
                    (top / file).write_text((top.parent / file).read_text())

    def enter(self):
        for top in self.tops():
            (top / "cgroup.procs").write_text(str(os.getpid()))

    def wait_for_bus(self):
        deadline = deadline_in(30)
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.stderr.read()
            children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            if children:
                self.pid = int(children[0])
                if "ControlGroup" in self.systemctl("show", "-p", "ControlGroup").stdout:
                    return
            time.sleep(0.1)
        raise AssertionError("systemd does not answer")

    def inside(self, script, **options):
        """A shell script as a child of nobody, in that systemd's world."""
        enter = " ".join(f"echo $$ > /sys/fs/cgroup/{mount.name}/cgroup.procs;" for mount in hierarchies().values()
                         if mount.name != "unified")
        command = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--cgroup", "sh", "-c",
                   enter + script]
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=120, check=False, **options)

    def systemctl(self, *arguments):
        return self.inside("systemctl " + " ".join(arguments))

    def close(self):
        self.process.kill()  # and process 1 with it, and then everything
        self.process.wait()
        deadline = deadline_in(10)
        for top in self.tops():
            while subprocess.run(["find", top, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"],
                                 stderr=subprocess.DEVNULL, check=False).returncode or top.exists():
                if not top.exists():
                    break
                assert time.monotonic() < deadline, f"{top} is still in use"
                time.sleep(0.05)


@pytest.fixture
def systemd(kiln):
    instance = Systemd(kiln.directory)
    yield instance
    instance.close()


def test_a_scope_from_create_to_delete(kiln, systemd):
    def patch(spec):
        spec["linux"]["cgroupsPath"] = "kiln-test.slice:kiln:c1"
        spec["linux"]["resources"].update(memory={"limit": 64 << 20, "swap": 64 << 20},
                                          cpu={"shares": 2048, "quota": 80000, "period": 100000})
    bundle = kiln.bundle(["sleep", "1000"], patch)
    runtime = " ".join(kiln.command())
    made = systemd.inside(f"{runtime} --systemd-cgroup run -d --bundle {bundle} c1 >/run/out 2>&1; echo $?; cat /run/out")
    assert made.stdout.splitlines()[0] == "0", made.stdout
    path = "kiln.slice/kiln-test.slice/kiln-c1.scope"
    state = json.loads(systemd.inside(f"{runtime} state c1").stdout)
    cgroups = systemd.inside(f"cat /proc/{state['pid']}/cgroup").stdout.splitlines()
    joined = [line for line in cgroups if not line.startswith("0::")]
    assert joined and all(line.endswith(f":/{path}") for line in joined), cgroups

    def shown(*properties):
        out = systemd.systemctl("show", "kiln-c1.scope", *[f"-p {name}" for name in properties]).stdout
        return dict(line.split("=", 1) for line in out.splitlines())
    unit = shown("Slice", "Delegate", "CPUShares", "CPUQuotaPerSecUSec", "TasksMax", "ActiveState", "MemoryLimit")
    memory = int(unit.pop("MemoryLimit"))
    assert unit == {"Slice": "kiln-test.slice", "Delegate": "yes", "CPUShares": "2048", "CPUQuotaPerSecUSec": "800ms",
                    "TasksMax": "infinity", "ActiveState": "active"}
    assert systemd.inside(f"cat /sys/fs/cgroup/memory/{path}/memory.limit_in_bytes").stdout == f"{memory}\n"
    assert memory > 160 << 20
    # A reload writes what systemd knows: that must be what we want.
    assert systemd.systemctl("daemon-reload").returncode == 0
    assert systemd.inside(f"cat /sys/fs/cgroup/memory/{path}/memory.limit_in_bytes").stdout == f"{memory}\n"
    assert systemd.inside(f"{runtime} update --cpu-share 512 c1").returncode == 0
    assert shown("CPUShares") == {"CPUShares": "512"}
    deleted = systemd.inside(f"{runtime} delete --force c1")
    assert deleted.returncode == 0, deleted.stderr
    assert "kiln-c1.scope" not in systemd.systemctl("list-units", "--all", "--no-legend").stdout
    assert systemd.inside("find /sys/fs/cgroup -name 'kiln-c1*'").stdout == ""


def test_a_scope_is_gone_after_kill_9_and_after_a_failed_create(kiln, systemd):
    def patch(spec):
        spec["linux"]["cgroupsPath"] = ":kiln:c1"
    bundle = kiln.bundle(["sleep", "1000"], patch)
    runtime = " ".join(kiln.command())

    def broken(spec):
        patch(spec)
        spec["hooks"] = {"prestart": [{"path": "/bin/false"}]}
    failed = systemd.inside(f"{runtime} --systemd-cgroup run --bundle {kiln.bundle(['true'], broken)} c1")
    assert failed.returncode == 1 and "prestart" in failed.stderr
    assert systemd.inside("find /sys/fs/cgroup -name 'kiln-c1*'").stdout == ""
    assert systemd.inside(f"{runtime} --systemd-cgroup run -d --bundle {bundle} c1 >/dev/null 2>&1").returncode == 0
    pid = json.loads(systemd.inside(f"{runtime} state c1").stdout)["pid"]
    done = systemd.inside(f"kill -9 {pid}; {runtime} delete --force c1")
    assert done.returncode == 0, done.stderr
    assert systemd.inside("find /sys/fs/cgroup -name 'kiln-c1*'").stdout == ""
    shutil.rmtree(kiln.root, ignore_errors=True)
