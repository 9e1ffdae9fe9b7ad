# SPDX-License-Identifier: Apache-2.0
"""`kiln install`: what it writes, and that the engines of this host take it."""
import json
import os
import shutil
import subprocess
import tempfile
import time

import pytest

from conftest import BUILD, RUNTIME, kiln_only
from engines import go_programs

pytestmark = kiln_only

SHIM = str(BUILD / "containerd-shim-kiln-v2")

FILES = {"podman": "etc/containers/containers.conf.d/kiln.conf", "docker": "etc/docker/daemon.json",
         "containerd": "etc/containerd/conf.d/kiln.toml", "crio": "etc/crio/crio.conf.d/50-kiln.conf"}


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture
def prefix(tmp_path):
    (tmp_path / "etc").mkdir()
    return tmp_path


def change(command, engine, prefix, *flags, check=True):
    result = subprocess.run([RUNTIME, command, engine, "--prefix", prefix, *flags], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert not check or result.returncode == 0, result.stderr
    return result


def files_in(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("engine", FILES)
def test_installed_and_taken_back(prefix, engine):
    shown = change("install", engine, prefix, "--dry-run").stdout
    assert files_in(prefix) == {}
    change("install", engine, prefix)
    (path, text), = files_in(prefix).items()
    assert path == FILES[engine] and (SHIM if engine == "containerd" else RUNTIME).encode() in text
    assert shown == f"{prefix}/{path}:\n{text.decode()}"
    change("install", engine, prefix)
    assert files_in(prefix) == {path: text}
    change("uninstall", engine, prefix)
    change("uninstall", engine, prefix)
    assert list((prefix / "etc").iterdir()) == []


def test_another_program_is_named(prefix):
    change("install", "podman", prefix, "--program", "/usr/bin/kiln")
    assert b'["/usr/bin/kiln"]' in files_in(prefix)[FILES["podman"]]


@pytest.mark.parametrize("engine", FILES)
def test_what_others_wrote_is_left_alone(prefix, engine):
    path = prefix / FILES[engine]
    path.parent.mkdir(parents=True)
    path.write_text('{"runtimes": {"kiln": {"path": "/opt/other"}}}')
    before = files_in(prefix)
    for command in ("install", "uninstall"):
        result = change(command, engine, prefix, check=False)
        assert result.returncode == 1 and result.stderr.count("\n") == 1
        assert str(path) in result.stderr and "left alone" in result.stderr
    assert files_in(prefix) == before


def test_dockers_other_settings_stay(prefix):
    path = prefix / FILES["docker"]
    path.parent.mkdir(parents=True)
    path.write_text('{\n  "log-level": "warn",\n  "runtimes": {"a": {"path": "/a"}},\n  "debug": false\n}\n')
    change("install", "docker", prefix)
    assert list(json.loads(path.read_text())) == ["log-level", "runtimes", "debug"]
    assert json.loads(path.read_text())["runtimes"] == {"a": {"path": "/a"}, "kiln": {"path": RUNTIME}}
    change("uninstall", "docker", prefix)
    assert json.loads(path.read_text()) == {"log-level": "warn", "runtimes": {"a": {"path": "/a"}}, "debug": False}


@pytest.mark.parametrize("words, text", [(["install", "rkt"], "rkt"), (["install"], "engine is required"),
                                         (["install", "podman", "--program", "kiln"], "absolute")])
def test_bad_command_lines(words, text):
    result = subprocess.run([RUNTIME, *words, "--dry-run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            timeout=60, check=False)
    assert result.returncode == 1 and text in result.stderr and result.stdout == ""


# -- the engines themselves


@needs("podman")
def test_podman_knows_kiln_beside_its_own_runtimes(prefix, request):
    """With the file in its place, in a mount namespace of its own."""
    change("install", "podman", prefix)
    script = ('set -e; mkdir -p "$1/etc/containers"; cp -an /etc/containers/. "$1/etc/containers"; '
              'mount --bind "$1/etc/containers" /etc/containers; shift; exec "$@"')
    # podman takes a short path alone.
    runroot = tempfile.mkdtemp(prefix="kiln-podman-")
    request.addfinalizer(lambda: shutil.rmtree(runroot))
    for runtime, path in [("kiln", RUNTIME), ("runc", shutil.which("runc"))]:
        out = subprocess.run(
            ["unshare", "--mount", "/bin/sh", "-c", script, "sh", prefix, "podman", "--root", prefix / "root",
             "--runroot", runroot, "--storage-driver", "vfs", "--runtime", runtime, "info", "--format",
             "json"], stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout
        found = json.loads(out)["host"]["ociRuntime"]
        assert found["name"] == runtime and os.path.samefile(found["path"], path)


def dump(containerd, main):
    """What a containerd makes of its files."""
    return subprocess.run([containerd, "--config", main, "config", "dump"], stdout=subprocess.PIPE, text=True,
                          timeout=60, check=True).stdout.replace("'", '"')


@needs("containerd")
def test_containerd_reads_it_and_keeps_its_own_section(prefix):
    main = prefix / "etc/containerd/config.toml"
    main.parent.mkdir()
    main.write_text('version = 2\n[plugins]\n  [plugins."io.containerd.grpc.v1.cri".cni]\n    bin_dir = "/own/cni"\n')
    advice = change("install", "containerd", prefix).stderr
    assert "does not import it yet" in advice and advice.count("\n") == 1
    main.write_text(f'imports = ["{prefix}/etc/containerd/conf.d/*.toml"]\n' + main.read_text())
    assert "does not import" not in change("install", "containerd", prefix).stderr
    text = dump("containerd", main)
    assert f'runtime_path = "{SHIM}"' in text and 'bin_dir = "/own/cni"' in text
    assert 'containerd.runtimes.runc]' in text and 'pod_annotations = ["io.kiln.*"]' in text


@pytest.mark.parametrize("version", [2, 3, 4])
def test_containerd_2_reads_it_whatever_its_own_version(prefix, version):
    try:
        containerd = go_programs.program("containerd")
    except go_programs.Unavailable as reason:
        pytest.skip(str(reason))
    main = prefix / "etc/containerd/config.toml"
    main.parent.mkdir()
    main.write_text(f'version = {version}\nimports = ["{prefix}/etc/containerd/conf.d/*.toml"]\n')
    subprocess.run([RUNTIME, "--config", "/opt/kiln.yaml", "install", "containerd", "--prefix", prefix], timeout=60,
                   check=True)
    text = dump(containerd, main)
    assert f'runtime_path = "{SHIM}"' in text and 'ConfigPath = "/opt/kiln.yaml"' in text
    assert 'containerd.runtimes.runc]' in text


def test_containerds_main_file_is_told_and_restored(prefix):
    main = prefix / "etc/containerd/config.toml"
    main.parent.mkdir()
    main.write_text("version = 2\nimports = []\n")
    shown = change("install", "containerd", prefix, "--import", "--dry-run").stdout
    for _ in range(2):
        change("install", "containerd", prefix, "--import")
    assert main.read_text() == 'version = 2\nimports = ["/etc/containerd/conf.d/kiln*.toml"]\n'
    assert shown.endswith(f"{main}:\n{main.read_text()}")
    for _ in range(2):
        change("uninstall", "containerd", prefix)
    assert files_in(prefix) == {"etc/containerd/config.toml": b"version = 2\nimports = []\n"}


@needs("dockerd")
def test_dockerd_reads_it(prefix):
    change("install", "docker", prefix)
    address = f"unix://{prefix}/docker.sock"
    with open(prefix / "log", "wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", "--config-file", prefix / FILES["docker"], "--data-root", prefix / "data", "--exec-root",
             prefix / "exec", "--pidfile", prefix / "pid", "--host", address, "--storage-driver", "vfs", "--bridge",
             "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"], stdin=subprocess.DEVNULL,
            stdout=log, stderr=log)
    try:
        for _ in range(120):
            result = subprocess.run(["docker", "--host", address, "info", "--format", "{{json .Runtimes}}"],
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60,
                                    check=False)
            runtimes = json.loads(result.stdout or "null")  # null as long as nobody answers
            if runtimes or daemon.poll() is not None:
                break
            time.sleep(0.25)
        assert runtimes, (prefix / "log").read_text()[-2000:]
        assert runtimes["kiln"]["path"] == RUNTIME
    finally:
        daemon.terminate()
        daemon.wait(60)
