# SPDX-License-Identifier: Apache-2.0
"""containerd as Kubernetes' kubelet uses it: the CRI plugin, CNI networks, a registry, all in namespaces of their own.

Runtime handlers are `runc`, by which the bench itself is proven, and `kiln`, the shim of the build directory.
Debian's containerd is one of 1.6; `containerd="2"` is one of 2.x that engines/go_programs.py builds.
"""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from conftest import BUILD, cgroups_named
from engines import cri_images, go_programs
from engines.engine import Engine, eventually
from engines.registry import READY, Store

CNI = "/usr/lib/cni"
NEEDED = ("/usr/bin/containerd", "/usr/sbin/runc", f"{CNI}/bridge", f"{CNI}/portmap", "/usr/sbin/iptables")
REGISTRY_PORT = 5000

# CNI spec 1.0: what a node's network plugin would leave in /etc/cni/net.d.
NETWORK = """{
  "cniVersion": "0.4.0", "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": "DIRECTORY/cni/leases", "routes": [{"dst": "0.0.0.0/0"}],
              "ranges": [[{"subnet": "10.88.0.0/16"}]]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}
"""

# containerd 2's sandbox API, with standard streams over the shim's own socket.
SANDBOX_API = "kiln-sandbox"
RUNTIMES = {"runc": "io.containerd.runc.v2", "kiln": "io.containerd.kiln.v2", SANDBOX_API: "io.containerd.kiln.v2"}
SHIM = BUILD / "containerd-shim-kiln-v2"

# What the tests ask: KILN_TEST_CRI_HANDLERS and KILN_TEST_CRI_CONTAINERD name others, with commas between them. Where
# the shim is not built there is runc to prove the bench with.
HANDLERS = os.environ.get("KILN_TEST_CRI_HANDLERS", "kiln" if SHIM.exists() else "runc").split(",")
VERSIONS = os.environ.get("KILN_TEST_CRI_CONTAINERD", "1,2").split(",")


# Each containerd with what is asked of it.
PAIRS = [(version, handler) for version in VERSIONS
         for handler in HANDLERS + ([SANDBOX_API] if version != "1" and "kiln" in HANDLERS else [])]

SERVER = """root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{place}/containerd.sock"
[ttrpc]
address = "{place}/containerd.sock.ttrpc"
"""

# The tests' root may lack CAP_SYS_RESOURCE: pods then get the OOM score that they may have.
VERSION_2 = """version = 2
""" + SERVER + """[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{sandbox}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{place}/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{place}/registries"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
"""
VERSION_3 = """version = 3
""" + SERVER + """[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{sandbox}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{place}/registries"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.nri.v1.nri"]
socket_path = "{place}/nri.sock"
plugin_path = "{place}/nri"
plugin_config_path = "{place}/nri"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{cni}"]
conf_dir = "{place}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
"""


class Cri(Engine):
    """`self(...)` is crictl."""

    name = "cri"
    programs = BUILD  # where the shim is found
    kinds = ("net", "mnt", "ipc")  # the tests make shared memory segments of their host's

    def __init__(self, directory, containerd="1"):
        self.version = containerd
        self.crictl = go_programs.program("crictl")
        self.containerd = "/usr/bin/containerd"
        self.path_of_shims = [self.programs]
        if containerd != "1":
            self.containerd = go_programs.program("containerd")
            self.path_of_shims.append(go_programs.program("containerd-shim-runc-v2").parent)
        self.first_cgroups = set(cgroups_named("k8s.io"))
        super().__init__(directory, None)
        # CNI's cache is at a fixed place below.
        self.inside("mount", "-t", "tmpfs", "tmpfs", "/var/lib", check=True)
        self.first_mounts |= set(self.mounts())
        (self.directory / "tmp").mkdir()
        self.endpoint = f"unix://{self.directory}/containerd.sock"
        (self.directory / "crictl.yaml").write_text(f"runtime-endpoint: {self.endpoint}\ntimeout: 120\n")
        self.daemons = [self._start_registry(), self._start_containerd(VERSION_2 if containerd == "1" else VERSION_3)]
        try:
            eventually(self.is_ready)
        except BaseException:
            self.close()
            raise

    @property
    def environment(self):
        path = ":".join([*map(str, self.path_of_shims), os.environ["PATH"]])
        return {**super().environment, "PATH": path, "TMPDIR": f"{self.directory}/tmp"}

    def _start_registry(self):
        images = self.directory / "registry"
        cri_images.add_images(Store(images), self.directory)
        hosts = self.directory / "registries/_default"
        hosts.mkdir(parents=True)
        address = f"http://127.0.0.1:{REGISTRY_PORT}"
        (hosts / "hosts.toml").write_text(
            f'server = "{address}"\n[host."{address}"]\ncapabilities = ["pull", "resolve"]\n')
        program = pathlib.Path(__file__).with_name("registry.py")
        return self._daemon("registry", sys.executable, program, images, REGISTRY_PORT)

    def _start_containerd(self, template):
        (self.directory / "cni").mkdir()
        (self.directory / "cni/pods.conflist").write_text(NETWORK.replace("DIRECTORY", str(self.directory)))
        text = template.format(place=self.directory, sandbox=cri_images.SANDBOX, cni=CNI)
        runtimes = template.rstrip().splitlines()[-2].rstrip("]") + ".runtimes"
        for handler, kind in RUNTIMES.items():
            if handler == SANDBOX_API and self.version == "1":
                continue
            text += f'{runtimes}.{handler}]\nruntime_type = "{kind}"\n'
            text += 'sandboxer = "shim"\nio_type = "streaming"\n' if handler == SANDBOX_API else ""
            # Of a privileged container's devices, all of the host's, none is there in a microVM.
            text += "privileged_without_host_devices = true\n" if handler != "runc" else ""
            if handler != "runc":
                text += f'{runtimes}.{handler}.options]\nConfigPath = "{self.directory}/kiln.yaml"\n'
        (self.directory / "config.toml").write_text(text)
        return self._daemon("containerd", self.containerd, "--config", self.directory / "config.toml")

    def _daemon(self, name, *command):
        with open(self.directory / f"{name}.log", "ab") as log:
            return subprocess.Popen(self.enter(*command), env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=log)

    def command(self, *args):
        return [str(self.crictl), "--config", f"{self.directory}/crictl.yaml", *map(str, args)]

    def is_ready(self):
        """Whether the conditions that a kubelet waits for are met; a containerd has more, such as of its configuration."""
        if READY not in (self.directory / "registry.log").read_text(errors="replace"):
            return False
        done = self("info", check=False)
        if done.returncode != 0:
            return False
        met = {entry["type"] for entry in json.loads(done.stdout)["status"]["conditions"] if entry["status"]}
        return met >= {"RuntimeReady", "NetworkReady"}

    def _containers(self):
        """Processes whose root file system is the engine's: runc's carry no mark."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/mnt") in self.namespaces or int(entry.name) == os.getpid():
                    continue
                if f"{self.directory}/" in (entry / "mountinfo").read_text():
                    found.append(int(entry.name))
        return found

    def close(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self("rmp", "--force", "--all", check=False)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        left = set(cgroups_named("k8s.io")) - self.first_cgroups
        for pid in self._containers():
            with contextlib.suppress(OSError):
                name = pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()[0].rsplit("/", 1)[1]
                left |= set(cgroups_named(name)) if name else set()
                os.kill(pid, signal.SIGKILL)
        super().close()
        # Of what runc did not end. critest names no parent, so that its pods are below `k8s.io`, which runc leaves.
        for path in sorted(left, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def missing():
    """Why there can be no Cri on this machine, or None."""
    absent = [program for program in NEEDED if not os.access(program, os.X_OK)]
    if absent:
        return f"{absent[0]} is not installed"
    if reason := go_programs.unavailable():
        return f"no cri-tools: {reason}"
    return None


def need_cri():
    """Skips the test module where something of it is not installed and cannot be built."""
    if reason := missing():
        pytest.skip(reason, allow_module_level=True)
