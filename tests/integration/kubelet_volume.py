# SPDX-License-Identifier: Apache-2.0
"""A volume as the kubelet writes it, and a watcher of such volumes that runs in a guest."""
import os
import pathlib
import shutil
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
PLACE = "/etc/cfg"


class Volume:
    """A volume's directory on the host, written as the kubelet does it (AtomicWriter in k8s.io/kubernetes)."""

    def __init__(self, directory, plugin="configmap", name="cfg"):
        self.path = pathlib.Path(directory) / f"pods/0-1/volumes/kubernetes.io~{plugin}/{name}"
        self.path.mkdir(parents=True)
        os.chmod(self.path, 0o777)
        self.count = 0

    def write(self, files, mode=0o644, group=0):
        self.count += 1
        version = f"..2026_11_02_10_00_00.{self.count:09}"
        data = self.path / "..data"
        old = os.readlink(data) if data.is_symlink() else None
        new = self.path / version
        new.mkdir()
        for name, content in files.items():
            file = new / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
            os.chmod(file, mode)
            os.chown(file, 0, group)
        os.chown(new, 0, group)
        (self.path / "..data_tmp").symlink_to(version)
        (self.path / "..data_tmp").rename(data)
        tops = {name.split("/")[0] for name in files}
        for name in tops:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for entry in self.path.iterdir():
            if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in tops:
                entry.unlink()
        if old is not None:
            shutil.rmtree(self.path / old)

    def mount(self, place=PLACE, sub_path="", options=("rbind", "rprivate", "ro")):
        return {"destination": place, "type": "bind", "source": str(self.path / sub_path), "options": list(options)}


def build_watcher(directory):
    """watcher.c, static, so that it runs in the guest's busybox."""
    path = pathlib.Path(directory) / "watcher"
    subprocess.run(["cc", "-O1", "-Wall", "-static", "-o", path, HERE / "watcher.c"], check=True)
    return path
