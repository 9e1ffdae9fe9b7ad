# SPDX-License-Identifier: Apache-2.0
"""The name server at 127.0.0.11 of a container's network namespace, which Docker has there, seen from the guest."""
import os
import pathlib
import struct
import subprocess
import sys
import time
import uuid

import pytest

from conftest import deadline_in, kiln_only

pytestmark = [kiln_only, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces take root")]

RESOLV_CONF = "nameserver 127.0.0.11\noptions ndots:0\n"


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True)


@pytest.fixture
def namespace():
    """A named network namespace with a name server."""
    name = "kt-" + uuid.uuid4().hex[:8]
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")
    program = pathlib.Path(__file__).with_name("name_server.py")
    server = subprocess.Popen(["ip", "netns", "exec", name, sys.executable, str(program), "127.0.0.11"],
                              stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    yield name
    server.kill()
    server.wait()
    ip("netns", "del", name)


def in_namespace(name, resolv_conf=None, more=None):
    """A patch of config.json: this network namespace, and this file as /etc/resolv.conf."""
    def patch(spec):
        entry = next(entry for entry in spec["linux"]["namespaces"] if entry["type"] == "network")
        entry["path"] = f"/run/netns/{name}"
        if resolv_conf is not None:
            spec["mounts"].append({"destination": "/etc/resolv.conf", "type": "bind", "source": str(resolv_conf),
                                   "options": ["rbind", "ro"]})
        if more is not None:
            more(spec)
    return patch


@pytest.fixture
def resolv_conf(tmp_path):
    file = tmp_path / "resolv.conf"
    file.write_text(RESOLV_CONF)
    return file


def test_a_name_is_looked_up_where_the_container_would_look(kiln, namespace, resolv_conf):
    out = kiln.sh("nslookup -type=a web-10-9-8-7.test", in_namespace(namespace, resolv_conf))
    assert "Address: 10.9.8.7" in out, out
    kiln.assert_clean()


def test_an_unknown_name_is_unknown(kiln, namespace, resolv_conf):
    result = kiln.run(["nslookup", "-type=a", "nobody.test"], in_namespace(namespace, resolv_conf))
    assert result.returncode != 0
    assert "NXDOMAIN" in result.stdout + result.stderr


def test_the_c_library_finds_names(kiln, namespace, resolv_conf):
    """This host's, by way of its own root file system."""
    result = kiln.run(["getent", "hosts", "web-10-9-8-7.test"], in_namespace(namespace, resolv_conf), rootfs="/",
                      writable=False)
    assert result.stdout.split()[:1] == ["10.9.8.7"], result.stdout + result.stderr


def test_the_root_file_systems_own_file_counts(kiln, namespace):
    bundle = kiln.bundle(["nslookup", "-type=a", "web-10-9-8-7.test"], in_namespace(namespace))
    (bundle / "rootfs/etc/resolv.conf").write_text(RESOLV_CONF)
    result = kiln("run", "--bundle", bundle, kiln.new_id(), check=True)
    assert "Address: 10.9.8.7" in result.stdout


def query(name):
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0" + struct.pack(">HH", 1, 1)
    return struct.pack(">HHHHHH", 0x1234, 0x100, 1, 0, 0, 0) + question


def test_long_answers_come_by_tcp(kiln, namespace, resolv_conf, tmp_path):
    message = query("long.test")
    (tmp_path / "query").write_bytes(struct.pack(">H", len(message)) + message)
    def more(spec):
        spec["mounts"].append({"destination": "/query", "type": "bind", "source": str(tmp_path / "query"),
                               "options": ["bind", "ro"]})
    # -w: the server waits for more questions.
    bundle = kiln.bundle(["/bin/sh", "-c", "nc -w 3 127.0.0.11 53 < /query"], in_namespace(namespace, resolv_conf, more))
    out = kiln("run", "--bundle", bundle, kiln.new_id(), text=False).stdout
    assert struct.unpack(">H", out[:2])[0] == len(out) - 2
    identifier, flags, _, answers = struct.unpack(">HHHH", out[2:10])
    assert (identifier, flags & 0x20f, answers) == (0x1234, 0, 300)


def test_many_lookups_leave_nothing_open(kiln, namespace, resolv_conf):
    container = kiln.start_sleeper(in_namespace(namespace, resolv_conf))
    pid = kiln.state(container)["pid"]
    before = len(os.listdir(f"/proc/{pid}/fd"))
    script = "n=0; for i in $(seq 150); do nslookup -type=a x$i-10-0-0-$i.test | grep -q \"Address: 10.0.0.$i\\$\" && n=$((n+1)); done; echo $n"
    assert kiln("exec", container, "/bin/sh", "-c", script, check=True).stdout.strip() == "150"
    deadline = deadline_in(20)
    while len(os.listdir(f"/proc/{pid}/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(os.listdir(f"/proc/{pid}/fd")) == before
    kiln("delete", "--force", container, check=True)
    kiln.assert_clean()


def test_many_at_once_are_all_answered(kiln, namespace, resolv_conf):
    script = "for i in $(seq 40); do nslookup -type=a x-10-0-0-$i.test > /tmp/$i & done; wait; cat /tmp/* | grep -c 'Address: 10.0.0'"
    assert kiln.sh(script, in_namespace(namespace, resolv_conf)).strip() == "40"


def test_other_name_servers_are_not_relayed(kiln, namespace, tmp_path):
    """A container that does not ask for it does not get it."""
    file = tmp_path / "other.conf"
    file.write_text("nameserver 127.0.0.12\n#nameserver 127.0.0.11\n")
    result = kiln.run(["nslookup", "-type=a", "web-10-9-8-7.test", "127.0.0.11"], in_namespace(namespace, file))
    assert result.returncode != 0
    assert "10.9.8.7" not in result.stdout


def test_the_file_may_be_written_by_a_hook(kiln, namespace, tmp_path):
    """Docker knows the name server's address when its hook runs, not before."""
    file = tmp_path / "late.conf"
    file.write_text("nameserver 10.0.0.53\n")
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\nprintf 'nameserver 127.0.0.11\\n' > {file}\n")
    hook.chmod(0o755)
    def more(spec):
        spec["hooks"] = {"prestart": [{"path": str(hook)}]}
    out = kiln.sh("nslookup -type=a web-10-9-8-7.test", in_namespace(namespace, file, more))
    assert "Address: 10.9.8.7" in out, out


def test_the_file_may_change_when_a_network_comes(kiln, namespace, tmp_path):
    """`docker network connect` of a container that runs."""
    file = tmp_path / "late.conf"
    file.write_text("nameserver 10.0.0.53\n")
    container = kiln.start_sleeper(in_namespace(namespace, file))
    file.write_text(RESOLV_CONF)
    peer = "kt" + uuid.uuid4().hex[:8]
    ip("link", "add", peer, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    try:
        ip("-n", namespace, "addr", "add", "10.99.0.2/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        script = "for i in $(seq 50); do nslookup -type=a web-10-9-8-7.test && exit; sleep 0.2; done; exit 1"
        assert "Address: 10.9.8.7" in kiln("exec", container, "/bin/sh", "-c", script, check=True).stdout
    finally:
        kiln("delete", "--force", container)
        ip("link", "del", peer)
