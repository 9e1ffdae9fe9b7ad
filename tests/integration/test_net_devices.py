# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: devices of the namespace that kiln runs in move into the container's."""
import json
import subprocess

import pytest

from conftest import kiln_only
from netns import Namespace, connect, use_namespace
from test_kill9 import wait_for
from test_pods import member_of

pytestmark = kiln_only

V4, V6 = "10.77.0.2", "fd77::2"
PING = "ping -c 1 -W 20 10.77.0.1 >/dev/null && ping -6 -c 1 -W 20 fd77::1 >/dev/null && echo reached"


@pytest.fixture
def outside():
    """The other end of what moves."""
    namespace = Namespace()
    yield namespace
    namespace.close()


@pytest.fixture
def runtime(outside):
    """The namespace that kiln runs in; `ext0` leads outside, and is configured."""
    namespace = Namespace()
    connect(namespace, "ext0", outside, "peer0")
    for owner, name, last in ((namespace, "ext0", 2), (outside, "peer0", 1)):
        owner.ip("address", "add", f"10.77.0.{last}/24", "dev", name)
        owner.ip("address", "add", f"fd77::{last}/64", "dev", name, "nodad")
    namespace.ip("link", "set", "ext0", "mtu", "1400")
    yield namespace
    namespace.close()


@pytest.fixture
def target():
    """A namespace that a config names, as an engine's."""
    namespace = Namespace()
    yield namespace
    namespace.close()


def inside(kiln, namespace, *words, check=True):
    """A kiln command that runs in a namespace, and sees the same mounts. Its output is a file: a container keeps it."""
    path = kiln.directory / "output"
    with open(path, "w", encoding="utf-8") as output:
        done = subprocess.run(["nsenter", f"--net={namespace.path}", *kiln.command(*words)], env=kiln.environment,
                              stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=180)
    text = path.read_text()
    assert (done.returncode == 0) == check, text
    return text


def moving(devices, path="", more=None):
    """A patch of a spec; `devices`: {name: name in the container or None}."""
    def patch(spec):
        use_namespace(path)(spec)
        spec["linux"]["netDevices"] = {name: {"name": new} if new else {} for name, new in devices.items()}
        if more is not None:
            more(spec)
    return patch


def addresses(links, name):
    """Of global scope, as `ip -j address` has them."""
    link = next(link for link in links if link["ifname"] == name)
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"] if entry["scope"] == "global"}


def assert_untouched(runtime):
    links = runtime.json("address")
    ext0 = next(link for link in links if link["ifname"] == "ext0")
    assert "UP" in ext0["flags"] and ext0["mtu"] == 1400
    assert addresses(links, "ext0") == {f"{V4}/24", f"{V6}/64"}


def test_a_device_comes_with_its_addresses_and_a_new_name(kiln, runtime, outside):
    runtime.ip("address", "add", "10.78.0.2/24", "dev", "ext0", "valid_lft", "1000", "preferred_lft", "1000")
    mac = next(link["address"] for link in runtime.json("link") if link["ifname"] == "ext0")
    bundle = kiln.bundle(["/bin/sh", "-c", f"ip address show eth7; {PING}"], moving({"ext0": "eth7"}))
    out = inside(kiln, runtime, "run", "--bundle", bundle, kiln.new_id())
    assert f"inet {V4}/24" in out and f"inet6 {V6}/64" in out and mac in out and "mtu 1400" in out
    assert "10.78.0.2" not in out, "an address that ends"
    assert "reached" in out
    # A virtual device ends with the container's own namespace, and its peer with it.
    wait_for(lambda: outside.links() == {"lo"}, "end of the device")
    assert runtime.links() == {"lo"}
    kiln.assert_clean()


def test_names_of_a_template_are_the_first_free_ones(kiln, runtime, outside):
    connect(runtime, "ext1", outside, "peer1")
    bundle = kiln.bundle(["ls", "/sys/class/net"], moving({"ext0": "net%d", "ext1": "net%d"}))
    assert inside(kiln, runtime, "run", "--bundle", bundle, kiln.new_id()).split() == ["lo", "net0", "net1"]


@pytest.mark.parametrize("kind", ["dummy", "macvlan"])
def test_other_kinds_of_devices(kiln, runtime, kind):
    link = ["link", "add", "other0", *(["link", "ext0"] if kind == "macvlan" else []), "type", kind]
    if subprocess.run(["ip", "-n", runtime.name, *link], stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip(f"this host's kernel has no {kind} devices")
    runtime.ip("address", "add", "10.79.0.1/24", "dev", "other0")
    # It is down, and comes up.
    bundle = kiln.bundle(["ip", "address", "show", "other0"], moving({"other0": None}))
    out = inside(kiln, runtime, "run", "--bundle", bundle, kiln.new_id())
    assert "inet 10.79.0.1/24" in out and ",UP" in out
    assert runtime.links() >= {"lo", "ext0"}


def test_a_device_stays_in_a_namespace_of_somebody_elses(kiln, runtime, target):
    container = kiln.new_id()
    bundle = kiln.bundle(["/bin/sh", "-c", PING], moving({"ext0": None}, target.path))
    inside(kiln, runtime, "create", "--bundle", bundle, container)
    assert target.queues() >= {"ext0"} and runtime.links() == {"lo"}
    kiln("start", container, check=True)
    kiln.wait_status(container, "stopped")
    kiln("delete", container, check=True)
    assert target.links() == {"lo", "ext0"} and target.queues() == set()
    assert addresses(target.json("address"), "ext0") == {f"{V4}/24", f"{V6}/64"}
    kiln.assert_clean()


@pytest.mark.parametrize("devices, words", [
    ({"ext0": None, "gone0": None}, "network device `gone0`: there is no such device"),
    ({"ext0": None, "second0": "taken0"}, "network device `second0`: the container's network namespace has a `taken0` already"),
    ({"ext0": None, "second0": "a%db%d"}, "network device `second0`: `a%db%d`: a name may have one `%d`"),
    ({"ext0": None, "lo": "lo1"}, "network device `lo`: a VM can have Ethernet devices only"),
    ({"br0": None, "ext0": None}, "network device `br0`: a VM can have Ethernet devices only"),
], ids=["missing", "taken", "template", "loopback", "bridge"])
def test_what_cannot_move_leaves_all_where_they_were(kiln, runtime, target, devices, words):
    runtime.ip("link", "add", "second0", "type", "veth", "peer", "name", "second1")
    runtime.ip("link", "add", "br0", "type", "bridge")
    target.ip("link", "add", "taken0", "type", "veth", "peer", "name", "taken1")
    bundle = kiln.bundle(["true"], moving(devices, target.path))
    done = inside(kiln, runtime, "run", "--bundle", bundle, kiln.new_id(), check=False)
    assert words in done
    assert_untouched(runtime)
    assert target.links() == {"lo", "taken0", "taken1"}
    kiln.assert_clean()


def test_a_create_that_fails_later_gives_them_back(kiln, runtime, target):
    def fail(spec):
        spec["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    for path in (target.path, ""):
        bundle = kiln.bundle(["true"], moving({"ext0": "eth7"}, path, fail))
        done = inside(kiln, runtime, "create", "--bundle", bundle, kiln.new_id(), check=False)
        assert "createRuntime" in done
        assert_untouched(runtime)
    assert target.links() == {"lo"} and runtime.queues() == set()
    kiln.assert_clean()


def test_a_member_of_a_pod_brings_one(kiln, runtime, target):
    first = kiln.start_sleeper(use_namespace(target.path))
    member = kiln.new_id()
    bundle = kiln.bundle(["/bin/sh", "-c", f"{PING}; sleep 1000"],
                         member_of(kiln, first, more=lambda spec: spec["linux"].update(netDevices={"ext0": {"name": "eth7"}})))
    inside(kiln, runtime, "create", "--bundle", bundle, member)
    assert f"inet {V4}/24" in kiln("exec", first, "ip", "address", "show", "eth7", check=True).stdout
    kiln("delete", "--force", member, check=True)
    assert "eth7" in target.links()
    assert f"inet {V4}/24" in kiln("exec", first, "ip", "address", "show", "eth7", check=True).stdout


def test_a_member_of_a_pod_that_has_no_room_is_refused(kiln, runtime, target):
    kiln.write_config(kiln.config.read_text() + "network:\n  spare_interfaces: 0\n")
    first = kiln.start_sleeper(use_namespace(target.path))
    bundle = kiln.bundle(["true"], member_of(kiln, first, more=lambda spec: spec["linux"].update(netDevices={"ext0": {}})))
    done = inside(kiln, runtime, "create", "--bundle", bundle, kiln.new_id(), check=False)
    assert "no network device left for `ext0`" in done
    assert_untouched(runtime)


def test_where_they_are_refused(kiln, runtime):
    bundle = kiln.bundle(["true"], moving({"ext0": None}))
    rootless = inside(kiln, runtime, "--rootless", "true", "run", "--bundle", bundle, kiln.new_id(), check=False)
    assert "/linux/netDevices: only root can move network devices" in rootless

    kiln.write_config(kiln.config.read_text() + "network:\n  mode: passt\n")
    passt = inside(kiln, runtime, "run", "--bundle", bundle, kiln.new_id(), check=False)
    assert "/linux/netDevices: the network mode passt" in passt
    assert_untouched(runtime)
    assert json.loads(kiln("features", check=True).stdout)["linux"]["netDevices"] == {"enabled": True}
