# SPDX-License-Identifier: Apache-2.0
"""A pod and its containers, as a kubelet makes them, through crictl."""
import json
import re
import subprocess

from engines.cri_images import IMAGE
from engines.engine import eventually


# CRI's NamespaceMode.
POD, CONTAINER = 0, 1


def _linux(pid, security_context=None, **more):
    """What a kubelet says of namespaces: all are the pod's, but for that of processes."""
    context = {"namespace_options": {"network": POD, "pid": pid, "ipc": POD}, **(security_context or {})}
    return {"security_context": context, **more}


class Pod:
    """A sandbox of `engine`, a Cri, by one of its runtime handlers; `config` is of CRI's PodSandboxConfig."""

    def __init__(self, engine, handler, pid=CONTAINER, **config):
        self.engine = engine
        self.name = engine.new_name("pod")
        self.pid = pid
        linux = _linux(pid, **{"cgroup_parent": f"/{engine.mark}", **config.pop("linux", {})})
        self.logs = engine.directory / "logs" / self.name
        self.logs.mkdir(parents=True)
        self.config = engine.directory / f"{self.name}.json"
        self.config.write_text(json.dumps({
            "metadata": {"name": self.name, "namespace": "tests", "uid": self.name, "attempt": 0},
            "log_directory": str(self.logs), "linux": linux, **config}))
        self.id = engine("runp", "--runtime", handler, self.config)

    def container(self, *args, image=IMAGE, start=True, **config):
        """A Container that runs `args`, or what the image says; `config` is of CRI's ContainerConfig."""
        if self.engine("inspecti", image, check=False).returncode != 0:
            self.engine("pull", image)
        name = self.engine.new_name("c")
        path = self.engine.directory / f"{name}.json"
        command = {"command": list(args)} if args else {}
        path.write_text(json.dumps({"metadata": {"name": name, "attempt": 0}, "image": {"image": image}, **command,
                                    "log_path": f"{name}.log", "linux": _linux(self.pid, **config.pop("linux", {})),
                                    **config}))
        made = Container(self, self.engine("create", self.id, path, self.config))
        if start:
            self.engine("start", made.id)
        return made

    def status(self):
        return json.loads(self.engine("inspectp", self.id))["status"]

    def address(self):
        return self.status()["network"]["ip"]

    def forward(self, port):
        """A running `crictl port-forward` of a free local port, and that port's number."""
        process = self.engine.start("port-forward", self.id, f"0:{port}", stderr=subprocess.STDOUT)
        line = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found, line
        return process, int(found[1])

    def remove(self):
        self.engine("rmp", "--force", self.id)


class Container:
    def __init__(self, pod, identifier):
        self.pod = pod
        self.engine = pod.engine
        self.id = identifier

    def exec(self, *args, check=True, **options):
        """CRI's ExecSync, as of a kubelet's exec probe."""
        return self.engine("exec", "--sync", self.id, *args, check=check, **options)

    def stream(self, *args, flags=(), check=True, **options):
        """CRI's Exec, through the streaming server."""
        return self.engine("exec", *flags, self.id, *args, check=check, **options)

    def log(self):
        return self.engine("logs", self.id)

    def status(self):
        return json.loads(self.engine("inspect", self.id))["status"]

    def wait(self, seconds=60):
        """Its status once it has ended."""
        return eventually(lambda: next((s for s in [self.status()] if s["state"] == "CONTAINER_EXITED"), None), seconds)

    def stop(self, seconds=10):
        self.engine("stop", "--timeout", seconds, self.id)

    def remove(self):
        self.engine("rm", "--force", self.id)

    def update(self, *flags):
        self.engine("update", *flags, self.id)

    def stats(self):
        return json.loads(self.engine("stats", "--output", "json", "--id", self.id))["stats"][0]
