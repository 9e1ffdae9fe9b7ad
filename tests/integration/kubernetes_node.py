# SPDX-License-Identifier: Apache-2.0
"""A node as packaging/kubernetes/installer.sh finds it: its own pids, mounts and network, a containerd that a systemctl of
ours restarts, and a root directory that can be compared; and the installer's pod on it, chrooted like a container."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from conftest import BUILD, TOP
from engines.engine import eventually

MANIFESTS = TOP / "packaging/kubernetes"
PORT = 6443
NAME = "node-1"
ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount"
PROGRAMS = ("kiln", "kiln-vmm", "containerd-shim-kiln-v2")

# The node's first process. /usr is this machine's; what is beside it is the node's own, and of it /run and /tmp are gone
# with it.
INIT = """set -e
root=$1
mount --bind "$root" "$root"
for name in usr dev sys; do mount --rbind /$name "$root/$name"; done
mount --bind -o ro "$root/usr" "$root/usr"
mount -t tmpfs tmpfs "$root/usr/local/bin"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
cp "$2"/* "$root/usr/local/bin"
ip link set lo up
cd "$root"
mkdir run/old
pivot_root . run/old
umount -l /run/old
rmdir /run/old
echo ready
while :; do sleep 1 & wait; done
"""

# A container's root: the same /usr, the image's /kiln, the host's /opt/kiln.
POD = """set -e
root=$1 node=$2
shift 2
for name in usr dev; do mount --rbind /$name "$root/$name"; done
mount -t tmpfs tmpfs "$root/run"
mount -t proc proc "$root/proc"
mkdir -p "$node/opt/kiln"
mount --bind "$node/opt/kiln" "$root/opt/kiln"
exec chroot "$root" "$@"
"""

SYSTEMCTL = """#!/bin/sh
[ "$*" = "restart containerd" ] || exit 1
echo >> /run/restarts
if [ -e /run/containerd.pid ]; then
	kill "$(cat /run/containerd.pid)"
	while kill -0 "$(cat /run/containerd.pid)"; do sleep 0.05; done 2> /dev/null
fi
rm -f /run/containerd/containerd.sock
setsid sh -c 'echo $$ > /run/containerd.pid; exec containerd' < /dev/null > /run/containerd.log 2>&1 9<&- &
for _ in $(seq 400); do
	[ ! -S /run/containerd/containerd.sock ] || exit 0
	kill -0 $! 2> /dev/null || exit 1
	sleep 0.05
done
exit 1
"""

# Stands before a program that the installer runs: kills the installer at the step that it is told.
STEP = """#!/bin/sh
n=$(($(cat /steps) + 1))
echo $n > /steps
if [ $n = "$(cat /last-step 2> /dev/null)" ]; then kill -9 "$(cat /installer.pid)"; exit 1; fi
exec /usr/bin/{name} "$@"
"""
LAST_WORDS = {"install": "ready, label", "remove": "nothing of kiln is left"}
STEPS = ("cp", "ln", "mkdir", "mv", "nsenter", "rm", "sync", "wget")


class Node:
    def __init__(self, directory, main_file, containerd=None):
        self.directory = pathlib.Path(directory)
        self.root = self.directory / "node"
        self.pod_root = self.directory / "pod"
        self.api = self.directory / "api"
        self.children = []
        self._make_root(main_file)
        self._make_pod()
        tools = self.directory / "tools"
        tools.mkdir()
        (tools / "systemctl").write_text(SYSTEMCTL)
        (tools / "systemctl").chmod(0o755)
        if containerd:
            shutil.copy(containerd, tools / "containerd")
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c",
             INIT, "sh", self.root, tools], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"
        self.init = int(pathlib.Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()[0])
        self._start_api()
        self.run("systemctl", "restart", "containerd")

    def _make_root(self, main_file):
        for name in ("dev", "etc/containerd", "opt", "proc", "run", "sys", "tmp", "usr", "var/lib"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (self.root / name).symlink_to(f"usr/{name}")
        shutil.copy("/etc/ld.so.cache", self.root / "etc")
        (self.root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (self.root / "etc/containerd/config.toml").write_text(main_file)

    def _make_pod(self):
        for name in ("dev", "etc/kiln", "opt/kiln", "proc", "run", "tmp", "usr", "kiln/engines", ACCOUNT):
            (self.pod_root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (self.pod_root / name).symlink_to(f"usr/{name}")
        for name in PROGRAMS:
            shutil.copy(BUILD / name, self.pod_root / "kiln")
        shutil.copytree(BUILD / "guest", self.pod_root / "kiln/guest")
        shutil.copy(TOP / "packaging/engines/containerd.toml", self.pod_root / "kiln/engines")
        shutil.copy(TOP / "packaging/kiln.yaml", self.pod_root / "kiln")
        shutil.copy(MANIFESTS / "installer.sh", self.pod_root)
        # These machines emulate.
        self.configure("backend: qemu\n")

    def configure(self, text):
        """What the ConfigMap says."""
        (self.pod_root / "etc/kiln/kiln.yaml").write_text(text)

    def count_steps(self):
        """Puts STEP in front of the installer's programs."""
        (self.pod_root / "steps").write_text("0\n")
        wrappers = self.pod_root / "wrappers"
        wrappers.mkdir()
        for name in STEPS:
            (wrappers / name).write_text(STEP.format(name=name))
            (wrappers / name).chmod(0o755)

    def _start_api(self):
        self.api.mkdir()
        (self.api / "token").write_text("a-token")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-keyout",
                        self.api / "key.pem", "-out", self.api / "cert.pem"], stderr=subprocess.DEVNULL, check=True)
        shutil.copy(self.api / "cert.pem", self.pod_root / ACCOUNT / "ca.crt")
        shutil.copy(self.api / "token", self.pod_root / ACCOUNT)
        server = pathlib.Path(__file__).with_name("kubernetes_api.py")
        with open(self.api / "log", "wb") as log:
            self.children.append(subprocess.Popen(
                ["nsenter", "--target", str(self.init), "--net", sys.executable, server, self.api, str(PORT)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))
        eventually(lambda: subprocess.run(
            ["nsenter", "--target", str(self.init), "--net", sys.executable, "-c",
             f"import socket; socket.create_connection(('127.0.0.1', {PORT}))"], stderr=subprocess.DEVNULL,
            check=False).returncode == 0)

    def labels(self):
        path = self.api / "labels.json"
        return path.read_text() if path.exists() else "{}"

    def restarts(self):
        path = pathlib.Path(f"/proc/{self.init}/root/run/restarts")
        return path.read_text().count("\n")

    def runs_with_its_files(self):
        """Whether containerd was started after the last change of what it reads."""
        started = pathlib.Path(f"/proc/{self.init}/root/run/containerd.pid").stat().st_mtime
        return started >= (self.root / "etc/containerd/config.toml").stat().st_mtime

    def run(self, *command, check=True, **options):
        """A command on the node; its output."""
        entered = ["nsenter", "--target", str(self.init), "--mount", "--net", "--pid", "--wd=/", "--", *map(str, command)]
        done = subprocess.run(entered, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=120, check=False, **options)
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def start(self, mode):
        """The pod's process, its output in `pod.log`."""
        if (self.pod_root / "steps").exists():
            (self.pod_root / "steps").write_text("0\n")
        environment = {"PATH": "/wrappers:/usr/local/bin:/usr/sbin:/usr/bin", "NODE_NAME": NAME, "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                       "KUBERNETES_SERVICE_PORT": str(PORT)}
        with open(self.directory / "pod.log", "wb") as log:
            pod = subprocess.Popen(
                ["nsenter", "--target", str(self.init), "--net", "--pid", "unshare", "--mount", "--propagation", "private",
                 "/bin/sh", "-c", POD, "sh", self.pod_root, self.root, "/bin/sh", "-c",
                 "echo $$ > /installer.pid; exec /installer.sh " + mode], env={**os.environ, **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.children.append(pod)
        return pod

    def log(self):
        return (self.directory / "pod.log").read_text(errors="replace")

    def stop(self, pod):
        """As a kubelet ends a container: with everything that it has started."""
        try:
            os.killpg(pod.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        pod.wait()
        self.children.remove(pod)

    def _run_pod(self, mode, seconds=60):
        """Until it says that it is ready, or ends before that; whether it was ready."""
        pod = self.start(mode)
        eventually(lambda: LAST_WORDS[mode] in self.log() or pod.poll() is not None, seconds)
        self.stop(pod)
        return LAST_WORDS[mode] in self.log()

    def complete(self, mode):
        """Runs the pod until it says that it is ready."""
        assert self._run_pod(mode), self.log()

    def is_killed(self, mode, step):
        """Runs the pod, and kills it in front of a step; whether it came to that one."""
        (self.pod_root / "last-step").write_text(f"{step}\n")
        ready = self._run_pod(mode)
        (self.pod_root / "last-step").unlink()
        return not ready

    def fails(self, mode, seconds=60):
        """Runs the pod until it ends by itself, as it must; what it said."""
        pod = self.start(mode)
        assert pod.wait(seconds) == 1, self.log()
        self.stop(pod)
        return self.log()

    def files(self):
        """{path: content or target} below the node's directories that count, directories with None."""
        found = {}
        for top in ("etc", "opt"):
            for path in (self.root / top).rglob("*"):
                name = str(path.relative_to(self.root))
                if path.is_symlink():
                    found[name] = os.readlink(path)
                else:
                    found[name] = path.read_bytes() if path.is_file() else None
        return found

    def close(self):
        for child in [*self.children]:
            self.stop(child)
        self.holder.kill()
        self.holder.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
