# SPDX-License-Identifier: Apache-2.0
"""containerd with its own root, state and socket; `ctr` and the runc shim, which is told to run kiln."""
import hashlib
import json
import os
import subprocess
import tarfile

from conftest import BUILD, cgroups_named, descendants, read_command
from engines import go_programs
from engines.engine import Engine, eventually

CONTAINERD = "/usr/bin/containerd"
CTR = "/usr/bin/ctr"
SHIM = "/usr/bin/containerd-shim-runc-v2"


class Containerd(Engine):
    name = "containerd"
    program = CONTAINERD
    ctr = CTR
    settings = ""  # of config.toml, beside the common ones
    snapshotter = "native"
    image = "docker.io/library/busybox:latest"

    def __init__(self, directory, image_root):
        super().__init__(directory, image_root)
        self.socket = self.directory / "containerd.sock"
        # CRI and CNI have no part in this, and keep files elsewhere.
        (self.directory / "config.toml").write_text(f"""version = 2
root = "{self.directory}/root"
state = "{self.directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{self.socket}"
[ttrpc]
address = "{self.socket}.ttrpc"
{self.settings}""")
        self.start_daemon()
        write_layout([image_root, *self.layers()], self.directory / "image", self.image)
        with tarfile.open(self.directory / "image.tar", "w") as archive:
            archive.add(self.directory / "image", ".")
        self.import_image(self.directory / "image.tar")

    def import_image(self, archive):
        self("image", "import", "--snapshotter", self.snapshotter, archive)

    def layers(self):
        """Of the image, above its first."""
        return []

    def start_daemon(self):
        with open(self.directory / "containerd.log", "ab") as log:
            self.daemon = subprocess.Popen(self.enter(self.program, "--config", self.directory / "config.toml"),
                                           env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(lambda: self("version", check=False).returncode == 0)

    def kill_daemon(self):
        self.daemon.kill()
        self.daemon.wait()

    def tasks(self):
        """{name: status} of the tasks that there are."""
        return {line.split()[0]: line.split()[2] for line in self("task", "list").splitlines()[1:]}

    def command(self, *args):
        return [str(self.ctr), "--address", str(self.socket), "--namespace", self.mark, *map(str, args)]

    def run(self, *args, **options):
        return self("run", *self.run_flags(), *args, **options)

    def run_flags(self):
        # Of each container its own: a cgroup that has processes is refused, as by runc.
        return ["--snapshotter", self.snapshotter, "--runtime", "io.containerd.runc.v2", "--runc-binary", self.runtime,
                "--cgroup", f"/{self.mark}/{self.new_name('cgroup')}"]

    def state_directories(self):
        return [self.directory / "state/io.containerd.runtime.v2.task" / self.mark,
                self.path(f"/run/containerd/runc/{self.mark}")]

    def close(self):
        for container in self("container", "list", "--quiet", check=False).stdout.split():
            self("task", "delete", "--force", container, check=False)
            self("container", "delete", container, check=False)
        self.daemon.terminate()
        try:
            self.daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        super().close()


class ShimContainerd(Containerd):
    """The same with kiln's own shim."""

    @property
    def environment(self):
        return {**super().environment, "PATH": f"{BUILD}:{os.environ['PATH']}"}

    def state_directories(self):
        return [super().state_directories()[0], self.path(f"/run/containerd/kiln/{self.mark}")]

    # What a container's processes on the host begin with.
    PARTS = {"shim": "containerd-shim-kiln-v2", "monitor": "kiln --root", "vmm": "kiln-vmm run", "fs": "kiln-vmm fs",
             "qemu": "qemu-system"}

    def parts(self):
        """{part: [pid]} of kiln's processes: shims, and what is below them; the confined carry no mark."""
        found = {part: [] for part in self.PARTS}
        ours = [pid for pid in self.processes() if pid != self.daemon.pid]
        for pid in {*ours, *(below for pid in ours for below in descendants(pid))}:
            command = read_command(pid)
            for part, beginning in self.PARTS.items():
                if command.startswith(beginning) and pid not in found[part]:
                    found[part].append(pid)
        return found

    def traces(self):
        """What containers and shims have left, daemons aside."""
        sockets = self.path("/run/containerd/s")
        states = [path for path in self.state_directories() if path.is_dir()]
        return {"processes": {part: pids for part, pids in self.parts().items() if pids}, "mounts": self.mounts(),
                "cgroups": [path for path in cgroups_named(self.mark) if "cgroup" in path.rsplit("/", 1)[1]],
                "sockets": os.listdir(sockets) if sockets.is_dir() else [],
                "states": [name for path in states for name in os.listdir(path)]}

    def run_flags(self):
        return ["--snapshotter", self.snapshotter, "--runtime", "io.containerd.kiln.v2", "--runtime-config-path",
                self.directory / "kiln.yaml", "--cgroup", f"/{self.mark}/{self.new_name('cgroup')}"]


class BlockContainerd(ShimContainerd):
    """containerd 2 whose snapshots are ext4 images: its blockfile snapshotter."""

    snapshotter = "blockfile"

    def __init__(self, directory, image_root):
        self.program = go_programs.program("containerd")
        scratch = directory / "scratch"
        with open(scratch, "wb") as image:
            image.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", scratch], check=True)
        self.settings = f"""[plugins."io.containerd.snapshotter.v1.blockfile"]
scratch_file = "{scratch}"
fs_type = "ext4"
mount_options = []
recreate_scratch = false
[plugins."io.containerd.nri.v1.nri"]
disable = true
"""
        super().__init__(directory, image_root)


class ErofsContainerd(ShimContainerd):
    """containerd 2 whose snapshots are erofs images, one of each layer, below an overlay."""

    snapshotter = "erofs"
    writable = ""  # size of a disk that takes what is written; otherwise a directory does

    def __init__(self, directory, image_root):
        self.program = go_programs.program("containerd")
        self.ctr = go_programs.program("ctr")  # an older one does not know the mounts
        self.settings = f"""[plugins."io.containerd.snapshotter.v1.erofs"]
default_size = "{self.writable}"
[plugins."io.containerd.nri.v1.nri"]
disable = true
"""
        super().__init__(directory, image_root)

    def import_image(self, archive):
        self("image", "import", "--local", "--snapshotter", self.snapshotter, archive)

    def layers(self):
        """One that changes, removes and replaces what is below, and one more."""
        second, third = self.directory / "second", self.directory / "third"
        for name in ("home", "etc", "tmp"):
            (second / name).mkdir(parents=True)
        (second / "tmp").chmod(0o1777)
        (second / "home/.wh.user").touch()
        (second / "tmp/old").touch()
        (second / "etc/second").write_text("second\n")
        (third / "tmp").mkdir(parents=True)
        (third / "tmp").chmod(0o1777)
        (third / "tmp/.wh..wh..opq").touch()
        (third / "tmp/new").write_text("third\n")
        return [second, third]


class ErofsDiskContainerd(ErofsContainerd):
    """The same with an ext4 image for what each container writes."""

    writable = "64M"


def write_layout(layers, layout, name):
    """An OCI image layout: directories, the lowest first."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(data, media_type, **more):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data), **more}

    def add_json(value, media_type, **more):
        return add(json.dumps(value).encode(), media_type, **more)

    added = [add(subprocess.check_output(["tar", "-C", str(layer), "-c", "."]), "layer.v1.tar") for layer in layers]
    config = add_json({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in added]},
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin", "OF=image"], "WorkingDir": "/home"}}, "config.v1+json")
    manifest = add_json({"schemaVersion": 2, "config": config, "layers": added}, "manifest.v1+json",
                        annotations={"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"})
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
