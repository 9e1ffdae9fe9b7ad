# SPDX-License-Identifier: Apache-2.0
"""podman with its own storage, state, networks and volumes."""
import pathlib
import subprocess

from engines.engine import Engine

PODMAN = "/usr/bin/podman"
NETAVARK = "/usr/lib/podman/netavark"
AARDVARK = "/usr/lib/podman/aardvark-dns"


class Podman(Engine):
    name = "podman"

    def __init__(self, directory, image_root):
        super().__init__(directory, image_root)
        (self.directory / "networks").mkdir()
        self.settings = self.directory / "containers.conf"
        self.settings.write_text(f"""[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{self.runtime}"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[network]
network_backend = "netavark"
network_config_dir = "{self.directory}/networks"
""")
        tar = subprocess.Popen(["tar", "-C", str(image_root), "-c", "."], stdout=subprocess.PIPE)
        self("import", "--change", "CMD=[\"sh\"]", "-", "busybox", stdin=tar.stdout)
        tar.wait()

    @property
    def environment(self):
        return {**super().environment, "CONTAINERS_CONF": str(self.directory / "containers.conf")}

    def command(self, *args):
        place = self.directory
        # podman takes no longer path than 50 bytes; the engine's host has a /run of its own.
        return [PODMAN, "--root", f"{place}/root", "--runroot", "/run/runroot", "--tmpdir", f"{place}/tmp",
                "--volumepath", f"{place}/volumes", "--storage-driver", "vfs", *map(str, args)]

    def run(self, *args, **options):
        """`podman run`, in cgroups that carry the mark."""
        return self("run", "--cgroup-parent", f"/{self.mark}", *args, **options)

    def rootfs(self, container):
        """A container's root file system on the host."""
        return pathlib.Path(self("mount", container))
