# SPDX-License-Identifier: Apache-2.0
"""The container sees the interfaces of its network namespace, and they are left as they were."""
import json
import os
import signal
import subprocess
import time

import pytest

from conftest import deadline_in, kiln_only
from netns import Namespace, connect, ip, use_namespace

pytestmark = kiln_only


@pytest.fixture
def inside():
    """The container's namespace."""
    namespace = Namespace()
    yield namespace
    namespace.close()


@pytest.fixture
def outside():
    """A network that the container reaches."""
    namespace = Namespace()
    yield namespace
    namespace.close()


@pytest.fixture
def pair(inside, outside):
    """eth0 inside, with addresses of both families and a default route to the outside."""
    connect(inside, "eth0", outside, "peer")
    outside.ip("addr", "add", "10.90.0.1/24", "dev", "peer")
    outside.ip("addr", "add", "fd90::1/64", "dev", "peer", "nodad")
    inside.ip("addr", "add", "10.90.0.2/24", "broadcast", "10.90.0.255", "dev", "eth0")
    inside.ip("addr", "add", "fd90::2/64", "dev", "eth0", "nodad")
    inside.ip("route", "add", "default", "via", "10.90.0.1")
    inside.ip("route", "add", "10.91.0.0/16", "via", "10.90.0.1", "metric", "77", "mtu", "1400")
    inside.ip("route", "add", "fd91::/48", "via", "fd90::1")
    inside.ip("neigh", "add", "10.90.0.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0", "nud", "permanent")
    return inside


def assert_untouched(namespace, links):
    """Nothing of ours in it."""
    deadline = deadline_in(10)
    while (namespace.links() != links or namespace.queues()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert namespace.links() == links
    assert namespace.queues() == set()


def addresses(namespace):
    return {(link["ifname"], link["address"], link["mtu"], info["local"], info["prefixlen"])
            for link in namespace.json("addr") for info in link["addr_info"] if not info["local"].startswith("fe80")}


def exec_until(kiln, container, script, wanted, timeout=30):
    deadline = deadline_in(timeout)
    while True:
        out = kiln("exec", container, "/bin/sh", "-c", script)
        if wanted(out.stdout):
            return out.stdout
        assert time.monotonic() < deadline, f"{script}: {out.stdout}{out.stderr}"
        time.sleep(0.1)


def test_has_what_the_namespace_has_and_reaches_the_outside(kiln, pair, outside, tmp_path):
    pair.ip("link", "set", "eth0", "mtu", "9000")
    outside.ip("link", "set", "peer", "mtu", "9000")
    outside.serve(tmp_path)
    before = addresses(pair)
    mac = pair.json("link", "show", "eth0")[0]["address"]
    out = kiln.sh("""
        ls /sys/class/net | tr '\\n' ' '; echo
        ip addr show eth0; ip -6 addr show eth0; ip route; ip -6 route; ip neigh; echo ---
        ping -c 1 -W 5 10.90.0.1 && ping -c 1 -W 5 fd90::1 && ping -c 1 -W 5 -s 8900 10.90.0.1 && echo pings
        wget -q -O- http://10.90.0.1/ && wget -q -O- 'http://[fd90::1]/'
    """, use_namespace(pair.path))
    assert out.startswith("eth0 lo \n")
    assert f"link/ether {mac}" in out and "mtu 9000" in out
    assert "inet 10.90.0.2/24 brd 10.90.0.255 scope global eth0" in out
    assert "inet6 fd90::2/64 scope global" in out and "inet6 fe80::" in out
    assert "default via 10.90.0.1 dev eth0" in out
    assert "10.91.0.0/16 via 10.90.0.1 dev eth0  metric 77" in out
    assert "fd91::/48 via fd90::1 dev eth0" in out
    assert "10.90.0.9 dev eth0 lladdr 02:00:00:00:00:09" in out and "PERMANENT" in out
    assert "pings\n" in out
    assert out.count(f"from {outside.name}\n") == 2
    assert_untouched(pair, {"lo", "eth0"})
    assert addresses(pair) == before


CLIENT = """
import socket, time
for _ in range(100):
    try:
        with socket.create_connection(("10.90.0.2", 5000), 5) as s:
            print(s.makefile().read(), end="")
        break
    except OSError:
        time.sleep(0.1)
"""

# Answers every question for an address with 10.1.2.3, over UDP.
NAME_SERVER = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("10.90.0.1", 53))
while True:
    query, peer = server.recvfrom(4096)
    end = query.index(b"\\0", 12) + 5
    a = query[end - 4:end - 2] == b"\\0\\1"
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4" + bytes([10, 1, 2, 3]) if a else b""
    server.sendto(query[:2] + b"\\x81\\x80" + query[4:6] + bytes([0, len(answer) > 0, 0, 0, 0, 0]) + query[12:end] + answer,
                  peer)
"""


def test_tcp_from_outside_udp_and_multicast(kiln, pair, outside):
    container = kiln.start_sleeper(use_namespace(pair.path))
    kiln("exec", "-d", container, "nc", "-l", "-p", "5000", "-e", "echo", "over-tcp", check=True,
         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert outside.run("python3", "-c", CLIENT).stdout == "over-tcp\n"
    outside.popen("python3", "-c", NAME_SERVER)
    exec_until(kiln, container, "nslookup kiln.test 10.90.0.1", lambda text: "10.1.2.3" in text)
    # All nodes of the link answer to this group.
    seen = outside.run("/bin/busybox", "ping", "-6", "-c", "3", "-W", "5", "-I", "peer", "ff02::1", check=False).stdout
    out = kiln("exec", container, "ip", "-6", "addr", "show", "eth0", check=True).stdout
    link_local = next(word.split("/")[0] for word in out.split() if word.startswith("fe80"))
    assert link_local in seen, seen
    kiln("delete", "--force", container, check=True)
    assert_untouched(pair, {"lo", "eth0"})


def test_has_several_interfaces_by_their_names_and_no_bridge(kiln, inside, outside):
    # In an order other than that of their names; the one of the bridge and the bridge are not the container's.
    for name, address in (("zeta", "10.92.0.2/24"), ("eth0", "10.93.0.2/24"), ("alpha", "10.94.0.2/24")):
        connect(inside, name, outside, f"o-{name}")
        inside.ip("addr", "add", address, "dev", name)
        outside.ip("addr", "add", address.replace(".2/", ".1/"), "dev", f"o-{name}")
    inside.ip("link", "add", "mac0", "link", "zeta", "type", "macvlan", "mode", "bridge")
    inside.ip("addr", "add", "10.92.0.3/24", "dev", "mac0")
    inside.ip("link", "set", "mac0", "up")
    inside.ip("tuntap", "add", "tap7", "mode", "tap")
    inside.ip("addr", "add", "10.95.0.2/24", "dev", "tap7")
    inside.ip("link", "add", "br0", "type", "bridge")
    connect(inside, "port", outside, "o-port")
    inside.ip("link", "set", "port", "master", "br0")
    out = kiln.sh("""
        ls /sys/class/net | tr '\\n' ' '; echo
        for i in zeta eth0 alpha tap7; do ip -4 addr show $i | grep inet; done
        for n in 10.92.0.1 10.93.0.1 10.94.0.1; do ping -c 1 -W 5 $n >/dev/null && echo $n answers; done
    """, use_namespace(inside.path))
    assert out.splitlines()[0].split() == ["alpha", "eth0", "lo", "mac0", "tap7", "zeta"]
    for address in ("10.92.0.2/24", "10.93.0.2/24", "10.94.0.2/24", "10.95.0.2/24"):
        assert f"inet {address}" in out
    assert out.count("answers") == 3
    assert_untouched(inside, {"lo", "eth0", "zeta", "alpha", "mac0", "tap7", "br0", "port"})


def test_interfaces_come_change_and_go_while_it_lives(kiln, inside, outside):
    container = kiln.new_id()
    kiln("create", "--bundle", kiln.bundle(["sleep", "1000"], use_namespace(inside.path)), container, check=True,
         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Between create and start, as newer Docker does it: there at once when the process starts.
    connect(inside, "eth0", outside, "o0")
    inside.ip("addr", "add", "10.96.0.2/24", "dev", "eth0")
    outside.ip("addr", "add", "10.96.0.1/24", "dev", "o0")
    kiln("start", container, check=True)
    assert kiln("exec", container, "ping", "-c", "1", "-W", "5", "10.96.0.1").returncode == 0
    # While it runs.
    connect(inside, "eth1", outside, "o1")
    inside.ip("addr", "add", "10.97.0.2/24", "dev", "eth1")
    outside.ip("addr", "add", "10.97.0.1/24", "dev", "o1")
    inside.ip("route", "add", "default", "via", "10.97.0.1")
    exec_until(kiln, container, "ip route", lambda text: "default via 10.97.0.1 dev eth1" in text)
    assert kiln("exec", container, "ping", "-c", "1", "-W", "5", "10.97.0.1").returncode == 0
    # What the container has set itself stays, whatever the host changes.
    kiln("exec", container, "ip", "addr", "add", "10.98.0.7/24", "dev", "eth1", check=True)
    inside.ip("addr", "del", "10.97.0.2/24", "dev", "eth1")
    inside.ip("addr", "add", "10.97.0.22/24", "dev", "eth1")
    out = exec_until(kiln, container, "ip addr show eth1", lambda text: "10.97.0.22/24" in text)
    assert "10.97.0.2/24" not in out and "10.98.0.7/24" in out
    inside.ip("link", "del", "eth1")
    exec_until(kiln, container, "ls /sys/class/net", lambda text: "eth1" not in text)
    # Its device serves another one.
    for number in (2, 3):
        connect(inside, f"eth{number}", outside, f"o{number}")
        exec_until(kiln, container, "ls /sys/class/net", lambda text, n=number: f"eth{n}" in text)
        inside.ip("link", "del", f"eth{number}")
        exec_until(kiln, container, "ls /sys/class/net", lambda text, n=number: f"eth{n}" not in text)
    kiln("delete", "--force", container, check=True)
    assert_untouched(inside, {"lo", "eth0"})


def test_hooks_find_the_new_namespace_by_the_pid_and_run_in_the_hosts(kiln, tmp_path, outside):
    name = "kt" + outside.name[-8:]
    hook = tmp_path / "hook"
    hook.write_text(f"""#!/bin/sh
readlink /proc/self/ns/net > {tmp_path}/hook-ns
pid=$(sed 's/.*"pid": *\\([0-9]*\\).*/\\1/')
ip -n {outside.name} link add {name} type veth peer name eth0 netns $pid || exit 1
ip -n {outside.name} addr add 10.99.0.1/24 dev {name}
ip -n {outside.name} link set {name} up
nsenter -n -t $pid ip addr add 10.99.0.2/24 dev eth0
nsenter -n -t $pid ip link set eth0 up
""")
    hook.chmod(0o755)

    def patch(spec):
        spec["hooks"] = {"prestart": [{"path": str(hook), "env": [f"PATH={os.environ['PATH']}"]}]}
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_NET_RAW")

    out = kiln.sh("ip addr show eth0; ping -c 1 -W 5 10.99.0.1 && echo answers", patch)
    assert "10.99.0.2/24" in out and "answers" in out
    assert (tmp_path / "hook-ns").read_text().strip() == os.readlink("/proc/self/ns/net")


def test_the_hosts_own_network_is_refused(kiln):
    done = kiln.run(["true"], use_namespace(f"/proc/{os.getpid()}/ns/net"))
    assert done.returncode == 1
    assert "is the host's own, which a container in a VM cannot use" in done.stderr
    done = kiln.run(["true"], use_namespace("/proc/self/ns/uts"))
    assert done.returncode == 1 and "is not a network namespace" in done.stderr
    done = kiln.run(["true"], use_namespace("/run/netns/not-there"))
    assert done.returncode == 1 and "network namespace: open `/run/netns/not-there`" in done.stderr
    kiln.assert_clean()


def test_a_second_machine_cannot_have_the_interfaces_of_a_first(kiln, pair, tmp_path):
    container = kiln.start_sleeper(use_namespace(pair.path))
    kiln.root = tmp_path / "other"  # under the same root it would join
    done = kiln.run(["true"], use_namespace(pair.path))
    assert done.returncode == 1
    assert "connect interface `eth0`" in done.stderr and "another virtual machine" in done.stderr
    kiln.root = tmp_path / "state"
    assert kiln("exec", container, "ping", "-c", "1", "-W", "5", "10.90.0.1").returncode == 0
    assert pair.queues() >= {"eth0"}


def test_nothing_is_left_after_the_monitor_was_killed(kiln, pair):
    container = kiln.start_sleeper(use_namespace(pair.path))
    os.kill(kiln.state(container)["pid"], signal.SIGKILL)
    kiln.wait_status(container, "stopped")
    kiln("delete", "--force", container, check=True)
    assert_untouched(pair, {"lo", "eth0"})
    kiln.assert_clean()


def test_a_failed_create_leaves_the_namespace_as_it_was(kiln, pair):
    done = kiln.run(["/not/there"], use_namespace(pair.path))
    assert done.returncode != 0
    assert_untouched(pair, {"lo", "eth0"})
    assert json.loads(ip("-j", "link", "show", "eth0", namespace=pair.name))[0]["operstate"] == "UP"
