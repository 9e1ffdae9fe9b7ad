# SPDX-License-Identifier: Apache-2.0
"""dockerd, with the containerd that it starts for itself, on its own data, state, socket and networks."""
import json
import subprocess

from engines.engine import Engine, eventually

DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"


class Docker(Engine):
    name = "docker"

    def __init__(self, directory, image_root):
        super().__init__(directory, image_root)
        self.socket = f"unix://{self.directory}/docker.sock"
        settings = {
            "data-root": f"{self.directory}/root", "exec-root": f"{self.directory}/exec", "hosts": [self.socket],
            "pidfile": f"{self.directory}/docker.pid", "storage-driver": "vfs", "bip": "172.31.7.1/24",
            "default-address-pools": [{"base": "172.31.128.0/17", "size": 24}],
            "runtimes": {"kiln": {"path": str(self.runtime)}}, "default-runtime": "kiln",
            "cgroup-parent": f"/{self.mark}"}
        (self.directory / "daemon.json").write_text(json.dumps(settings))
        with open(self.directory / "dockerd.log", "wb") as log:
            self.daemon = subprocess.Popen(
                self.enter(DOCKERD, "--config-file", self.directory / "daemon.json"), env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(lambda: self("version", check=False).returncode == 0)
        tar = subprocess.Popen(["tar", "-C", str(image_root), "-c", "."], stdout=subprocess.PIPE)
        self("import", "--change", 'CMD ["sh"]', "-", "busybox", stdin=tar.stdout)
        tar.wait()

    def command(self, *args):
        return [DOCKER, "--config", f"{self.directory}/client", "--host", self.socket, *map(str, args)]

    def run(self, *args, **options):
        return self("run", *args, **options)

    def rootfs(self, container):
        """A container's root file system on the host."""
        layers = self.directory / "root/image/vfs/layerdb/mounts" / self.inspect(container)["Id"]
        return self.directory / "root/vfs/dir" / (layers / "mount-id").read_text()

    def containerd_pid(self):
        return int((self.directory / "exec/containerd/containerd.pid").read_text())

    def close(self):
        for container in self("ps", "--all", "--quiet", check=False).stdout.split():
            self("rm", "--force", container, check=False)
        self.daemon.terminate()
        try:
            self.daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        super().close()
