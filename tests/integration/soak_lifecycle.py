# SPDX-License-Identifier: Apache-2.0
"""`./check soak`: the same thing for a long time. Not collected by the ordinary suite, for its name.

KILN_SOAK_SECONDS bounds each test.
"""
import os
import pathlib
import re
import time

SECONDS = float(os.environ.get("KILN_SOAK_SECONDS", "60")) / 2
WARM_UP = 20  # repetitions after which buffers and caches have their size
PSS_GROWTH_KIB = 1024


def usage(kiln):
    """{command line: (open descriptors, PSS in KiB)} of kiln's own processes; QEMU's is the guest's memory."""
    found = {}
    for pid, command in kiln.processes().items():
        if "qemu" in command.split()[0]:
            continue
        proc = pathlib.Path(f"/proc/{pid}")
        pss = re.search(r"^Pss:\s+(\d+) kB", (proc / "smaps_rollup").read_text(), re.M)
        found[f"{pid} {command}"] = (len(list((proc / "fd").iterdir())), int(pss[1]))
    return found


def test_one_container_serves_execs_without_growing(kiln, record_property):
    container = kiln.start_sleeper()
    before, count = {}, 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline or count <= WARM_UP:
        if count == WARM_UP:
            before = usage(kiln)
        done = kiln("exec", container, "/bin/sh", "-c", f"echo {count}; exit {count % 256}")
        assert (done.stdout, done.returncode) == (f"{count}\n", count % 256), done.stderr
        count += 1
    record_property("count", count)
    after = usage(kiln)
    assert before.keys() == after.keys() and before
    for name, (descriptors, pss) in after.items():
        assert descriptors <= before[name][0], f"{name}: {before[name][0]} descriptors, after {count} execs {descriptors}"
        assert pss <= before[name][1] + PSS_GROWTH_KIB, f"{name}: PSS {before[name][1]} KiB, after {count} execs {pss}"


def test_containers_come_and_go_and_leave_nothing(kiln, record_property):
    places = [pathlib.Path(place) for place in ("/dev/shm", "/run", "/sys/fs/cgroup")]
    before = {place: set(os.listdir(place)) for place in places}
    count = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline or count == 0:
        done = kiln.run(["/bin/sh", "-c", f"echo {count}; exit {count % 256}"])
        assert (done.stdout, done.returncode) == (f"{count}\n", count % 256), done.stderr
        kiln.assert_clean()
        count += 1
    record_property("count", count)
    for place in places:
        left = {name for name in set(os.listdir(place)) - before[place] if "kiln" in name}
        assert not left, f"{place}: {left}"
