# SPDX-License-Identifier: Apache-2.0
"""Debian root file systems, by default one with python3 and a C compiler, each made once by debootstrap and kept outside the tree.

KILN_TEST_CACHE names the directory (default: /var/tmp/kiln-test-cache). Packages come from the mirror that this
host's apt is configured with.
"""
import fcntl
import os
import pathlib
import re
import shutil
import subprocess

CACHE = pathlib.Path(os.environ.get("KILN_TEST_CACHE", "/var/tmp/kiln-test-cache"))
PACKAGES = ["python3-minimal", "gcc", "libc6-dev"]


def configured_mirror(etc=pathlib.Path("/etc/apt")):
    """(URI, suite) of the first Debian archive among apt's sources, in either of their formats."""
    one_line = re.compile(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+.*\bmain\b", re.M)
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]:
        for uri, suite in one_line.findall(path.read_text()) if path.exists() else []:
            if "debian" in uri and "security" not in uri and "-" not in suite:
                return uri, suite
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^(\S+):\s*(.+)$", stanza, re.M))
            uri, suite = fields.get("URIs", "").split(" ")[0], fields.get("Suites", "").split(" ")[0]
            if "debian" in uri and "security" not in uri and "-" not in suite and "deb" in fields.get("Types", ""):
                return uri, suite
    raise LookupError("no Debian archive among apt's sources")


def debian_rootfs(packages=PACKAGES):
    """The directory; made on first use, under a lock, so that parallel test processes share it."""
    uri, suite = configured_mirror()
    CACHE.mkdir(parents=True, exist_ok=True)
    rootfs = CACHE / f"{suite}-{'-'.join(packages)}"
    with open(CACHE / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if rootfs.exists():
            return rootfs
        partial = CACHE / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", "--include=" + ",".join(packages), suite, str(partial), uri]
        # A mount namespace of its own: what debootstrap mounts goes with it, whatever happens.
        made = subprocess.run(["unshare", "--mount", "--propagation", "private", *command], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=900, check=False)
        if made.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}:\n{made.stdout[-3000:]}")
        shutil.rmtree(partial / "var/cache/apt/archives", ignore_errors=True)
        partial.rename(rootfs)
    return rootfs
