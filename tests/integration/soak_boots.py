# SPDX-License-Identifier: Apache-2.0
"""Boots in a row, without one failure. Not collected by the ordinary suite, for its name.

KILN_SOAK_BOOTS says how many in all (default: 200). They are counted in tens: what ends the host, an emulated one for
instance, costs ten.
"""
import os

import pytest

IN_A_TEST = 10
TESTS = -(-int(os.environ.get("KILN_SOAK_BOOTS", "200")) // IN_A_TEST)


@pytest.mark.parametrize("number", range(TESTS))
def test_ten_boots(kiln, number):
    for boot in range(number * IN_A_TEST, (number + 1) * IN_A_TEST):
        done = kiln.run(["/bin/sh", "-c", f"echo {boot}; exit {boot % 100}"])
        assert (done.stdout, done.returncode) == (f"{boot}\n", boot % 100), f"boot {boot}: {done.stderr}"
    kiln.assert_clean()
