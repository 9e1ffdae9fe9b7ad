# SPDX-License-Identifier: Apache-2.0
"""A choice of critest's specs, one or more of each kind, in every run; `./check cri` runs all of them."""
import re

import pytest

from engines import critest, go_programs
from engines.cri import HANDLERS, VERSIONS, Cri, need_cri

need_cri()

CHOSEN = (
    "exec with tty=true and stdin=true", "runtime should support attach", "support portforward .Conformance",
    "port mapping with host port", "Multiple Containers", "set hostname", "support DNS config", "stopping container",
    "execSync with timeout", "reopening container log", "container with volume .Conformance", "RunAsUserName",
    "SupplementalGroups$", "ReadOnlyRootfs is true", "ReadonlyPaths", "adding capability", "dropping ALL capabilities",
    "seccomp default on", "should not allow privilege escalation", "unsafe sysctls", "PodPID", "HostIpc is false",
    "listing stats for containers filtered", "removing running container", "removing PodSandbox",
)


@pytest.fixture(scope="module", params=HANDLERS)
def specs(request, tmp_path_factory):
    """What became of CHOSEN under the newest containerd."""
    go_programs.build_all()
    engine = Cri(tmp_path_factory.mktemp("cri"), VERSIONS[-1])
    try:
        return critest.run(engine, request.param, focus=CHOSEN, timeout=600)
    finally:
        engine.close()


def test_no_chosen_spec_fails(specs):
    failed = [f"{spec.name}\n{spec.detail}" for spec in specs if spec.outcome == "failed"]
    assert not failed, "\n\n".join(failed)


def test_every_choice_is_a_spec_that_passes(specs):
    passed = [spec.name for spec in specs if spec.outcome == "passed"]
    assert [pattern for pattern in CHOSEN if not any(re.search(pattern, name) for name in passed)] == []


def test_a_report_is_read_whole():
    """What is excluded, skips itself, fails or breaks outside of a spec; benchmarks count for nothing."""
    def entry(name, state, kind="It", message=""):
        return {"ContainerHierarchyTexts": ["[k8s.io] Group"], "LeafNodeText": name, "LeafNodeType": kind, "State": state,
                "Failure": {"Message": message}, "RunTime": 2 * 10**9}

    report = [{"SpecReports": [
        entry("good", "passed"), entry("bad", "failed", message="why"), entry("lost", "interrupted"), entry("left out", "skipped"),
        entry("not here", "skipped", message="no AppArmor"), entry("benchmark about speed", "skipped"),
        entry("set up", "passed", "BeforeSuite"), entry("", "panicked", "BeforeSuite", "broken")]}]
    found = [(spec.name, spec.outcome, spec.detail.strip()) for spec in critest.read(report, {"left out": "reason"})]
    assert found == [("BeforeSuite Group ", "failed", "broken"), ("Group bad", "failed", "why"), ("Group good", "passed", ""),
                     ("Group left out", "skipped", "reason"), ("Group lost", "failed", ""),
                     ("Group not here", "skipped", "no AppArmor")]
