# SPDX-License-Identifier: Apache-2.0
"""What the engines have in common: a directory, a host of their own, kiln as their runtime, and no traces afterwards.

An engine's host is a network and a mount namespace: its bridges, packet filters, published ports and what it keeps at
fixed places in /run and /dev/shm meet neither this machine's nor those of another test worker, and go with it.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import uuid

import pytest

from conftest import BACKEND, BOOT_SECONDS, IS_KILN, RUNTIME, SLOWDOWN, cgroups_named, deadline_in, orphans

# A step takes a boot or two; a healthy engine answers in seconds.
STEP_SECONDS = 120


def need(*programs):
    """Skips the test module where an engine is not installed."""
    for program in programs:
        if not os.access(program, os.X_OK):
            pytest.skip(f"{program} is not installed", allow_module_level=True)


class Engine:
    """One engine with its own state; `command(...)` is its command line, `self(...)` runs it."""

    name = "engine"
    kinds = ("net", "mnt")  # of the namespaces that are its host

    def __init__(self, directory, image_root):
        self.directory = pathlib.Path(directory)
        self.image_root = image_root
        self.mark = f"kt{self.name[0]}{uuid.uuid4().hex[:8]}"
        self.counter = 0
        self.first_mounts = set()
        self.host = self._start_host()
        self.first_mounts = set(self.mounts())
        self.namespaces = {os.readlink(f"/proc/{self.host.pid}/ns/{kind}") for kind in self.kinds}
        self.runtime = self._write_runtime()

    def _start_host(self):
        """A process that holds the namespaces."""
        script = ("mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /dev/shm && mkdir -p /run/lock /run/netns && "
                  "ip link set lo up && echo ready && exec sleep infinity")
        host = subprocess.Popen(["unshare", *self._flags(), "--propagation", "private", "sh", "-c", script],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert host.stdout.readline() == "ready\n"
        return host

    def _flags(self):
        """As unshare and nsenter call the namespaces."""
        return [{"net": "--net", "mnt": "--mount", "ipc": "--ipc"}[kind] for kind in self.kinds]

    def _write_runtime(self):
        """The program that the engine takes for its OCI runtime: kiln with the test's configuration."""
        config = self.directory / "kiln.yaml"
        boot = f"guest:\n  boot_timeout: {BOOT_SECONDS}\n" if SLOWDOWN != 1 else ""
        config.write_text(f"backend: {BACKEND}\n{boot}machine:\n  memory: 256M\n")
        own = f"--config {config} " if IS_KILN else ""
        wrapper = self.directory / "kiln"
        wrapper.write_text(f"#!/bin/sh\nexec {RUNTIME} {own}\"$@\"\n")
        wrapper.chmod(0o755)
        return wrapper

    @property
    def environment(self):
        return {**os.environ, "KILN_TEST_MARK": self.mark}

    def inside(self, *args, **options):
        """A command on the engine's host."""
        options.setdefault("check", False)
        for stream in ("stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("text", True)
        options.setdefault("timeout", STEP_SECONDS)
        options.setdefault("env", self.environment)
        check = options.pop("check")
        done = subprocess.run(self.enter(*args), check=False, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def enter(self, *args):
        return ["nsenter", "--target", str(self.host.pid), *self._flags(), f"--wdns={self.directory}", *map(str, args)]

    def command(self, *args):
        raise NotImplementedError

    def __call__(self, *args, check=True, **options):
        """The engine's command; its output without the newline at the end, or the finished process (check=False)."""
        done = self.inside(*self.command(*args), check=check, **options)
        return done.stdout.rstrip("\n") if check else done

    def start(self, *args, **options):
        """The engine's command, left running."""
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        return subprocess.Popen(self.enter(*self.command(*args)), env=self.environment, text=True, **options)

    def new_name(self, prefix="c"):
        self.counter += 1
        return f"{prefix}{self.counter}-{self.mark}"

    def inspect(self, container):
        return json.loads(self("inspect", container))[0]

    # -- what must not be left behind

    def processes(self):
        """{pid: command line} of what runs on the engine's host or carries its mark, the engine's own daemons included."""
        found = {}
        namespaces = self.namespaces
        needles = [f"KILN_TEST_MARK={self.mark}".encode(), f"{self.directory}/".encode(), self.mark.encode()]
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in (os.getpid(), self.host.pid):
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                text = command + (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                inside = {os.readlink(entry / "ns" / kind) for kind in self.kinds} & namespaces
            except OSError:
                continue
            if state != "Z" and (inside or any(needle in text for needle in needles)):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return {**found, **orphans(str(self.directory))}

    def interfaces(self):
        """Names of the host's interfaces but lo."""
        links = json.loads(self.inside("ip", "-json", "link", check=True).stdout)
        return sorted(link["ifname"] for link in links if link["ifname"] != "lo")

    def mounts(self):
        """Mount points that the engine's host has got since it was made, sorted."""
        lines = pathlib.Path(f"/proc/{self.host.pid}/mountinfo").read_text().splitlines()
        return sorted({line.split(" ")[4] for line in lines} - self.first_mounts)

    def path(self, path):
        """A file of the engine's host, as this process reaches it."""
        return pathlib.Path(f"/proc/{self.host.pid}/root{path}")

    def stop_processes(self):
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.processes():
                try:
                    os.kill(pid, sent)
                except ProcessLookupError:
                    pass
            deadline = deadline_in(10)
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.05)

    def close(self):
        """Ends what is left, and reports nothing: tests of their own say what may be left."""
        self.stop_processes()
        self.host.kill()
        self.host.wait()
        # podman leaves one of its own in each: all below, the deepest first.
        for path in cgroups_named(self.mark):
            for below, _, _ in os.walk(path, topdown=False):
                os.rmdir(below)
        shutil.rmtree(self.directory, ignore_errors=True)


def eventually(condition, seconds=30, every=0.05):
    """Waits until `condition()` is true and returns what it is; fails with its last value."""
    deadline = deadline_in(seconds)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still {value!r} after {seconds} s")
        time.sleep(every)


def settles(read, wanted, seconds=30):
    """Waits until `read()` equals `wanted`; fails with how they differ."""
    deadline = deadline_in(seconds)
    while (value := read()) != wanted:
        if time.monotonic() > deadline:
            raise AssertionError(f"still {value!r} after {seconds} s, and not {wanted!r}")
        time.sleep(0.05)
