# SPDX-License-Identifier: Apache-2.0
"""A whole distribution through virtio-fs: Debian's own programs, shared libraries, a compiler."""
import re
import subprocess

import pytest

from conftest import Runtime
from debian import debian_rootfs

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <threads.h>

static int count(void* from) {
  int sum = 0;
  for (int i = 0; i < 1000; ++i) sum += i;
  *(int*)from += sum;
  return 0;
}

int main(int argc, char** argv) {
  struct utsname name;
  uname(&name);
  int total = 0;
  thrd_t thread;
  thrd_create(&thread, count, &total);
  thrd_join(thread, NULL);
  printf("%s %d %s\n", name.sysname, total + argc, argv[1]);
  return getenv("CODE") ? atoi(getenv("CODE")) : 0;
}
"""


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    """(Runtime, a running container on the Debian rootfs, the directory on the host that it has at /srv)."""
    kiln = Runtime(tmp_path_factory.mktemp("debian"), None)
    work = kiln.directory / "work"
    work.mkdir()

    def patch(spec):
        spec["process"]["env"] = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
        spec["mounts"] += [
            {"destination": "/srv", "type": "bind", "source": str(work), "options": ["rbind", "rw"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}]
    container = kiln.start_sleeper(patch, rootfs=debian_rootfs(), writable=False)
    yield kiln, container, work
    kiln.close()


def execute(debian, *words, **options):
    kiln, container, _ = debian
    return kiln("exec", container, *words, check=True, timeout=300, **options).stdout


def test_apt_get_version(debian):
    assert re.match(r"apt \d+\.\d+\.\d+", execute(debian, "apt-get", "--version"))


def test_dpkg_sees_the_same_packages_as_the_host(debian):
    listed = execute(debian, "dpkg-query", "-W", "-f", "${Package} ${Version}\n")
    on_host = subprocess.run(["dpkg-query", f"--admindir={debian_rootfs()}/var/lib/dpkg", "-W", "-f",
                              "${Package} ${Version}\n"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert listed == on_host and len(listed.splitlines()) > 80


def test_python(debian):
    out = execute(debian, "python3", "-c", "import os, sys, zlib; "
                  "print(sys.version_info[0], zlib.crc32(b'kiln'), sum(range(10**5)), os.getpid() > 0)")
    assert out.strip() == "3 3911661381 4999950000 True"


def test_compile_and_run_a_c_program(debian):
    _, _, work = debian
    (work / "program.c").write_text(PROGRAM)
    execute(debian, "gcc", "-O2", "-Wall", "-Werror", "-o", "/srv/program", "/srv/program.c")
    assert execute(debian, "/srv/program", "said") == "Linux 499502 said\n"
    assert (work / "program").read_bytes()[:4] == b"\x7fELF"
    # The host runs what the guest has linked.
    on_host = subprocess.run([work / "program", "here"], env={"CODE": "7"}, stdout=subprocess.PIPE, text=True,
                             check=False)
    assert (on_host.returncode, on_host.stdout) == (7, "Linux 499502 here\n")


def test_a_file_tree_reads_the_same_on_both_sides(debian):
    script = "cd /usr/lib/python3.11; find . -type f -name '*.py' -print0 | sort -z | xargs -0 sha256sum | sha256sum"
    on_host = subprocess.run(["/bin/sh", "-c", script.replace("/usr", f"{debian_rootfs()}/usr", 1)],
                             env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, text=True,
                             check=True)
    assert execute(debian, "/bin/sh", "-c", script) == on_host.stdout


def test_perl_and_locales(debian):
    assert execute(debian, "perl", "-e", "print join(',', map { $_ ** 2 } 1..5)") == "1,4,9,16,25"


def test_passwd_entries_resolve(debian):
    assert execute(debian, "getent", "passwd", "_apt").startswith("_apt:x:")
    assert execute(debian, "id", "-un", "1").strip() == "daemon"
