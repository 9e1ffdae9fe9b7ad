# SPDX-License-Identifier: Apache-2.0
"""The shim's ttrpc against containerd's own, both ways: tests/interop."""
import os
import subprocess
import time

import pytest

from conftest import BUILD, TOP, deadline_in
from engines import go_programs

SOURCE = TOP / "tests/interop"
OURS = BUILD / "tests/interop/ttrpc_peer"
LEAST_GO = (1, 25)  # ttrpc's go.mod


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    try:
        go = go_programs.find_go(LEAST_GO)
    except go_programs.Unavailable as reason:
        pytest.skip(str(reason))
    program = tmp_path_factory.mktemp("interop") / "peer"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly", "GOWORK": "off"}
    built = subprocess.run([go, "build", "-o", program, "."], cwd=SOURCE, env=environment, capture_output=True, text=True,
                           check=False)
    if "dial tcp" in built.stderr or "proxy" in built.stderr:
        pytest.skip(f"the Go module proxy cannot be reached: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    return program


def tried(server, client, directory):
    """What `client` has to say about `server`."""
    socket = directory / "s"
    with subprocess.Popen([server, "serve", socket], stdin=subprocess.DEVNULL) as serving:
        try:
            deadline = deadline_in(20)
            while not socket.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            done = subprocess.run([client, "call", socket], capture_output=True, text=True, timeout=120, check=False)
        finally:
            serving.kill()
    return done


@pytest.mark.parametrize("ours_serves, count", [(True, 11), (False, 9)])
def test_containerds_ttrpc_and_ours_understand_each_other(theirs, tmp_path, ours_serves, count):
    server, client = (OURS, theirs) if ours_serves else (theirs, OURS)
    done = tried(server, client, tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == count and all(line.startswith("ok ") for line in lines), done
