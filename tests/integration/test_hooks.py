# SPDX-License-Identifier: Apache-2.0
"""config.json /hooks: order, state on standard input, timeouts, what a failure does."""
import json
import subprocess
import time

import pytest

from conftest import IS_KILN, SLOWDOWN, deadline_in

HOST_HOOKS = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]


def recorder(kiln, name):
    """A hook that appends its name and its standard input to the record."""
    return {"path": "/bin/sh", "args": ["sh", "-c", f"echo {name} $(cat | tr -d '\\n') >> {kiln.directory}/record"]}


def record(kiln):
    path = kiln.directory / "record"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split(" ", 1)[0], json.loads(line.split(" ", 1)[1])) for line in lines]


def hooks(**values):
    def patch(spec):
        spec["hooks"] = values
    return patch


def test_order_and_state(kiln):
    container = kiln.new_id()
    bundle = kiln.bundle(["true"], hooks(**{name: [recorder(kiln, name)] for name in HOST_HOOKS}))
    kiln("create", "--bundle", bundle, container, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before_start = [name for name, _ in record(kiln)]
    assert before_start[:3] == ["prestart", "createRuntime", "createContainer"]
    assert before_start[3:] == [] or not IS_KILN  # runc 1.1 runs poststart early
    pid = kiln.state(container)["pid"]
    kiln("start", container, check=True)
    kiln.wait_status(container, "stopped")
    deadline = deadline_in(10)
    while len(record(kiln)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    kiln("delete", container, check=True)
    names = [name for name, _ in record(kiln)]
    assert names == ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    statuses = {name: state["status"] for name, state in record(kiln)}
    assert statuses["prestart"] in ("creating", "created") and statuses["poststop"] == "stopped"
    for name, state in record(kiln):
        assert state["id"] == container and state["bundle"] == str(bundle)
        if name in ("prestart", "createRuntime"):
            assert state["pid"] == pid


def test_start_container_hook_runs_inside(kiln):
    bundle = kiln.bundle(["/bin/cat", "/tmp/record"], hooks(startContainer=[
        {"path": "/bin/sh", "args": ["sh", "-c", "echo $HOOK $(hostname) > /tmp/record; cat >> /tmp/record"],
         "env": ["HOOK=inside", "PATH=/bin"]}]))
    container = kiln.new_id()
    lines = kiln("run", "--bundle", bundle, container, check=True).stdout.splitlines()
    assert lines[0] == "inside runc" or lines[0].startswith("inside ")
    state = json.loads(lines[1])
    assert state["id"] == container and state["status"] in ("created", "creating")


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_failure_before_start_undoes_create(kiln, name):
    def patch(spec):
        spec["hooks"] = {name: [{"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 7"]},
                                recorder(kiln, "second")],
                         "poststop": [recorder(kiln, "poststop")]}
    result = kiln.run(["true"], patch)
    assert result.returncode == 1
    assert "hook" in result.stderr and "7" in result.stderr
    assert "second" not in [entry for entry, _ in record(kiln)]
    if IS_KILN:
        assert name in result.stderr and "poststop" in [entry for entry, _ in record(kiln)]
    kiln.assert_clean()


def test_start_container_failure_stops_the_container(kiln):
    result = kiln.run(["/bin/echo", "BAD"], hooks(startContainer=[{"path": "/bin/false"}]))
    assert result.returncode != 0 and "BAD" not in result.stdout
    kiln.assert_clean()


@pytest.mark.parametrize("name", ["poststop"])
def test_late_failures_are_only_logged(kiln, name):
    result = kiln.run(["/bin/echo", "fine"], hooks(**{name: [{"path": "/bin/false"}]}))
    assert result.stdout == "fine\n"
    kiln.assert_clean()


def test_timeout_kills_the_hook(kiln):
    began = time.monotonic()
    result = kiln.run(["true"], hooks(createRuntime=[{"path": "/bin/sleep", "args": ["sleep", "300"], "timeout": 1}]))
    assert result.returncode == 1
    assert time.monotonic() - began < 240 * SLOWDOWN
    assert "hook" in result.stderr
    kiln.assert_clean()


def test_environment_is_the_hook_s_own(kiln):
    kiln.run(["true"], hooks(createRuntime=[
        {"path": "/bin/sh", "args": ["sh", "-c", f"env > {kiln.directory}/environment"], "env": ["ONLY=this"]}]),
        check=True)
    names = {line.split("=")[0] for line in (kiln.directory / "environment").read_text().splitlines()}
    assert "ONLY" in names and "KILN_TEST_MARK" not in names


def test_missing_hook_program(kiln):
    result = kiln.run(["true"], hooks(createRuntime=[{"path": "/nonexistent/hook"}]))
    assert result.returncode == 1 and "/nonexistent/hook" in result.stderr
    kiln.assert_clean()
