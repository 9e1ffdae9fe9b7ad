# SPDX-License-Identifier: Apache-2.0
"""buildah with its own storage and networks."""
import subprocess

from engines.engine import Engine

BUILDAH = "/usr/bin/buildah"


class Buildah(Engine):
    name = "buildah"

    def __init__(self, directory, image_root):
        super().__init__(directory, image_root)
        (self.directory / "networks").mkdir()
        (self.directory / "containers.conf").write_text(f"""[engine]
cgroup_manager = "cgroupfs"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[network]
network_backend = "netavark"
network_config_dir = "{self.directory}/networks"
""")
        self("from", "--name", "base", "scratch")
        tar = self.directory / "base.tar"
        subprocess.run(["tar", "-C", str(image_root), "-c", "-f", str(tar), "."], check=True)
        self("add", "base", tar, "/")
        self("config", "--cmd", "sh", "base")
        self("commit", "--rm", "base", "localhost/busybox")

    @property
    def environment(self):
        return {**super().environment, "CONTAINERS_CONF": str(self.directory / "containers.conf"),
                "BUILDAH_RUNTIME": str(self.runtime), "BUILDAH_ISOLATION": "oci"}

    def command(self, *args):
        place = self.directory
        return [BUILDAH, "--root", f"{place}/root", "--runroot", f"{place}/runroot", "--storage-driver", "vfs",
                *map(str, args)]
