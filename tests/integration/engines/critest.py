# SPDX-License-Identifier: Apache-2.0
"""Runs cri-tools' critest against an engine, and reads its report: one outcome for each spec.

What is excluded, and why, is in engines/critest_excluded.py.
"""
import dataclasses
import datetime
import json
import re

from engines import go_programs
from engines.cri import Cri
from engines.critest_excluded import EXCLUDED

# Specs that cri-tools has for measuring, and that critest leaves out by itself.
BENCHMARK = re.compile(r"\bbenchmark\b")


UNFINISHED = "critest did not get to it"

# Most specs of runc's wait for a second to pass; a microVM boots meanwhile.
PROCESSES = {"runc": 4}


@dataclasses.dataclass(frozen=True)
class Spec:
    name: str
    outcome: str  # passed, failed, skipped
    detail: str  # why, unless it passed
    seconds: float


def excluded(handler, containerd):
    """{pattern: reason} of the specs that are not asked of this handler under this containerd ("1" or "2")."""
    return {pattern: reason for pattern, where, reason in EXCLUDED if where is None or where in (handler, handler.split("-")[0], f"containerd {containerd}")}


def run(engine, handler, *, focus=(), timeout=1800):
    """The Specs, in the order of their names; with `focus`, only those that one of its regular expressions finds."""
    reasons = excluded(handler, engine.version)
    report = engine.directory / f"{engine.new_name('critest')}.json"
    # ginkgo knows a test program by its name's end.
    program = engine.directory / "critest.test"
    if not program.exists():
        program.symlink_to(go_programs.program("critest"))
    # Out of time, ginkgo ends the spec that it is in, and writes its report.
    own = ["--no-color", "--skip=benchmark", f"--json-report={report.name}", f"--output-dir={report.parent}",
           f"--timeout={max(timeout - 30, 30)}s", "--grace-period=10s"]
    own += [f"--skip={pattern}" for pattern in reasons] + [f"--focus={pattern}" for pattern in focus]
    done = engine.inside(
        go_programs.program("ginkgo"), f"--procs={PROCESSES.get(handler, 2)}", *own, program, "--", "-config", f"{engine.directory}/crictl.yaml",
        "-runtime-endpoint", engine.endpoint, "-image-endpoint", engine.endpoint, "-runtime-handler", handler, *_nri(engine),
        timeout=timeout)
    if not report.exists():
        raise AssertionError(f"critest left no report: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    log = (engine.directory / "containerd.log").read_text(errors="replace")
    return read(json.loads(report.read_text()), reasons, focus, log)


def run_whole(directory, handler, version):
    """All Specs, on an engine of their own in `directory`; an exclusion that none of them has is one that failed."""
    engine = Cri(directory, version)
    try:
        specs = run(engine, handler)
    finally:
        engine.close()
    return specs + [Spec(f"exclusion of `{pattern}`", "failed", "no spec has this name: engines/critest_excluded.py", 0)
                    for pattern in stale(specs, handler, version)]


def _nri(engine):
    """Where this containerd listens for plugins; 1.6 does not."""
    socket = engine.directory / "nri.sock"
    return ["-nri-socket", socket] if socket.exists() else []


def read(suites, reasons, focus=(), log=""):
    """ginkgo's JSON report, and for what failed containerd's log. A failure outside of any spec is a Spec of its own."""
    found = []
    for spec in (spec for suite in suites for spec in suite["SpecReports"] or []):
        name = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]]).removeprefix("[k8s.io] ")
        failure = spec.get("Failure") or {}
        detail = re.sub(r"\n {8}.*", "", failure.get("Message", ""))  # Go's structures
        outcome = {"passed": "passed", "skipped": "skipped", "pending": "skipped"}.get(spec["State"], "failed")
        if spec["LeafNodeType"] != "It":
            if outcome != "failed":
                continue
            name = f"{spec['LeafNodeType']} {name}"
        elif outcome == "skipped" and not detail:
            detail = _why_not_run(name, reasons, focus)
            if detail is None:
                continue
            outcome = "failed" if detail == UNFINISHED else outcome
        if outcome == "failed":
            detail += "\n" + spec.get("CapturedGinkgoWriterOutput", "")[-3000:]
            detail += "\n" + "\n".join(_complaints(log, spec.get("StartTime"), spec.get("EndTime")))
        found.append(Spec(name, outcome, detail, spec["RunTime"] / 1e9))
    return sorted(found, key=lambda spec: spec.name)


def _complaints(log, begin, end):
    """The last of what containerd and its shims warned of while a spec ran; others may have run beside it."""
    if not begin or not end:
        return []
    begin, end = datetime.datetime.fromisoformat(begin), datetime.datetime.fromisoformat(end)
    found = re.finditer(r'^time="([^"]+)" level=(?:error|warning|fatal) .*$', log, re.M)
    return [line[0] for line in found if begin <= datetime.datetime.fromisoformat(line[1]) <= end][-10:]


def _why_not_run(name, reasons, focus):
    """The reason of its exclusion; None for what was not asked for."""
    if BENCHMARK.search(name) or (focus and not any(re.search(pattern, name) for pattern in focus)):
        return None
    return next((reason for pattern, reason in reasons.items() if re.search(pattern, name)), UNFINISHED)


def stale(specs, handler, containerd):
    """Exclusions that no spec of a whole run has: cri-tools has renamed or dropped it."""
    return [pattern for pattern in excluded(handler, containerd) if not any(re.search(pattern, spec.name) for spec in specs)]
