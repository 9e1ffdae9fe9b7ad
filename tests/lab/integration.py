#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the integration suite inside a lab, many tests a boot, each outcome reported the moment it is known.

A lab that freezes costs the test that was running a second try in a new one, in which the rest goes on; both are
counted. Exit status 1 on any failure.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

import lab
import lab_machine

sys.path[:0] = [str(lab.TOP / "tests/run"), str(lab.TOP / "tests/integration")]
from debian import debian_rootfs  # pylint: disable=wrong-import-position,import-error
from report import Case, Report  # pylint: disable=wrong-import-position,import-error

EVENTS = "/dev/virtio-ports/lab.events"
OUTPUT_BYTES = 64 << 10  # of pytest, kept for when it cannot run
TRIES = 2  # of a test during which a lab ended
PYTEST = ["/usr/bin/python3", "-m", "pytest", "-p", "no:cacheprovider"]
# What the tests write lies on a file system that a host would have: tmpfs has no extended attributes for users.
# Networks need what a host has loaded at its start; a kernel that has it built in has no such modules.
DISK = ["/bin/sh", "-ec", "[ -e /dev/loop-control ] || modprobe loop; [ -e /dev/net/tun ] || modprobe tun; truncate -s 4G /tmp/disk && "
        "mkfs.ext4 -q -m 0 /tmp/disk && mkdir /tmp/t && mount -o loop /tmp/disk /tmp/t && exec \"$@\"", "disk"]
BOOT_SECONDS = 600  # of a lab, on top of what its tests may take


def environment(options):
    build = pathlib.Path(os.environ.get("KILN_TEST_BUILD", lab.TOP / "build")).resolve()
    return {**lab.passed_on(), "KILN_TEST_BUILD": str(build), "KILN_TEST_BACKEND": options.backend,
            "KILN_TEST_SLOWDOWN": str(options.slowdown), "PYTHONDONTWRITEBYTECODE": "1",
            **({"KILN_TEST_VCPUS": str(options.vcpus)} if options.vcpus else {})}


def collect(selection, variables):
    """The ids of the selected tests, in the order in which pytest runs them."""
    done = subprocess.run([*PYTEST, "-q", "--collect-only", *selection], cwd=lab.TOP, env={**os.environ, **variables},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = [line for line in done.stdout.splitlines() if "::" in line and not line.startswith(("ERROR", "FAILED"))]
    if done.returncode != 0 or not found:
        raise lab_machine.LabError(f"pytest cannot collect {' '.join(selection)}:\n{done.stdout}")
    return found


class Run:
    """The tests that are left, and what became of the others."""

    def __init__(self, tests, add, options, variables):
        self.left = list(tests)
        self.add = add
        self.options = options
        self.variables = variables
        self.interrupted = collections.Counter()  # test -> labs that ended while it ran
        self.boots = 0
        self._line = b""
        self._output = bytearray()

    def _lab(self):
        build = self.variables["KILN_TEST_BUILD"]
        variables = {**self.variables, "KILN_TEST_STREAM": EVENTS, "PYTHONPATH": str(lab.TOP / "tests/run")}
        tests = self.left[:self.options.per_boot or None]
        command = [*DISK, *PYTEST, "-q", "-p", "pytest_stream", "--tb=short", "--basetemp", "/tmp/t/t", *tests]
        timeout = self.options.timeout or BOOT_SECONDS + 300 * self.options.slowdown * len(tests)
        settings = lab_machine.Settings(self.options.smp, self.options.memory, timeout=timeout)
        return tests, lab.Lab(command, kernel=self.options.kernel, settings=settings, environment=variables,
                              directory=str(lab.TOP), binds=[build] if lab.hidden(build) else [])

    def _receive(self, data):
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            case = Case(**json.loads(line))
            if case.name in self.left:  # an error of collection has another name
                self.left.remove(case.name)
            case.retries += self.interrupted[case.name]
            self.add(case)

    def _keep(self, data):
        self._output += data
        del self._output[:-OUTPUT_BYTES]

    def _lab_ended(self, outcome):
        """The test that ran gets another try; one that ends every lab it runs in has failed."""
        test = self.left[0]
        self.interrupted[test] += 1
        detail = f"the lab {outcome.what} while it ran\n{lab.last_lines(outcome.console)}"
        if self.interrupted[test] < TRIES:
            lab.say(f"{outcome.what} during {test}, going on in a new one ({sum(self.interrupted.values())})")
            return
        self.left.pop(0)
        self.add(Case(test, "failed", detail, outcome.seconds, self.interrupted[test] - 1))

    def boot(self):
        """One lab, until its tests are done or it ends."""
        self._line = b""
        self._output.clear()
        tests, machine = self._lab()
        self.boots += 1
        outcome = machine.boot({"events": self._receive, "out": self._keep, "err": self._keep})
        missing = [test for test in tests if test in self.left]
        if not missing:
            return
        if outcome.what != "exited":
            self._lab_ended(outcome)
            return
        # pytest itself gave up, and would again.
        detail = f"pytest ended with {outcome.status} before it\n{self._output.decode(errors='replace')}"
        for test in missing:
            self.left.remove(test)
            self.add(Case(test, "failed", detail))

    def run(self):
        while self.left:
            self.boot()


def run(add, options):
    """Hands each Case to `add`; the number of labs that it took, and of those that ended before their time."""
    variables = environment(options)
    tests = collect(options.tests or ["tests/integration"], variables)
    if any("/test_debian.py::" in test for test in tests):
        debian_rootfs()  # a lab has no network to fetch it from
    # A test here, the next one there: files differ in how long theirs take.
    runs = [Run(tests[i::options.labs], add, options, variables) for i in range(min(options.labs, len(tests)))]
    with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
        for done in [pool.submit(one.run) for one in runs]:
            done.result()
    return sum(one.boots for one in runs), sum(sum(one.interrupted.values()) for one in runs)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="integration.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default=os.environ.get("KILN_TEST_BACKEND", "qemu"), help="of kiln (default: qemu)")
    parser.add_argument("--slowdown", type=float, default=5, help="multiplies the tests' time-outs (default: 5)")
    parser.add_argument("--vcpus", type=int, metavar="N", help="of kiln's machines (default: kiln's)")
    parser.add_argument("--per-boot", type=int, default=0, metavar="N", help="tests in one lab (default: all)")
    parser.add_argument("--labs", type=int, default=1, metavar="N", help="at a time, a CPU each (default: 1)")
    parser.add_argument("--kernel", default="auto", metavar="cloud|tuned|PATH", help="of the lab host")
    parser.add_argument("--smp", type=int, default=1, metavar="N")
    parser.add_argument("--memory", default="6G", metavar="SIZE")
    parser.add_argument("--timeout", type=float, metavar="S", help="of one boot (default: by the number of tests)")
    parser.add_argument("tests", nargs="*", metavar="PATH[::NAME]", help="default: tests/integration")
    return parser.parse_args(arguments)


def main(arguments):
    options = parse(arguments)
    report = Report()

    def body(add):
        boots, ended = run(lambda case: (print(f"   {case.outcome} {case.name} {case.seconds:.1f} s", flush=True)
                                         if case.outcome == "passed" else None, add(case)), options)
        print(f"   {boots} labs, {ended} of them froze, panicked or died")

    try:
        report.run("lab", f"the integration suite on kiln's backend {options.backend}, in a lab", body)
    except KeyboardInterrupt:
        report.finish()
        return 130
    return report.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
