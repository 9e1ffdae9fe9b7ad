# SPDX-License-Identifier: Apache-2.0
"""The counting itself: a runner that miscounts would hide every other failure. Part of ./check lint."""
import io
import json
import pathlib
import stat
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

# pylint: disable=wrong-import-position
import check
import packages
import programs
import pytests
from report import Case, Report


def program(directory, text):
    path = pathlib.Path(directory, "program")
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"name": "unit_x", "cmd": [str(path)], "env": {}, "workdir": None, "timeout": 2}


class ReportTest(unittest.TestCase):
    def test_the_last_line_counts_every_suite(self):
        out = io.StringIO()
        report = Report(out)
        report.run("a", "…", lambda add: [add(Case("x", "passed")), add(Case("y", "skipped", "no disk"))])
        report.run("b", "…", lambda add: add(Case("z", "failed", "why", retries=2)))
        self.assertEqual(report.finish(), 1)
        lines = out.getvalue().splitlines()
        self.assertEqual(lines[-1], "1 passed, 1 failed, 1 skipped")
        self.assertIn("   skipped y: no disk", lines)
        self.assertIn("2 retries", lines)

    def test_a_suite_that_raises_fails_and_the_next_runs(self):
        report = Report(io.StringIO())

        def broken(add):
            add(Case("x", "passed"))
            raise OSError("no compiler")

        report.run("a", "…", broken)
        report.run("b", "…", lambda add: add(Case("y", "passed")))
        self.assertEqual((report.total("passed"), report.total("failed")), (2, 1))

    def test_a_suite_without_a_test_fails(self):
        report = Report(io.StringIO())
        report.run("a", "…", lambda add: None)
        self.assertEqual(report.finish(), 1)


class ProgramsTest(unittest.TestCase):
    def cases(self, text):
        with tempfile.TemporaryDirectory() as directory:
            return [(case.name, case.outcome) for case in programs.gtest_cases(program(directory, text), {})]

    def test_a_crash_counts_what_was_done_and_what_was_not(self):
        self.assertEqual(
            self.cases("echo '[ RUN      ] A.B'; echo '[       OK ] A.B (0 ms)'; echo '[ RUN      ] A.C'; kill -SEGV $$"),
            [("unit_x A.B", "passed"), ("unit_x A.C", "failed")])

    def test_a_program_that_hangs_is_ended(self):
        self.assertEqual(self.cases("echo '[ RUN      ] A.B'; sleep 100"), [("unit_x A.B", "failed")])

    def test_a_bad_exit_after_good_cases_fails(self):
        report = '<testsuites><testcase name="B" classname="A" status="run" time="0"/></testsuites>'
        self.assertEqual(self.cases(f"echo '{report}' > ${{1#--gtest_output=xml:}}; exit 1"),
                         [("unit_x A.B", "passed"), ("unit_x at its end", "failed")])

    def test_skips_carry_their_reason(self):
        report = ('<testsuites><testcase name="B" classname="A" status="run" result="skipped" time="0">'
                  '<skipped message="no KVM"/></testcase></testsuites>')
        with tempfile.TemporaryDirectory() as directory:
            test = program(directory, f"echo '{report}' > ${{1#--gtest_output=xml:}}")
            case, = programs.gtest_cases(test, {})
        self.assertEqual((case.outcome, case.detail), ("skipped", "no KVM"))


class PytestTest(unittest.TestCase):
    def cases(self, text, workers=1, timeout=60):
        found = []
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "test_x.py")
            path.write_text(text)
            pytests.run_pytest([str(path)], found.append, workers=workers, timeout=timeout)
        return sorted((case.name.split("::")[-1], case.outcome, case.retries) for case in found)

    TEXT = ("import pytest\n"
            "def test_a(record_property): record_property('retries', 1)\n"
            "def test_b(): assert 0\n"
            "def test_c(): pytest.skip('why')\n"
            "@pytest.fixture\n"
            "def bad():\n  yield\n  assert 0\n"
            "def test_d(bad): pass\n")
    COUNTED = [("test_a", "passed", 1), ("test_b", "failed", 0), ("test_c", "skipped", 0), ("test_d", "failed", 0)]

    def test_each_outcome_is_counted_once(self):
        self.assertEqual(self.cases(self.TEXT), self.COUNTED)

    def test_workers_count_the_same(self):
        self.assertEqual(self.cases(self.TEXT, workers=2), self.COUNTED)

    def test_a_file_that_does_not_load_fails(self):
        self.assertIn("failed", [outcome for _, outcome, _ in self.cases("import nothing_of_that_name\n")])

    def test_what_hangs_is_counted_as_failed_and_what_was_done_stays(self):
        cases = self.cases("import time\ndef test_a(): pass\ndef test_b(): time.sleep(100)\n", timeout=3)
        self.assertIn(("test_a", "passed", 0), cases)
        self.assertIn("failed", [outcome for _, outcome, _ in cases])


class OptionsTest(unittest.TestCase):
    def test_groups_and_defaults(self):
        self.assertEqual(check.parse(["quick"])[0], ["lint", "unit", "smoke"])
        self.assertEqual(check.parse(["--test", "tests/integration/test_fs.py"])[0], ["integration"])

    def test_packages_have_groups(self):
        with tempfile.NamedTemporaryFile("w", suffix=".list") as file:
            file.write("[build]\ng++  # the compiler\n\n[run]\nqemu\n")
            file.flush()
            self.assertEqual(packages.listed(["run", "build"], pathlib.Path(file.name)), ["qemu", "g++"])
            with self.assertRaises(packages.PackageError):
                packages.listed(["none"], pathlib.Path(file.name))

    def test_a_case_survives_the_stream(self):
        self.assertEqual(Case(**json.loads(json.dumps(vars(Case("x", "failed", "…", 1.5, 2))))).retries, 2)


if __name__ == "__main__":
    unittest.main()
