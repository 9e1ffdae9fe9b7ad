# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what it promises to whoever runs a command in it. Needs root, the build's kiln-vmm and QEMU."""
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

import integration
import lab
import lab_image
import lab_kernel
import lab_machine

HERE = pathlib.Path(__file__).resolve().parent
TIMEOUT = 300  # s for one boot: an emulated machine on a busy one

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="shares / of this host, as root")


def run(*arguments, timeout=TIMEOUT, **options):
    return subprocess.run([sys.executable, HERE / "lab.py", "--timeout", str(timeout), *map(str, arguments)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=3 * timeout + 60, check=False, **options)


def compile_static(source, directory):
    program = directory / pathlib.Path(source).stem
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, HERE / source], check=True)
    return program


def ours(mark):
    """Processes whose environment or command line holds `mark`."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes())
        except OSError:
            continue
    return found


# -- without a machine

def test_archive_is_what_cpio_unpacks(tmp_path):
    archive = lab_image.Cpio()
    archive.file("a/b/file", b"12345", 0o640)
    archive.link("a/link", "b/file")
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive.bytes(), cwd=tmp_path, check=True)
    assert (tmp_path / "a/link").read_bytes() == b"12345"
    assert (tmp_path / "a/b/file").stat().st_mode & 0o777 == 0o640


def test_archive_refuses_a_second_file_of_the_same_name():
    archive = lab_image.Cpio()
    archive.file("init", b"1")
    with pytest.raises(ValueError, match="twice"):
        archive.file("init", b"2")


def test_modules_come_after_what_they_need(tmp_path):
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (tmp_path / "modules.dep").write_text("kernel/c.ko: kernel/b-x.ko kernel/a.ko\nkernel/b-x.ko: kernel/a.ko\n"
                                          "kernel/a.ko:\n")
    kernel = lab_kernel.Kernel(tmp_path / "vmlinuz", tmp_path)
    names = [path.name for path in kernel.module_files(["b_x", "ext4", "c"])]
    assert names == ["a.ko", "b-x.ko", "c.ko"]


def test_module_that_is_nowhere_is_an_error(tmp_path):
    (tmp_path / "modules.builtin").touch()
    (tmp_path / "modules.dep").touch()
    with pytest.raises(lab_kernel.KernelError, match="`kvm`"):
        lab_kernel.Kernel(tmp_path / "vmlinuz", tmp_path).module_files(["kvm"])


def fake_lab(monkeypatch, tmp_path, body):
    """A Lab whose QEMU is a shell script, and a list that grows with each boot."""
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\necho boot >>{tmp_path}/boots\n{body}\n")
    program.chmod(0o755)
    kernel = tmp_path / "vmlinux"
    kernel.touch()
    monkeypatch.setattr(lab_machine, "QEMU", str(program))
    monkeypatch.setattr(lab_machine, "BOOT_SILENCE", 0.5)
    return lab.Lab(["true"], kernel=str(kernel), share=False)


def test_freeze_is_tried_again_and_counted(monkeypatch, tmp_path, capsys):
    frozen = fake_lab(monkeypatch, tmp_path, "exec sleep 1000")
    outcome, failed = frozen.run({}, retries=1)
    assert (outcome.what, failed) == ("froze", 1)
    assert (tmp_path / "boots").read_text().count("boot") == 2
    assert capsys.readouterr().err == "lab: froze, trying again (1)\n"


def test_machine_that_dies_shows_why(monkeypatch, tmp_path):
    dying = fake_lab(monkeypatch, tmp_path, "echo no such cpu >&2; exit 1")
    outcome, _ = dying.run({}, retries=0)
    assert outcome.what == "died"
    assert "no such cpu" in outcome.console


def test_failure_of_the_lab_is_no_status_of_a_command(capsys):
    options = lab.parse(["--timeout", "1", "--", "true"])
    assert lab.report(lab_machine.Outcome("panicked", console="Kernel panic"), options) == lab.LAB_FAILED
    assert "panicked" in capsys.readouterr().err
    assert lab.report(lab_machine.Outcome("timeout"), options) == lab.TIMED_OUT
    assert lab.report(lab_machine.Outcome("exited", 7), options) == 7


# -- with one

@needs_root
def test_command_runs_on_a_kvm_host_with_these_files(tmp_path):
    mark = tmp_path / "mark"
    mark.write_text("from the host\n")
    script = (f"cat {mark}; echo changed >{mark}; cat {mark}; echo to-stderr >&2; "
              "test -c /dev/kvm && grep -q ' svm ' /proc/cpuinfo && echo kvm; "
              "grep -o ' /sys/fs/cgroup cgroup2 ' /proc/mounts; ip -o link show lo | grep -o ,UP; "
              "modprobe veth && ip link add type veth && echo veth; exit 7")
    done = run("--bind", tmp_path, "--", "sh", "-c", script)
    assert done.returncode == 7
    assert done.stderr == "to-stderr\n"
    assert done.stdout.splitlines() == ["from the host", "changed", "kvm", " /sys/fs/cgroup cgroup2 ", ",UP", "veth"]
    assert mark.read_text() == "from the host\n"


@needs_root
def test_kvm_runs_guest_code(tmp_path):
    toy = compile_static("kvm_toy.c", tmp_path)
    done = run("--bind", tmp_path, "--", toy)
    assert (done.returncode, done.stdout) == (0, "sum 5050\n"), done.stderr


@needs_root
def test_too_long_is_124_and_leaves_no_process():
    mark = f"KILN_LAB_TEST_MARK={os.getpid()}-{time.monotonic_ns()}"
    name, value = mark.split("=")
    begin = time.monotonic()
    done = run("--", "sleep", "1000", timeout=5, env={**os.environ, name: value})
    assert done.returncode == lab.TIMED_OUT
    assert "not done after 5 s" in done.stderr
    assert time.monotonic() - begin < 60
    assert ours(mark) == []


@needs_root
def test_panic_is_told_apart_from_a_failing_command():
    done = run("--", "sh", "-c", "echo before; echo c >/proc/sysrq-trigger")
    assert done.returncode == lab.LAB_FAILED
    assert "panicked" in done.stderr
    assert "sysrq" in done.stderr.lower()
    assert "trying again" not in done.stderr


@needs_root
def test_kernel_log_of_a_failing_command_is_kept(tmp_path):
    log = tmp_path / "dmesg"
    done = run("--dmesg", log, "--", "sh", "-c", "echo lab-says-this >/dev/kmsg; exit 3")
    assert done.returncode == 3
    assert "lab-says-this" in log.read_text()


def test_instructions_are_counted_alike_in_two_runs(tmp_path):
    files = [argument for source in ("vtime.c", "kvm_toy.c")
             for program in [compile_static(source, tmp_path)]
             for argument in ("--initramfs-file", f"{program}:/bin/{program.name}")]
    runs = [run("--icount", *files, "--", "vtime", "kvm_toy") for _ in range(2)]
    assert [done.returncode for done in runs] == [0, 0], runs
    assert runs[0].stdout == "sum 5050\n"
    assert runs[0].stderr.startswith("vtime start ")
    assert runs[0].stderr == runs[1].stderr


# -- the integration suite's runner

class FakeLab:
    """Reports `passing` tests, then ends in its own way."""

    def __init__(self, passing, outcome):
        self.passing = passing
        self.outcome = outcome

    def boot(self, sinks):
        for name in self.passing:
            line = json.dumps({"name": name, "outcome": "passed", "detail": "", "seconds": 1.0, "retries": 0}) + "\n"
            for part in (line[:7], line[7:]):  # a channel's pieces end anywhere
                sinks["events"](part.encode())
        return self.outcome


def run_in_fakes(monkeypatch, tests, labs):
    cases, left = [], list(labs)
    runner = integration.Run(tests, cases.append, integration.parse([]), {"KILN_TEST_BUILD": "/build"})
    monkeypatch.setattr(runner, "_lab", lambda: (list(runner.left), left.pop(0)))
    runner.run()
    assert left == []
    return runner, [(case.name, case.outcome, case.retries) for case in cases]


FROZE = lab_machine.Outcome("froze", console="the last line")


def test_freeze_goes_on_with_the_test_that_ran(monkeypatch, capsys):
    runner, cases = run_in_fakes(monkeypatch, ["a", "b", "c"],
                                 [FakeLab("a", FROZE), FakeLab("bc", lab_machine.Outcome("exited", 0))])
    assert cases == [("a", "passed", 0), ("b", "passed", 1), ("c", "passed", 0)]
    assert (runner.boots, sum(runner.interrupted.values())) == (2, 1)
    assert "froze during b" in capsys.readouterr().err


def test_test_that_ends_every_lab_fails_and_the_rest_runs(monkeypatch):
    _, cases = run_in_fakes(monkeypatch, ["a", "b"],
                            [FakeLab("", FROZE), FakeLab("", FROZE), FakeLab("b", lab_machine.Outcome("exited", 0))])
    assert cases == [("a", "failed", 1), ("b", "passed", 0)]


def test_tests_that_pytest_never_reached_have_failed(monkeypatch):
    _, cases = run_in_fakes(monkeypatch, ["a", "b"], [FakeLab("a", lab_machine.Outcome("exited", 3))])
    assert cases == [("a", "passed", 0), ("b", "failed", 0)]
