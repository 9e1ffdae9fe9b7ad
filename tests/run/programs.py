# SPDX-License-Identifier: Apache-2.0
"""Runs the test programs that Meson knows: GoogleTest programs case by case, corpora replayed as one case each."""
import concurrent.futures
import os
import re
import signal
import subprocess
import tempfile
import time
import xml.etree.ElementTree

import build
from report import Case


# The other programs replay a corpus.
GOOGLETEST_SUITES = {"unit", "kvm", "threads"}


def run_bounded(command, timeout, **options):
    """(exit status or None when the time was up, output). Ends the whole process group when the time is up."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, errors="replace", start_new_session=True, **options)
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def _ending(status):
    if status is None:
        return "did not end in time"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _reason(skipped):
    """GoogleTest's message without the file and line in front, on one line."""
    text = (skipped.get("message") or skipped.text or "") if skipped is not None else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[1:] if len(lines) > 1 and re.search(r"\.cpp:\d+$", lines[0]) else lines)


def _from_xml(program, path):
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        name = f"{program} {case.get('classname')}.{case.get('name')}"
        seconds = float(case.get("time", 0))
        failures = [failure.text or failure.get("message", "") for failure in case.findall("failure")]
        skipped = case.find("skipped")
        if failures:
            yield Case(name, "failed", "\n".join(failures), seconds)
        elif skipped is not None or case.get("result") == "skipped":
            yield Case(name, "skipped", _reason(skipped), seconds)
        elif case.get("status") == "notrun":
            yield Case(name, "skipped", "disabled", seconds)
        else:
            yield Case(name, "passed", "", seconds)


def _from_output(program, output, ending):
    """What a program that never wrote its report had done: the cases that ended, and the one that did not."""
    started = []
    for line in output.splitlines():
        if match := re.match(r"\[ RUN      \] (\S+)", line):
            started.append(match[1])
        elif match := re.match(r"\[       OK \] (\S+)", line):
            yield Case(f"{program} {match[1].rstrip(',')}", "passed")
        elif match := re.match(r"\[  FAILED  \] (\S+) \(", line):
            yield Case(f"{program} {match[1].rstrip(',')}", "failed", output)
    last = started[-1] if started else "before its first test"
    yield Case(f"{program} {last}", "failed", f"{ending}\n{output}")


def gtest_cases(test, environment, slowdown=1):
    """Runs one GoogleTest program; yields its cases. A program that ends badly has at least one failed case."""
    with tempfile.TemporaryDirectory(prefix="kiln-unit-") as directory:
        path = os.path.join(directory, "report.xml")
        status, output = run_bounded([*test["cmd"], f"--gtest_output=xml:{path}"], test["timeout"] * slowdown,
                                     env={**os.environ, **test["env"], **environment}, cwd=test["workdir"])
        if not os.path.exists(path) or os.path.getsize(path) == 0:
            yield from _from_output(test["name"], output, _ending(status))
            return
        cases = list(_from_xml(test["name"], path))
    yield from cases
    # For instance a leak that the sanitizer reports at the end, when every case had passed.
    if status != 0 and not any(case.outcome == "failed" for case in cases):
        yield Case(f"{test['name']} at its end", "failed", f"{_ending(status)}\n{output}")


def replay_case(test, environment, slowdown=1):
    begin = time.monotonic()
    status, output = run_bounded(test["cmd"], test["timeout"] * slowdown, cwd=test["workdir"],
                                 env={**os.environ, **test["env"], **environment})
    seconds = time.monotonic() - begin
    if status == 0:
        return Case(test["name"], "passed", output.strip().splitlines()[-1], seconds)
    return Case(test["name"], "failed", f"{_ending(status)}\n{output}", seconds)


def run_programs(flavour, suites, add, environment=None, slowdown=1):
    """Every program of Meson's `suites`, as many at a time as there are CPUs."""
    environment = environment or {}
    jobs = [(suite, test) for suite in suites for test in build.tests_of(flavour, suite)]

    def one(job):
        suite, test = job
        if suite in GOOGLETEST_SUITES:
            for case in gtest_cases(test, environment, slowdown):
                add(case)
        else:
            add(replay_case(test, environment, slowdown))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(one, job) for job in jobs]:
            done.result()
