# SPDX-License-Identifier: Apache-2.0
"""kiln's files are replaced while a pod of them runs, as a package manager does it."""
import shutil

import pytest

from conftest import BUILD, kiln_only
from engines.cri import VERSIONS, Cri, need_cri
from engines.cri_pod import Pod

pytestmark = kiln_only
need_cri()

FILES = ("containerd-shim-kiln-v2", "kiln-vmm")


@pytest.fixture
def cri(tmp_path, tmp_path_factory):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in FILES:
        shutil.copy(BUILD / name, programs)
    (programs / "guest").symlink_to(BUILD / "guest")

    class Own(Cri):
        pass

    Own.programs = programs
    engine = Own(tmp_path_factory.mktemp("cri"), VERSIONS[0])
    yield engine
    engine.close()


def test_a_pod_goes_on_when_its_programs_are_replaced(cri):
    pod = Pod(cri, "kiln")
    first = pod.container("sleep", "1000")
    boot_id = first.exec("cat", "/proc/sys/kernel/random/boot_id")
    for name in FILES:
        new = cri.programs / f"{name}.new"
        shutil.copy(BUILD / name, new)
        new.rename(cri.programs / name)
    again = pod.container("cat", "/proc/sys/kernel/random/boot_id")
    assert again.wait()["exitCode"] == 0 and again.log() == boot_id
    assert first.exec("echo", "alive") == "alive"
    pod.remove()
