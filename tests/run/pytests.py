# SPDX-License-Identifier: Apache-2.0
"""Runs pytest over a folder or file, and hands on each outcome the moment it is known."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

from build import TOP
from report import Case


def _drain(stream, add):
    """Reads the whole lines that are there; the number of cases."""
    count = 0
    while True:
        position = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(position)
            return count
        add(Case(**json.loads(line)))
        count += 1


def run_pytest(arguments, add, *, workers, timeout, environment=None):
    """pytest with `arguments`, relative to the top. What is unfinished after `timeout` seconds counts as failed."""
    with tempfile.TemporaryDirectory(prefix="kiln-pytest-") as directory:
        path = pathlib.Path(directory, "stream")
        output = pathlib.Path(directory, "output")
        path.touch()
        command = ["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_stream",
                   "--tb=short", "--basetemp", f"{directory}/t", *arguments]
        if workers > 1:
            # By file: a module's fixtures are containers that its tests share.
            command += ["-n", str(workers), "--dist", "loadfile"]
        with open(path, encoding="utf-8") as stream, open(output, "wb") as sink:
            process = subprocess.Popen(
                command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {}), "KILN_TEST_STREAM": str(path),
                     "PYTHONPATH": str(TOP / "tests/run"), "PYTHONDONTWRITEBYTECODE": "1"})
            try:
                failed = _watch(process, stream, add, time.monotonic() + timeout)
            except BaseException:
                _end(process)
                raise
        status = process.wait()
        text = output.read_text(errors="replace")
        if failed is None:
            add(Case(f"pytest {' '.join(arguments)}", "failed", f"not done after {timeout} s\n{text}"))
        elif status not in (0, 1) or (status == 1 and not failed):
            add(Case(f"pytest {' '.join(arguments)}", "failed", f"exit status {status}\n{text}"))


def _watch(process, stream, add, deadline):
    """Until pytest ends: whether a test failed; None when the time was up."""
    failed = False

    def note(case):
        nonlocal failed
        failed |= case.outcome == "failed"
        add(case)

    while process.poll() is None:
        _drain(stream, note)
        if time.monotonic() > deadline:
            _end(process)
            _drain(stream, note)
            return None
        time.sleep(0.2)
    _drain(stream, note)
    return failed


def _end(process):
    """As Ctrl-C first, so that fixtures clean up after themselves; by force after half a minute."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
