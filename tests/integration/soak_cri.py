# SPDX-License-Identifier: Apache-2.0
"""Many pods at once. Not collected by the ordinary suite, for its name."""
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import cgroups_named
from engines.cri import PAIRS, Cri, need_cri
from engines.cri_pod import Pod
from engines.engine import settles

need_cri()
PODS = 20


@pytest.mark.parametrize("version, handler", PAIRS)
def test_twenty_pods_at_once(tmp_path, version, handler):
    engine = Cri(tmp_path, version)
    try:
        def present():
            return {"processes": sorted(engine.processes().values()), "mounts": engine.mounts(),
                    "cgroups": cgroups_named(engine.mark), "pods": engine("pods", "--quiet")}

        def one(_number):
            pod = Pod(engine, handler)
            return pod, pod.container("sh", "-c", "cat /proc/sys/kernel/random/boot_id; sleep 1000")

        first, _ = one(0)  # what there is once and for all
        first.remove()
        before = present()
        with ThreadPoolExecutor(PODS) as pool:
            made = list(pool.map(one, range(PODS)))
        kernels = {container.exec("cat", "/proc/sys/kernel/random/boot_id") for _, container in made}
        assert len(kernels) == (1 if handler == "runc" else PODS)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda pair: pair[0].remove(), made))
        settles(present, before, 60)
    finally:
        engine.close()
