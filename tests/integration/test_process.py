# SPDX-License-Identifier: Apache-2.0
"""config.json /process: user, environment, capabilities, limits, scheduling, seccomp's neighbours."""
import re

import pytest

from conftest import all_capabilities, kiln_only

# runtime-spec: capability names; bit numbers from <linux/capability.h>.
CAPABILITIES = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_FOWNER": 3, "CAP_FSETID": 4, "CAP_KILL": 5,
    "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8, "CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_NICE": 23, "CAP_MKNOD": 27,
    "CAP_AUDIT_WRITE": 29, "CAP_SETFCAP": 31, "CAP_SYSLOG": 34, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40,
}


def mask(names):
    return sum(1 << CAPABILITIES[name] for name in names)


def proc_status(text):
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.M))


def test_user_groups_umask_cwd_and_environment(kiln):
    def patch(spec):
        spec["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 0o027}
        spec["process"]["cwd"] = "/home/user"
        spec["process"]["env"] = ["PATH=/bin", "GREETING=two words", "EMPTY="]
    lines = kiln.sh("id -u; id -g; id -G; umask; pwd; env | sort; touch /tmp/f; stat -c %a:%u:%g /tmp/f",
                    patch).splitlines()
    assert lines[:5] == ["1000", "1001", "1001 5 7", "0027", "/home/user"]
    assert "GREETING=two words" in lines and "EMPTY=" in lines and "HOME=/home/user" in lines
    assert lines[-1] == "640:1000:1001"


def test_cwd_that_does_not_exist_is_made(kiln):
    assert kiln.sh("pwd", lambda spec: spec["process"].update(cwd="/made/for/this")) == "/made/for/this\n"


@pytest.mark.parametrize("kind, field", [("bounding", "CapBnd"), ("effective", "CapEff"), ("inheritable", "CapInh"),
                                         ("permitted", "CapPrm"), ("ambient", "CapAmb")])
def test_each_capability_set(kiln, kind, field):
    sets = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
        "ambient": ["CAP_NET_RAW"],
    }
    def patch(spec):
        # A user that is not root shows the sets as they are: root's are recomputed by execve(2).
        spec["process"]["user"] = {"uid": 1000, "gid": 1000}
        spec["process"]["capabilities"] = sets
        spec["process"]["args"] = ["/bin/cat", "/proc/self/status"]
    status = proc_status(kiln.run([], patch).stdout)
    # After execve by a user that is not root: permitted and effective become the ambient set (capabilities(7)).
    expected = {**sets, "permitted": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"]}
    assert int(status[field], 16) == mask(expected[kind])


def test_root_has_the_bounding_set_and_no_more(kiln):
    names = ["CAP_CHOWN", "CAP_SETUID", "CAP_MKNOD"]
    status = proc_status(kiln.sh("cat /proc/self/status", lambda spec: all_capabilities(spec, names)))
    assert {int(status[field], 16) for field in ("CapBnd", "CapEff", "CapPrm")} == {mask(names)}


def test_no_capabilities_at_all(kiln):
    def patch(spec):
        all_capabilities(spec, [])
    result = kiln.run(["/bin/sh", "-c", "grep CapEff /proc/self/status; hostname x || echo refused"], patch)
    assert "CapEff:\t0000000000000000" in result.stdout and "refused" in result.stdout


@pytest.mark.parametrize("value", [True, False])
def test_no_new_privileges(kiln, value):
    status = proc_status(kiln.sh("cat /proc/self/status",
                                 lambda spec: spec["process"].update(noNewPrivileges=value)))
    assert status["NoNewPrivs"] == str(int(value))


def test_rlimits(kiln):
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
              {"type": "RLIMIT_FSIZE", "soft": 4096, "hard": 8192}, {"type": "RLIMIT_NPROC", "soft": 50, "hard": 60}]
    text = kiln.sh("cat /proc/self/limits; dd if=/dev/zero of=/tmp/big bs=1k count=100 2>/dev/null; stat -c %s /tmp/big",
                   lambda spec: spec["process"].update(rlimits=limits), check=False)
    assert re.search(r"Max open files\s+100\s+200", text)
    assert re.search(r"Max core file size\s+0\s+0", text)
    assert re.search(r"Max file size\s+4096\s+8192", text)
    assert re.search(r"Max processes\s+50\s+60", text)
    assert text.splitlines()[-1] == "4096"


def test_oom_score_adj(kiln):
    assert kiln.sh("cat /proc/self/oom_score_adj", lambda spec: spec["process"].update(oomScoreAdj=321)) == "321\n"


@kiln_only
def test_scheduler_and_io_priority(kiln):
    def patch(spec):
        spec["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
        spec["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    lines = kiln.sh("cut -d' ' -f19,41 /proc/self/stat; ionice -p $$", patch).splitlines()
    assert lines[0] == "7 3"
    assert lines[1] == "best-effort: prio 6"


@kiln_only
def test_real_time_scheduler(kiln):
    def patch(spec):
        spec["process"]["scheduler"] = {"policy": "SCHED_FIFO", "priority": 10}
    assert kiln.sh("cut -d' ' -f40,41 /proc/self/stat", patch) == "10 1\n"


@kiln_only
def test_personality(kiln):
    assert kiln.sh("uname -m; cat /proc/self/personality",
                   lambda spec: spec["linux"].update(personality={"domain": "LINUX32"})).split() == ["i686", "00000008"]


@kiln_only
def test_hostname_and_domainname(kiln):
    def patch(spec):
        spec["hostname"] = "box"
        spec["domainname"] = "example.org"
    assert kiln.sh("hostname; cat /proc/sys/kernel/domainname", patch).split() == ["box", "example.org"]


def test_no_inherited_descriptors(kiln):
    assert set(kiln.sh("ls /proc/self/fd").split()) == {"0", "1", "2", "3"}  # 3: ls has the directory open


@pytest.mark.parametrize("arguments, code_text", [
    (["nosuchprogram"], 'exec: "nosuchprogram": executable file not found in $PATH'),
    (["/bin/nosuch"], 'exec: "/bin/nosuch": '),
    (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
])
def test_programs_that_cannot_run(kiln, arguments, code_text):
    result = kiln.run(arguments)
    assert result.returncode == 1
    assert code_text.lower() in result.stderr.replace('\\"', '"').lower()
    kiln.assert_clean()


def test_sysctls(kiln):
    def patch(spec):
        spec["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "4096",
                                   "net.ipv4.ping_group_range": "0 100"}
    lines = kiln.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax "
                    "/proc/sys/net/ipv4/ping_group_range", patch).splitlines()
    assert lines == ["80", "4096", "0\t100"]


@kiln_only
def test_user_namespace(kiln):
    def patch(spec):
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    lines = kiln.sh("id -u; cat /proc/self/uid_map /proc/self/gid_map", patch).splitlines()
    assert lines[0] == "0"
    assert lines[1].split() == ["0", "100000", "65536"]
    assert lines[2].split() == ["0", "200000", "65536"]


@kiln_only
def test_time_namespace(kiln):
    def patch(spec):
        spec["linux"]["namespaces"].append({"type": "time"})
        spec["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000, "nanosecs": 0}}
    assert float(kiln.sh("cut -d' ' -f1 /proc/uptime", patch)) > 1000000


def test_init_is_pid_1_of_its_namespace_and_sees_no_other(kiln):
    lines = kiln.sh("echo $$; ps -o pid,comm | wc -l").splitlines()
    assert lines == ["1", "4"]  # header, sh, ps, wc


def test_without_a_pid_namespace_the_agent_is_visible(kiln):
    def patch(spec):
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
    assert int(kiln.sh("echo $$", patch)) > 1


ADD_LINKS = "brctl addbr bridge0; echo $?; ip link add veth-a type veth peer name veth-b; echo $?; brctl addif bridge0 veth-a; echo $?"


@kiln_only
def test_drivers_come_when_a_capability_needs_them(kiln):
    script = f"grep -cE '^(bridge|veth) ' /proc/modules; {ADD_LINKS}; ip -o link; ip link add x type nosuch; echo $?"
    out = kiln.sh(script, lambda spec: all_capabilities(spec, ["CAP_NET_ADMIN"])).splitlines()
    assert out[:4] == ["0", "0", "0", "0"] and out[-1] == "2"
    assert [name for name in ("bridge0", "veth-a") if not any(f": {name}" in line for line in out)] == []


@kiln_only
def test_drivers_give_no_container_more_than_its_capabilities(kiln):
    out = kiln.run(["/bin/sh", "-c", f"{ADD_LINKS}; ip -o link"], lambda spec: all_capabilities(spec, []))
    assert "Operation not permitted" in out.stderr
    assert "0" not in out.stdout.splitlines()[:3] and "bridge0" not in out.stdout
