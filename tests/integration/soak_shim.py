# SPDX-License-Identifier: Apache-2.0
"""kiln's shim for a long time. Not collected by the ordinary suite, for its name; run by hand:

KILN_SOAK_KILLS=200 KILN_SOAK_SECONDS=1800 pytest tests/integration/soak_shim.py
"""
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BACKEND, kiln_only
from engines.containerd import CONTAINERD, CTR, ShimContainerd
from engines.engine import eventually, need, settles
from engines.usage import usage

need(CONTAINERD, CTR)
pytestmark = kiln_only

KILLS = int(os.environ.get("KILN_SOAK_KILLS", "200"))
IN_A_TEST = 10
SECONDS = float(os.environ.get("KILN_SOAK_SECONDS", "60"))
VICTIMS = ["shim", "monitor", "vmm", "fs", *(["qemu"] if BACKEND == "qemu" else []), "guest", "containerd"]
SLEEP = ["sh", "-c", "while :; do sleep 0.1; done"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory, busybox_rootfs):
    made = ShimContainerd(tmp_path_factory.mktemp("soak"), busybox_rootfs)
    yield made
    made.close()


def left(engine):
    return {key: value for key, value in engine.traces().items() if value}


def delete(engine, name):
    engine("task", "delete", "--force", name, check=False)
    eventually(lambda: name not in engine.tasks() or engine("task", "delete", "--force", name, check=False).returncode == 0)
    if name in engine("container", "list", "--quiet").split():
        engine("container", "delete", name)


def strike(engine, victim, name):
    """False: it was not there yet, or not any more."""
    if victim == "containerd":
        engine.kill_daemon()
        engine.start_daemon()
        return True
    if victim == "guest":
        done = engine("task", "exec", "--exec-id", f"panic{time.monotonic_ns()}", name, "sh", "-c",
                      "mount -o remount,rw /proc/sys; echo c > /proc/sysrq-trigger", check=False, timeout=60)
        return done.returncode != 1 or "not found" not in done.stderr
    pids = engine.parts()[victim]
    if not pids:
        return False
    try:
        os.kill(random.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", range(-(-KILLS // IN_A_TEST)))
def test_ten_deaths_at_random_moments(engine, number):
    random.seed(number)
    for kill in range(number * IN_A_TEST, (number + 1) * IN_A_TEST):
        victim = VICTIMS[kill % len(VICTIMS)]
        name = engine.new_name()
        # From before the machine is made until long after its container runs.
        running = engine.start("run", "--detach", *map(str, engine.run_flags()), "--privileged", engine.image, name, *SLEEP)
        if victim == "guest" or kill % 2:
            running.communicate(timeout=120)
        time.sleep(random.random() * 4)
        struck = strike(engine, victim, name)
        running.communicate(timeout=120)
        if struck and victim != "containerd":
            eventually(lambda name=name: engine.tasks().get(name) in (None, "STOPPED"), 60)
        elif running.returncode == 0:
            assert engine.tasks().get(name) == "RUNNING", f"{kill}: {victim}"
        delete(engine, name)
        settles(lambda: left(engine), {}, 60)


def test_containers_come_and_go(engine, record_property):
    """Four at a time; nothing may pile up, in the host or in containerd."""
    def one(number):
        name = engine.new_name(f"s{number}-")
        engine.run("--detach", engine.image, name, *SLEEP)
        done = engine("task", "exec", "--exec-id", "e", name, "sh", "-c", f"echo {number}; exit 3", check=False)
        assert (done.returncode, done.stdout) == (3, f"{number}\n"), done.stderr
        engine("task", "pause", name)
        engine("task", "resume", name)
        engine("task", "metrics", name)
        engine("task", "kill", "--signal", "SIGKILL", name)
        eventually(lambda: engine.tasks().get(name) == "STOPPED")
        engine("task", "delete", name, check=False)
        engine("container", "delete", name)

    count, descriptors = 0, None
    deadline = time.monotonic() + SECONDS
    with ThreadPoolExecutor(4) as pool:
        while time.monotonic() < deadline or count == 0:
            list(pool.map(one, range(count, count + 8)))
            count += 8
            settles(lambda: left(engine), {}, 60)
            now = usage(engine.daemon.pid)[0]
            descriptors = descriptors or now
            assert now <= descriptors + 8, f"containerd: {descriptors} descriptors, after {count} containers {now}"
    record_property("count", count)
