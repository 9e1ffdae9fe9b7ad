# SPDX-License-Identifier: Apache-2.0
"""pytest plugin: writes each test's outcome to $KILN_TEST_STREAM as soon as it is known, one JSON object a line.

A JUnit file appears only at the end; a run that is killed for taking too long would have counted nothing.
A test that had to try again says so with `record_property("retries", n)`.
"""
import json
import os


def _skip_reason(report):
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return getattr(report, "wasxfail", "") or str(report.longrepr)


class Stream:
    def __init__(self, path):
        self.file = open(path, "w", encoding="utf-8")
        self.pending = {}  # node id -> outcome so far

    def _write(self, **fields):
        self.file.write(json.dumps(fields) + "\n")
        self.file.flush()

    def pytest_runtest_logreport(self, report):
        state = self.pending.setdefault(report.nodeid, {"outcome": "passed", "detail": "", "seconds": 0.0, "retries": 0})
        state["seconds"] += report.duration
        # user_properties are the test's own and are repeated in each phase's report.
        state["retries"] = sum(int(value) for name, value in report.user_properties if name == "retries")
        if report.failed:
            state["outcome"] = "failed"
            state["detail"] += f"{report.longreprtext}\n" + "".join(f"{n}\n{t}\n" for n, t in report.sections)
        elif report.skipped and state["outcome"] == "passed":
            state["outcome"], state["detail"] = "skipped", _skip_reason(report)
        if report.when == "teardown":
            self._write(name=report.nodeid, **self.pending.pop(report.nodeid))

    def pytest_collectreport(self, report):
        if report.failed:
            self._write(name=report.nodeid or "collection", outcome="failed", detail=report.longreprtext, seconds=0.0,
                        retries=0)

    def pytest_sessionfinish(self):
        for name, state in self.pending.items():  # a worker died in the middle of it
            self._write(name=name, **{**state, "outcome": "failed", "detail": state["detail"] + "\ndid not end"})
        self.pending.clear()


def pytest_configure(config):
    path = os.environ.get("KILN_TEST_STREAM")
    if path and not hasattr(config, "workerinput"):  # xdist's workers report to the one process that writes
        config.pluginmanager.register(Stream(path))
