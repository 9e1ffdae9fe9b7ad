# SPDX-License-Identifier: Apache-2.0
"""The suites of ./check: for each, what it is and how it runs. `add` takes one Case."""
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import build
import programs
import pytests
from report import Case

INTEGRATION_TIMEOUT = 20 * 60
LAB_TIMEOUT = 40 * 60
SANITIZED = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
}


@dataclasses.dataclass(frozen=True)
class Options:
    werror: bool = False
    jobs: int = 2
    fuzz_seconds: int = 60
    soak_seconds: int = 600
    tests: tuple[str, ...] = ()  # pytest's own selection, for integration


def built(flavour, options, targets=(), live=False):
    with build.locked(flavour):
        build.configure(flavour, options.werror)
        build.build(flavour, targets, live=live)


@functools.cache
def product(options, target="programs"):
    """What `target` names in build/, once for all suites; every suite that needs a build that fails says so."""
    built(build.PRODUCT, options, [target], live=sys.stdout.isatty())


def unit(add, options):
    """As a user's programs are compiled. By default they run under the sanitizers alone, which see more."""
    product(options, "all")
    programs.run_programs(build.PRODUCT, ["unit"], add)


def sanitize(add, options):
    built(build.SANITIZE, options)
    programs.run_programs(build.SANITIZE, ["unit", "fuzz"], add, SANITIZED, slowdown=4)


def kvm(add, options):
    """The built-in machine on this host's /dev/kvm, whatever is behind it: tests/payloads."""
    product(options)
    product(options, "payloads")
    programs.run_programs(build.PRODUCT, ["kvm"], add)


def threads(add, options):
    """Where threads meet: the built-in machine's, driven by guests with several vCPUs, and the shim's."""
    built(build.THREADS, options, ["kiln-vmm", "payloads", "shim/unit_workers"])
    programs.run_programs(build.THREADS, ["kvm", "threads"], functools.partial(_renamed, add, "threads "), slowdown=4)


def _renamed(add, prefix, case):
    """The same programs run in another suite under their plain names."""
    add(dataclasses.replace(case, name=prefix + case.name))


def lint(add, _options):
    sys.path.insert(0, str(build.TOP / "tests/lint"))
    import lint as table  # pylint: disable=import-outside-toplevel
    for check in table.CHECKS:
        begin = time.monotonic()
        found = list(check())
        add(Case(f"lint {table.name_of(check)}", "failed" if found else "passed", "\n".join(found),
                 time.monotonic() - begin))
    # The runner's own tests: what miscounts would hide every other finding.
    pytests.run_pytest(["tests/run/run_test.py"], add, workers=1, timeout=120)


def _pytest(add, options, arguments, workers, timeout, environment=None):
    product(options)
    environment = {"KILN_TEST_BUILD": str(build.PRODUCT.path), **(environment or {})}
    pytests.run_pytest(arguments, add, workers=workers, timeout=timeout, environment=environment)


def smoke(add, options):
    _pytest(add, options, ["tests/integration/test_smoke.py"], 1, 300)


def _import_engines():
    """tests/integration/engines, for the build of `product`."""
    os.environ["KILN_TEST_BUILD"] = str(build.PRODUCT.path)
    sys.path.insert(0, str(build.TOP / "tests/integration"))
    import engines.cri  # pylint: disable=import-outside-toplevel
    import engines.critest  # pylint: disable=import-outside-toplevel
    return engines


def integration(add, options):
    if not options.tests:
        # Once and for all, and not in the tests' time. Where it fails, the tests that need them say why.
        with contextlib.suppress(Exception):
            _import_engines().go_programs.build_all()
    _pytest(add, options, list(options.tests) or ["tests/integration"], options.jobs, INTEGRATION_TIMEOUT)


# What the built-in machine is tried with in each run: boots, disks, ends of every kind. The whole suite is
# `lab-integration`.
LAB_TESTS = ("test_smoke", "test_block", "test_box", "test_confinement", "test_kill9", "test_pod_disks")


def lab_kvm(add, options):
    """A part of the integration suite on the built-in machine, in a lab."""
    tests = [f"tests/integration/{name}.py" for name in LAB_TESTS]
    arguments = ("--backend", "kvm", "--labs", str(options.jobs), *tests)
    lab_integration(add, dataclasses.replace(options, tests=arguments))


def lab(add, options):
    """No worker beside it: an emulated machine takes a whole CPU."""
    _pytest(add, options, ["tests/lab/test_lab.py"], 1, LAB_TIMEOUT)


def lab_integration(add, options):
    """On the backend that KILN_TEST_BACKEND names."""
    product(options)
    sys.path.insert(0, str(build.TOP / "tests/lab"))
    import integration as in_lab  # pylint: disable=import-outside-toplevel
    os.environ["KILN_TEST_BUILD"] = str(build.PRODUCT.path)
    boots, ended = in_lab.run(add, in_lab.parse(list(options.tests)))
    print(f"   {boots} labs, {ended} of them froze, panicked or died", flush=True)


def cri(add, options):
    """cri-tools' critest, each of its specs a Case, under every containerd and runtime handler of engines/cri.py."""
    product(options)
    engines = _import_engines()
    if reason := engines.cri.missing():
        add(Case("critest", "skipped", reason))
        return
    engines.go_programs.build_all()
    for version, handler in engines.cri.PAIRS:
        with tempfile.TemporaryDirectory(prefix="kiln-cri-") as directory:
            name = f"critest {handler} containerd{version}"
            specs = engines.critest.run_whole(directory, handler, version)
        for spec in specs:
            add(Case(f"{name} {spec.name}", spec.outcome, spec.detail, spec.seconds))


def kubernetes(add, options):
    """A cluster of one node, of Kubernetes' own programs; building them takes a quarter of an hour once."""
    product(options)
    go_programs = _import_engines().go_programs
    with contextlib.suppress(go_programs.Unavailable):  # the tests say it
        for name in (*go_programs.PROGRAMS, *go_programs.SLOW_PROGRAMS):
            go_programs.program(name)
    _pytest(add, options, ["tests/integration/soak_kubernetes.py"], 1, INTEGRATION_TIMEOUT)


def soak(add, options):
    seconds = {"KILN_SOAK_SECONDS": str(options.soak_seconds)}
    _pytest(add, options, ["tests/integration/soak_lifecycle.py"], 1, options.soak_seconds + 600, seconds)
    # Two hundred deaths take a quarter of an hour, twenty pods with each containerd some minutes.
    _pytest(add, options, ["tests/integration/soak_shim.py", "tests/integration/soak_cri.py"], 1, options.soak_seconds + 3600,
            seconds)


def bench(add, options):
    """Each program of tests/bench prints its table, and ends with 1 when a figure misses its bound."""
    product(options)
    for path in sorted((build.TOP / "tests/bench").glob("*.py")):
        if '__name__ == "__main__"' not in path.read_text():
            continue  # a module of theirs
        begin = time.monotonic()
        done = subprocess.run(["/usr/bin/python3", str(path), "--build", str(build.PRODUCT.path)], cwd=build.TOP,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout, flush=True)
        add(Case(f"bench {path.stem}", "failed" if done.returncode else "passed", f"exit status {done.returncode}",
                 time.monotonic() - begin))


def fuzz(add, options):
    """Every fuzzer for options.fuzz_seconds, from its seeds; new inputs stay in build-fuzz/corpus/NAME."""
    built(build.FUZZ, options)
    for binary in sorted((build.FUZZ.path / "tests/fuzz").glob("fuzz_*")):
        if binary.is_file() and os.access(binary, os.X_OK):
            add(_fuzz_one(binary, options.fuzz_seconds))


def _fuzz_one(binary, seconds):
    name = binary.name.removeprefix("fuzz_")
    grown = build.FUZZ.path / "corpus" / name
    artifacts = build.FUZZ.path / "artifacts" / name
    for directory in (grown, artifacts):
        directory.mkdir(parents=True, exist_ok=True)
    command = [str(binary), f"-max_total_time={seconds}", f"-artifact_prefix={artifacts}/", "-timeout=10",
               "-rss_limit_mb=2048", "-print_final_stats=1", str(grown),
               str(build.TOP / "tests/fuzz/corpus" / name)]
    begin = time.monotonic()
    status, output = programs.run_bounded(command, seconds + 120, env={**os.environ, **SANITIZED})
    runs = next((line.rsplit(":", 1)[1].strip() for line in output.splitlines() if "number_of_executed_units" in line), "?")
    print(f"   {binary.name}: {runs} runs in {seconds} s, {len(list(grown.iterdir()))} inputs kept", flush=True)
    detail = f"exit status {status}; inputs in {artifacts}\n{output}"
    return Case(f"fuzz {name}", "passed" if status == 0 else "failed", detail, time.monotonic() - begin)


def tidy(add, options):
    """clang-tidy over every source that the build compiles, each counted."""
    with build.locked(build.PRODUCT):
        build.configure(build.PRODUCT, options.werror)  # no generated headers, so nothing needs to be built
    commands = json.loads((build.PRODUCT.path / "compile_commands.json").read_text())
    sources = sorted({os.path.realpath(os.path.join(entry["directory"], entry["file"])) for entry in commands})
    sources = [path for path in sources if pathlib.Path(path).is_relative_to(build.TOP)]

    def one(path):
        begin = time.monotonic()
        done = subprocess.run(["clang-tidy-14", "--quiet", "-p", str(build.PRODUCT.path), path], cwd=build.TOP,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        add(Case(f"tidy {os.path.relpath(path, build.TOP)}", "failed" if done.returncode else "passed", done.stdout,
                 time.monotonic() - begin))

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, sources))


# name: (what the heading says, function)
SUITES = {
    "unit": ("unit tests", unit),
    "sanitize": ("unit tests and fuzzers' corpora under address and undefined-behaviour sanitizers", sanitize),
    "lint": ("layers, format, names, documents", lint),
    "kvm": ("freestanding guests on /dev/kvm", kvm),
    "threads": ("what has threads under the thread sanitizer", threads),
    "smoke": ("one microVM", smoke),
    "integration": ("the real programs on real bundles, in microVMs", integration),
    "lab": ("a KVM host that QEMU emulates", lab),
    "lab-kvm": ("the built-in machine with a Linux guest, in a lab", lab_kvm),
    "lab-integration": ("the integration suite on KVM, in a lab", lab_integration),
    "cri": ("what Kubernetes asks of a runtime: cri-tools' critest", cri),
    "kubernetes": ("pods of a real cluster of one node", kubernetes),
    "fuzz": ("libFuzzer on every parser and device", fuzz),
    "tidy": ("clang-tidy", tidy),
    "bench": ("figures, with the peer in the same run", bench),
    "soak": ("the same for a long time: nothing may pile up", soak),
}
DEFAULT = ["lint", "sanitize", "kvm", "threads", "integration", "lab", "lab-kvm"]
GROUPS = {"quick": ["lint", "unit", "smoke"], "all": [name for name in SUITES if name != "smoke"]}

