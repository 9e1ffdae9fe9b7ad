# SPDX-License-Identifier: Apache-2.0
"""The images that cri-tools' tests pull, made of Debian's static busybox and one small program (cri_image.c).

Names, users and programs are those of cri-tools' pkg/validate and images/; what is in them is not.
"""
import pathlib
import subprocess
import tarfile

from conftest import BUSYBOX

E2E = "e2e-test-images"
STAGING = "k8s-staging-cri-tools"
SANDBOX = "registry.k8s.io/pause:3.10"  # not that which the tests remove
IMAGE = f"registry.k8s.io/{E2E}/busybox:1.29-2"
WEB_SERVER = f"registry.k8s.io/{E2E}/nginx:1.14-2"

PASSWD = """root:x:0:0:root:/root:/bin/sh
www-data:x:33:33::/home:/bin/sh
nobody:x:65534:65534::/home:/bin/sh
"""
GROUP = "root:x:0:\nwww-data:x:33:\nnobody:x:65534:\n"


def entry(name, mode=0o755, kind=tarfile.REGTYPE, data=None, link=""):
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.linkname, info.size = mode, kind, link, len(data or b"")
    return info, data


def directory(name, mode=0o755):
    return entry(name, mode, tarfile.DIRTYPE)


def _busybox_layer(store, extra):
    """As in busybox's own image the applets are hard links: a mount over one leaves the others alone."""
    entries = [directory(name) for name in ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "var")]
    entries += [directory("tmp", 0o1777), entry("var/run", kind=tarfile.SYMTYPE, link="../run")]
    entries += [entry("etc/passwd", 0o644, data=PASSWD.encode()), entry("etc/group", 0o644, data=GROUP.encode()),
                entry("bin/busybox", data=pathlib.Path(BUSYBOX).read_bytes())]
    applets = subprocess.check_output([BUSYBOX, "--list"], text=True).split()
    entries += [entry(f"bin/{name}", kind=tarfile.LNKTYPE, link="bin/busybox") for name in applets if name != "busybox"]
    return store.add_layer(entries + [entry(f"bin/{name}", data=extra) for name in ("pgrep", "ipcs") if name not in applets])


def _program(scratch):
    source = pathlib.Path(__file__).with_suffix("").parent / "cri_image.c"
    path = scratch / "cri_image"
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", path, source], check=True)
    return path.read_bytes()


def _layer_of(store, name, program, mode=0o755):
    return store.add_layer([entry(f"bin/{name}", mode, data=program)])


def add_images(store, scratch):
    """All of them, into a registry's Store."""
    program = _program(scratch)
    base = _busybox_layer(store, program)
    shell = {"Cmd": ["sh"], "Env": ["PATH=/bin"]}

    def add(references, layers=(), config=None, label=None):
        references = [references] if isinstance(references, str) else references
        store.add_image(references, [base, *layers], {**shell, **(config or {})}, label or references[0])

    add(f"{E2E}/busybox:1.29-2")
    server = _layer_of(store, "nginx", program)
    add(f"{E2E}/nginx:1.14-2", [server], {"Cmd": ["/bin/nginx", "master process", "80"]})
    add(f"{STAGING}/hostnet-nginx-amd64:latest", [server], {"Cmd": ["/bin/nginx", "master process", "12003"]})
    add(f"{E2E}/httpd:2.4.39-4", [_layer_of(store, "httpd", program)], {"Cmd": ["/bin/httpd", "-DFOREGROUND", "80"]})
    add(f"{E2E}/nonewprivs:1.3", [_layer_of(store, "nonewprivs", program, 0o4755)], {"Cmd": ["/bin/nonewprivs"]})
    for version in ("3.9", "3.10"):
        store.add_image([f"pause:{version}"], [_layer_of(store, "pause", program)],
                        {"Entrypoint": ["/bin/pause"], "User": "65535:65535"}, version)
    for name in ("latest", "1", "2", "3"):
        add(f"{STAGING}/test-image-{name}:latest")
    add([f"{STAGING}/test-image-tags:{tag}" for tag in "123"])
    for tag in ("test", "all"):
        add(f"{STAGING}/test-image-tag:{tag}")
    for name, user in (("uid", "1002"), ("username", "www-data"), ("uid-group", "1003:users"),
                       ("username-group", "www-data:100")):
        add(f"{STAGING}/test-image-user-{name}:latest", config={"User": user})
    groups = store.add_layer([
        entry("etc/passwd", 0o644, data=f"{PASSWD}default-user:x:1000:1000::/home:/bin/sh\n".encode()),
        entry("etc/group", 0o644,
              data=f"{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n".encode())])
    add(f"{STAGING}/test-image-predefined-group:latest", [groups], {"User": "1000"})
