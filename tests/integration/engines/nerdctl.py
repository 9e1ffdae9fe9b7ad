# SPDX-License-Identifier: Apache-2.0
"""nerdctl on a containerd of its own with kiln's shim: its hooks, its logger, its networks by Debian's CNI plugins."""
import pathlib

from engines import go_programs
from engines.containerd import CONTAINERD, ShimContainerd

CNI = "/usr/lib/cni"
NEEDED = (CONTAINERD, f"{CNI}/bridge", f"{CNI}/portmap", f"{CNI}/firewall", f"{CNI}/tuning", f"{CNI}/host-local",
          "/usr/sbin/iptables")


class Nerdctl(ShimContainerd):
    """`self(...)` is nerdctl; the daemon is Debian's containerd."""

    name = "nerdctl"
    runtime_name = "io.containerd.kiln.v2"
    snapshotter = "overlayfs"
    # How often the restart monitor looks.
    settings = """[plugins."io.containerd.internal.v1.restart"]
interval = "1s"
"""

    def __init__(self, directory, image_root):
        self.nerdctl = go_programs.program("nerdctl")
        super().__init__(directory, image_root)

    def _start_host(self):
        host = super()._start_host()
        # Fixed places: CNI's cache, and kiln's configuration, which nerdctl has no option for.
        self.host = host
        for number, place in enumerate(("/var/lib", "/etc")):
            upper = pathlib.Path(self.directory) / f"upper{number}"
            self.inside("mkdir", "-p", upper, f"{upper}.work", check=True)
            self.inside("mount", "-t", "overlay", "-o", f"lowerdir={place},upperdir={upper},workdir={upper}.work", "overlay",
                        place, check=True)
        return host

    def _write_runtime(self):
        runtime = super()._write_runtime()
        self.inside("mkdir", "-p", "/etc/kiln", check=True)
        self.inside("cp", self.directory / "kiln.yaml", "/etc/kiln/kiln.yaml", check=True)
        return runtime

    def command(self, *args):
        place = self.directory
        return [str(self.nerdctl), "--address", str(self.socket), "--namespace", self.mark, "--data-root", f"{place}/nerdctl",
                "--snapshotter", self.snapshotter, "--cgroup-manager", "cgroupfs", "--cni-path", CNI,
                "--cni-netconfpath", f"{place}/cni", *map(str, args)]

    def import_image(self, archive):
        self("load", "--input", archive)

    def run(self, *args, **options):
        return self("run", "--runtime", self.runtime_name, *args, **options)

    def close(self):
        for container in self("ps", "--all", "--quiet", check=False).stdout.split():
            self("rm", "--force", container, check=False)
        super().close()


class Nerdctl2(Nerdctl):
    """The same on a current containerd."""

    settings = """[plugins."io.containerd.monitor.container.v1.restart"]
interval = "1s"
[plugins."io.containerd.nri.v1.nri"]
disable = true
"""

    def __init__(self, directory, image_root):
        self.program = go_programs.program("containerd")
        super().__init__(directory, image_root)
