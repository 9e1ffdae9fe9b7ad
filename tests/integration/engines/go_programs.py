# SPDX-License-Identifier: Apache-2.0
"""Programs in Go that Debian 12 has not, or not new enough, built out of the Go module proxy by a current Go.

KILN_TEST_GO_PROGRAMS names the directory that keeps them (default: go-programs in the build directory); each is built
once. Without a current Go there is nothing to build with: Unavailable, which tests turn into a skip.
"""
import fcntl
import json
import os
import pathlib
import re
import shutil
import subprocess

from conftest import BUILD

DIRECTORY = pathlib.Path(os.environ.get("KILN_TEST_GO_PROGRAMS", BUILD / "go-programs"))
LEAST_GO = (1, 26)

CRI_TOOLS = "sigs.k8s.io/cri-tools@v1.37.0"
CONTAINERD = "github.com/containerd/containerd/v2@v2.4.2"
NERDCTL = "github.com/containerd/nerdctl/v2@v2.1.2"
GINKGO = "github.com/onsi/ginkgo/v2@v2.32.1"  # what cri-tools' go.mod asks for
# Without what the tests have no use for, and without libraries in C.
TAGS = ["-tags", "no_btrfs,no_devmapper,no_zfs,no_tracing"]

# name: (module, arguments of `go`, package in it)
PROGRAMS = {
    "critest": (CRI_TOOLS, ["test", "-c"], "./cmd/critest"),
    "crictl": (CRI_TOOLS, ["build"], "./cmd/crictl"),
    "ginkgo": (GINKGO, ["build"], "./ginkgo"),
    "containerd": (CONTAINERD, ["build", *TAGS], "./cmd/containerd"),
    "nerdctl": (NERDCTL, ["build"], "./cmd/nerdctl"),
    "ctr": (CONTAINERD, ["build", *TAGS], "./cmd/ctr"),
    "containerd-shim-runc-v2": (CONTAINERD, ["build", *TAGS], "./cmd/containerd-shim-runc-v2"),
}
# Kubernetes takes minutes: soak_kubernetes.py alone asks for it, by name.
KUBERNETES = "k8s.io/kubernetes@v1.37.2"
KUBERNETES_LIBRARIES = "v0.37.2"
SLOW_PROGRAMS = {
    "etcd": ("go.etcd.io/etcd/server/v3@v3.6.13", ["build"], "."),
    **{name: (KUBERNETES, ["build"], f"./cmd/{name}")
       for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")},
}


class Unavailable(Exception):
    """Why there is no such program on this machine."""


def find_go(least=LEAST_GO):
    """Its path."""
    found = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if found is None:
        raise Unavailable("no Go is installed")
    text = subprocess.check_output([found, "env", "GOVERSION"], text=True, cwd="/")
    version = tuple(map(int, re.findall(r"\d+", text)[:2]))
    if version < least:
        raise Unavailable(f"Go {'.'.join(map(str, version))} is older than {'.'.join(map(str, least))}")
    return found


def _entry(name):
    return PROGRAMS[name] if name in PROGRAMS else SLOW_PROGRAMS[name]


def _path(name):
    return DIRECTORY / _entry(name)[0].replace("/", "_") / name


def program(name):
    """Its path; built on first use, under a lock, so that parallel test processes share it."""
    module, arguments, package = _entry(name)
    path = _path(name)
    if path.exists():
        return path
    go = find_go()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(DIRECTORY / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            # In the module's own tree: its go.sum says what its dependencies are.
            environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -trimpath", "GOWORK": "off"}
            source = json.loads(_run([go, "mod", "download", "-json", module], "/", environment))["Dir"]
            partial = path.with_suffix(".partial")
            link = "-s -w"
            if name in SLOW_PROGRAMS:
                arguments = [*arguments, "-mod=mod", f"-modfile={_published_libraries(source, path.parent)}"]
            if module == KUBERNETES:
                # What a kubelet says that it is, and kubectl compares.
                link += f" -X k8s.io/component-base/version.gitVersion={module.split('@')[1]}"
            _run(["nice", go, *arguments, "-ldflags", link, "-o", partial, package], source, environment)
            partial.rename(path)
    return path


def _published_libraries(source, place):
    """A go.mod for a module whose own libraries are beside it in its repository, and not where the proxy serves it."""
    text = (pathlib.Path(source) / "go.mod").read_text()
    text = re.sub(r"(\S+) => \./staging/src/\S+", rf"\1 => \1 {KUBERNETES_LIBRARIES}", text)
    (place / "go.mod").write_text(re.sub(r"^\s*\S+ => \.\./\S+$", "", text, flags=re.M))
    shutil.copyfile(pathlib.Path(source) / "go.sum", place / "go.sum")
    return place / "go.mod"


def unavailable():
    """Why not all of them can be had, or None."""
    try:
        if not all(_path(name).exists() for name in PROGRAMS):
            find_go()
    except Unavailable as reason:
        return str(reason)
    return None


def build_all():
    """Those of every test, before a clock runs."""
    for name in PROGRAMS:
        program(name)


def _run(command, directory, environment):
    done = subprocess.run(command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
