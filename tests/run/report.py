# SPDX-License-Identifier: Apache-2.0
"""Counts outcomes and prints them: one heading a suite, failures in full, skips with their reason."""
import dataclasses
import sys
import threading
import time

OUTPUT_LINES = 60


@dataclasses.dataclass
class Case:
    name: str
    outcome: str  # passed, failed or skipped
    detail: str = ""  # the failure's output, or why it was skipped
    seconds: float = 0.0
    retries: int = 0


@dataclasses.dataclass
class Suite:
    name: str
    cases: list = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def count(self, outcome):
        return sum(case.outcome == outcome for case in self.cases)


def _indented(text):
    lines = text.strip("\n").splitlines()
    cut = len(lines) - OUTPUT_LINES
    if cut > 0:
        lines = [f"… {cut} lines", *lines[-OUTPUT_LINES:]]
    return "\n".join("      " + line for line in lines)


class Report:
    """All suites of one run. `add` may be called from several threads."""

    def __init__(self, out=sys.stdout):
        self.suites = []
        self.out = out
        self.lock = threading.Lock()

    def say(self, text=""):
        print(text, file=self.out, flush=True)

    def run(self, name, what, body):
        """Runs `body(add)`; whatever it raises is a failure of the suite, and the next suite runs all the same."""
        suite = Suite(name)
        self.suites.append(suite)
        self.say(f"\n== {name}: {what}")
        begin = time.monotonic()
        try:
            body(lambda case: self._add(suite, case))
        except Exception as error:  # pylint: disable=broad-except
            self._add(suite, Case(f"{name} could not run", "failed", str(error) or repr(error)))
        finally:
            suite.seconds = time.monotonic() - begin
        if not suite.cases:
            self._add(suite, Case(f"{name} ran nothing", "failed", "a suite without a test has tested nothing"))
        self.say(f"   {self._line(suite)} in {suite.seconds:.1f} s")

    def _add(self, suite, case):
        with self.lock:
            suite.cases.append(case)
            retried = f" ({case.retries} retries)" if case.retries else ""
            if case.outcome == "failed":
                self.say(f"   FAILED {case.name}{retried}\n{_indented(case.detail)}")
            elif case.outcome == "skipped":
                self.say(f"   skipped {case.name}: {case.detail or 'no reason given'}")
            elif retried:
                self.say(f"   passed {case.name}{retried}")

    @staticmethod
    def _line(suite):
        return ", ".join(f"{suite.count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped"))

    def total(self, outcome):
        return sum(suite.count(outcome) for suite in self.suites)

    def finish(self):
        """Prints the table and the last line; the exit status."""
        self.say()
        for suite in self.suites:
            self.say(f"{suite.name:<12} {self._line(suite):<40} {suite.seconds:7.1f} s")
        failed = [case for suite in self.suites for case in suite.cases if case.outcome == "failed"]
        for case in failed:
            self.say(f"FAILED {case.name}")
        retries = sum(case.retries for suite in self.suites for case in suite.cases)
        if retries:
            self.say(f"{retries} retries")
        slow = sorted((case for suite in self.suites for case in suite.cases), key=lambda case: -case.seconds)[:5]
        if slow and slow[0].seconds >= 10:
            self.say("slowest: " + ", ".join(f"{case.name} {case.seconds:.0f} s" for case in slow))
        self.say(f"{self.total('passed')} passed, {self.total('failed')} failed, {self.total('skipped')} skipped")
        return 1 if failed else 0
