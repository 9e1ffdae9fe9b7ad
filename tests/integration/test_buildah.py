# SPDX-License-Identifier: Apache-2.0
"""buildah, whose RUN steps are microVMs."""
import pytest

from conftest import BOOT_ID
from engines.buildah import BUILDAH, Buildah
from engines.engine import need, settles
from engines.podman import NETAVARK

need(BUILDAH, NETAVARK)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory, busybox_rootfs):
    engine = Buildah(tmp_path_factory.mktemp("buildah"), busybox_rootfs)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def working(buildah):
    buildah("from", "--name", "working", "localhost/busybox")
    return "working"


def test_run_has_its_own_kernel_user_environment_and_code(buildah, working):
    done = buildah("run", "--user", "1000", "--workingdir", "/tmp", "--env", "A=b c", working, "--", "sh", "-c",
                   'cat; id -u; pwd; echo "$A"; cat /proc/sys/kernel/random/boot_id; exit 9', check=False, input="in\n")
    *lines, boot_id = done.stdout.splitlines()
    assert (done.returncode, lines) == (9, ["in", "1000", "/tmp", "b c"]), done.stderr
    assert boot_id != BOOT_ID


def test_what_run_writes_is_in_the_image(buildah, working):
    shared = buildah.directory / "shared"
    shared.mkdir()
    (shared / "file").write_text("of the host\n")
    buildah("run", "--volume", f"{shared}:/shared:ro", working, "--", "sh", "-c",
            "cat /shared/file > /copied; ln -s copied /link; chown 1000:1000 /copied; chmod 640 /copied; rm /bin/vi")
    buildah("commit", "-q", working, "localhost/written")
    buildah("from", "--name", "look", "localhost/written")
    root = buildah("mount", "look")
    assert buildah.inside("cat", f"{root}/link").stdout == "of the host\n"
    assert buildah.inside("stat", "-c", "%u %g %a", f"{root}/copied").stdout == "1000 1000 640\n"
    assert buildah.inside("test", "-e", f"{root}/bin/vi").returncode == 1


def test_bud_runs_its_steps(buildah):
    context = buildah.directory / "context"
    context.mkdir()
    (context / "Containerfile").write_text("""
FROM localhost/busybox AS first
ARG WORD=unsaid
RUN echo "$WORD $(cat /proc/sys/kernel/random/boot_id)" > /words
FROM localhost/busybox
COPY --from=first /words /words
RUN ip addr show eth0 | grep -q 'inet ' && cat /words && echo a network >> /words
""")
    out = buildah("bud", "--build-arg", "WORD=said", "-t", "localhost/built", context)
    assert "said " in out and BOOT_ID not in out
    buildah("from", "--name", "result", "localhost/built")
    root = buildah("mount", "result")
    assert buildah.inside("cat", f"{root}/words").stdout.splitlines()[1] == "a network"


def test_a_step_that_fails_ends_the_build(buildah):
    context = buildah.directory / "failing"
    context.mkdir()
    (context / "Containerfile").write_text("FROM localhost/busybox\nRUN exit 23\n")
    failed = buildah("bud", context, check=False)
    assert failed.returncode != 0 and "exit status 23" in failed.stderr


def test_nothing_is_left(buildah, working):
    buildah("rm", "--all")
    settles(buildah.processes, {})
    assert buildah.interfaces() == [] and buildah.mounts() == []
