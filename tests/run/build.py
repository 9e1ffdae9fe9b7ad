# SPDX-License-Identifier: Apache-2.0
"""Configures and builds a build directory: build/ and its sanitizer and fuzzer siblings."""
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]


class BuildError(Exception):
    """The message ends with the tool's last lines."""


@dataclasses.dataclass(frozen=True)
class Flavour:
    """One build directory: where it is, which compiler, which Meson options."""
    directory: str
    compiler: tuple[str, str] = ("gcc", "g++")
    options: tuple[str, ...] = ()

    @property
    def path(self):
        return TOP / self.directory


PRODUCT = Flavour("build")
# Not optimized, with line numbers only, and by Clang, which takes half as long as GCC for code with sanitizers.
SANITIZE = Flavour("build-asan", ("clang-14", "clang++-14"), (
    "-Dbuildtype=plain", "-Doptimization=0", "-Dcpp_args=-g1", "-Db_sanitize=address,undefined", "-Db_lundef=false",
    "-Dguest_image=false"))
# Fences are between us and the guest, which is not instrumented: it does not matter that TSan does not know them.
THREADS = Flavour("build-tsan", options=(
    "-Dbuildtype=plain", "-Doptimization=1", "-Dcpp_args=-g1 -Wno-tsan", "-Db_sanitize=thread", "-Dguest_image=false"))
FUZZ = Flavour("build-fuzz", ("clang-14", "clang++-14"), (
    "-Dbuildtype=debugoptimized", "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dguest_image=false",
    "-Dtests=false", "-Dfuzzers=true"))


@contextlib.contextmanager
def locked(flavour):
    """Two ./check at once take turns instead of building in each other's way."""
    flavour.path.mkdir(exist_ok=True)
    with open(flavour.path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command, what, environment=None, live=False):
    if live:
        if subprocess.run(command, cwd=TOP, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
            raise BuildError(f"{what} failed")
        return
    done = subprocess.run(command, cwd=TOP, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        raise BuildError(f"{what} failed:\n" + "\n".join(done.stdout.splitlines()[-60:]))


def configure(flavour, werror=False):
    """`meson setup` where there is no build yet; an option that changed is set in the one there is."""
    launcher = "ccache " if shutil.which("ccache") else ""
    environment = {**os.environ, "CC": launcher + flavour.compiler[0], "CXX": launcher + flavour.compiler[1]}
    options = [*flavour.options, f"-Dwerror={str(werror).lower()}"]
    if not (flavour.path / "build.ninja").exists():
        _run(["meson", "setup", *options, flavour.directory], f"meson setup {flavour.directory}", environment)
    elif werror != _option(flavour, "werror"):
        _run(["meson", "configure", flavour.directory, f"-Dwerror={str(werror).lower()}"],
             f"meson configure {flavour.directory}")


def _option(flavour, name):
    options = json.loads((flavour.path / "meson-info/intro-buildoptions.json").read_text())
    return next(option["value"] for option in options if option["name"] == name)


def build(flavour, targets=(), live=False):
    """ninja; with `live`, its progress goes to the terminal."""
    _run(["ninja", "-C", flavour.directory, *targets], f"building {flavour.directory}", live=live)


def tests_of(flavour, suite):
    """Meson's tests of one suite: [{name, cmd, env, workdir, timeout, …}]."""
    done = subprocess.run(["meson", "introspect", "--tests", flavour.directory], cwd=TOP, check=True,
                          capture_output=True, text=True)
    return [test for test in json.loads(done.stdout) if suite in (name.split(":")[-1] for name in test["suite"])]
