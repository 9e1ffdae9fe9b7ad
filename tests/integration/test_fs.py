# SPDX-License-Identifier: Apache-2.0
"""Shared directories: what one side does is what the other side sees."""
import hashlib
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import time

import pytest

from conftest import all_capabilities, deadline_in, kiln_only

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """fsops and fsx, static, so that they run on both sides."""
    directory = tmp_path_factory.mktemp("tools")
    for name in ("fsops", "fsx"):
        subprocess.run(["cc", "-O1", "-static", "-o", directory / name, HERE / f"{name}.c"], check=True)
    return directory


class Shares:
    """A running container with /data (read-write), /other (another read-write share) and /ro (read-only)."""

    def __init__(self, kiln, tools):
        self.kiln = kiln
        self.tools = tools
        self.data, self.other, self.ro = (kiln.directory / name for name in ("data", "other", "ro"))
        for directory in (self.data, self.other, self.ro):
            directory.mkdir()
            directory.chmod(0o777)
        (self.ro / "file").write_text("constant\n")
        (self.ro / "dir").mkdir()

        def patch(spec):
            all_capabilities(spec, ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD",
                                    "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN"])
            spec["process"]["capabilities"].update(ambient=[], inheritable=[])  # for root alone
            for name, options in (("data", []), ("other", []), ("ro", ["ro"])):
                spec["mounts"].append({"destination": f"/{name}", "type": "bind", "source": str(getattr(self, name)),
                                       "options": ["rbind", *options]})
            spec["mounts"].append({"destination": "/tools", "type": "bind", "source": str(tools),
                                   "options": ["rbind", "ro"]})
        self.container = kiln.start_sleeper(patch)

    def guest(self, *words, check=True, flags=(), **options):
        return self.kiln("exec", *flags, self.container, *words, check=check, **options).stdout

    def sh(self, script, **options):
        return self.guest("/bin/sh", "-c", script, **options)

    def fsops(self, *words):
        """The answer of fsops in the guest; an errno's name if it failed."""
        return self.guest("/tools/fsops", *words, check=False).rstrip("\n")

    def background(self, *words):
        return self.kiln.start_background("exec", self.container, *words, stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE)


@pytest.fixture(scope="module")
def shares(shared, tools):
    return Shares(shared, tools)


@pytest.fixture
def place(shares, request):
    """A directory of the test's own in /data: its name, and its path on the host."""
    name = request.node.name.replace("[", "-").replace("]", "").replace("/", "-")
    (shares.data / name).mkdir()
    (shares.data / name).chmod(0o777)
    return f"/data/{name}", shares.data / name


def test_names_of_all_kinds(shares, place):
    inside, outside = place
    names = ["plain", "with space", "-dash", "ünïcödé", "new\nline", "x" * 255, "back\\slash", "quote'\""]
    for name in names:
        (outside / name).write_text(name)
    out = shares.guest("find", inside, "-type", "f", "-print0")
    assert sorted(out.split("\0")[:-1]) == sorted(f"{inside}/{name}" for name in names)
    for name in names:
        assert shares.guest("cat", f"{inside}/{name}") == name
    too_long = shares.sh(f"touch {inside}/{'y' * 256} 2>&1; true")
    assert "too long" in too_long


def test_symbolic_links(shares, place):
    inside, outside = place
    shares.sh(f"cd {inside}; echo t > target; ln -s target relative; ln -s /etc/passwd absolute; ln -s nowhere dangling; "
              "ln -s . dot; cat relative")
    assert os.readlink(outside / "relative") == "target"
    assert os.readlink(outside / "absolute") == "/etc/passwd"
    assert os.readlink(outside / "dangling") == "nowhere"
    os.symlink("target", outside / "from-host")
    assert shares.guest("readlink", f"{inside}/from-host") == "target\n"
    assert shares.guest("cat", f"{inside}/dot/dot/from-host") == "t\n"
    long_target = "a/" * 1000
    os.symlink(long_target, outside / "long")
    assert shares.guest("readlink", f"{inside}/long").rstrip("\n") == long_target


def test_links_out_of_the_share_lead_to_the_guest_s_files(shares, place):
    inside, outside = place
    secret = shares.kiln.directory / "secret"
    secret.write_text("of the host\n")
    os.symlink(secret, outside / "absolute")
    os.symlink("../../secret", outside / "relative")
    os.symlink("/etc/hostname", outside / "hostname")
    out = shares.sh(f"cat {inside}/absolute {inside}/relative {inside}/hostname 2>&1; true")
    assert "of the host" not in out
    assert out.count("No such file") == 3
    assert shares.sh(f"ls {inside}/../../") == shares.sh("ls /")


def test_hard_links(shares, place):
    inside, outside = place
    shares.sh(f"cd {inside}; echo one > a; ln a b; mkdir d; ln a d/c; echo two >> d/c")
    assert (outside / "b").read_text() == "one\ntwo\n"
    assert (outside / "a").stat().st_nlink == 3
    assert (outside / "a").stat().st_ino == (outside / "d/c").stat().st_ino
    lines = shares.sh(f"cd {inside}; stat -c '%i %h' a b d/c").splitlines()
    assert len(set(lines)) == 1 and lines[0].endswith(" 3")
    os.link(outside / "a", outside / "from-host")
    assert shares.guest("cat", f"{inside}/from-host") == "one\ntwo\n"
    shares.sh(f"rm {inside}/a")
    assert (outside / "b").stat().st_nlink == 3


def test_extended_attributes(shares, place):
    inside, outside = place
    (outside / "f").write_text("x")
    assert shares.fsops("setxattr", f"{inside}/f", "user.from-guest", "value") == "ok"
    assert os.getxattr(outside / "f", "user.from-guest") == b"value"
    os.setxattr(outside / "f", "user.from-host", b"other")
    assert shares.fsops("getxattr", f"{inside}/f", "user.from-host") == "other"
    assert set(shares.fsops("listxattr", f"{inside}/f").split()) >= {"user.from-guest", "user.from-host"}
    assert shares.fsops("removexattr", f"{inside}/f", "user.from-host") == "ok"
    assert "user.from-host" not in os.listxattr(outside / "f")
    assert shares.fsops("getxattr", f"{inside}/f", "user.none") == "ENODATA"
    assert shares.fsops("setxattr", f"{inside}/f", "nonsense.name", "x") == "EOPNOTSUPP"


def test_renames(shares, place):
    inside, outside = place
    shares.sh(f"cd {inside}; echo a > a; echo b > b; mkdir d e; echo in > d/in; mv a b; mv d e/moved")
    assert sorted(path.name for path in outside.iterdir()) == ["b", "e"]
    assert (outside / "b").read_text() == "a\n" and (outside / "e/moved/in").read_text() == "in\n"
    (outside / "c").write_text("c\n")
    assert shares.fsops("rename", f"{inside}/b", f"{inside}/c", "noreplace") == "EEXIST"
    assert shares.fsops("rename", f"{inside}/b", f"{inside}/c", "exchange") == "ok"
    assert (outside / "b").read_text() == "c\n" and (outside / "c").read_text() == "a\n"
    assert shares.fsops("rename", f"{inside}/b", f"{inside}/free", "noreplace") == "ok"
    assert shares.fsops("rename", f"{inside}/e", f"{inside}/c", "plain") == "ENOTDIR"
    assert shares.fsops("rename", f"{inside}/e", f"{inside}/e/moved/deeper", "plain") == "EINVAL"
    shares.sh(f"mkdir {inside}/full; touch {inside}/full/x; mkdir {inside}/empty")
    assert shares.fsops("rename", f"{inside}/empty", f"{inside}/full", "plain") == "ENOTEMPTY"


def test_renames_between_shares_are_copies(shares, place):
    inside, outside = place
    (outside / "f").write_text("moved\n")
    assert shares.fsops("rename", f"{inside}/f", "/other/f", "plain") == "EXDEV"
    shares.sh(f"mv {inside}/f /other/f")
    assert (shares.other / "f").read_text() == "moved\n" and not (outside / "f").exists()


def test_removal_rules(shares, place):
    inside, outside = place
    out = shares.sh(f"cd {inside}; mkdir -p d/e; rmdir d 2>&1; rm -r d; rmdir nothing 2>&1; touch f; rmdir f 2>&1; true")
    assert "not empty" in out and "No such file" in out and "Not a directory" in out
    assert os.listdir(outside) == ["f"]


def test_unlinked_files_go_on(shares, place):
    inside, outside = place
    assert shares.fsops("unlinked", f"{inside}/f") == "before after 0"
    assert os.listdir(outside) == []


def test_ownership_is_the_caller_s(shares, place):
    inside, outside = place
    shares.guest("/bin/sh", "-c", f"cd {inside}; touch f; mkdir d; ln -s x l; mkfifo p", flags=["--user", "1000:1001"])
    for name in ("f", "d", "l", "p"):
        info = (outside / name).lstat()
        assert (info.st_uid, info.st_gid) == (1000, 1001), name


def test_permissions_hold(shares, place):
    inside, outside = place
    (outside / "private").mkdir(mode=0o700)
    (outside / "private/f").write_text("x")
    (outside / "root-only").write_text("x")
    (outside / "root-only").chmod(0o600)
    out = shares.guest("/bin/sh", "-c", f"cd {inside}; cat root-only private/f; touch private/new; rm private/f; "
                       "chmod 777 root-only; echo y > root-only", flags=["--user", "1000:1000"], check=False)
    assert "x" not in out
    assert (outside / "private/f").exists() and (outside / "root-only").read_text() == "x"
    assert stat.S_IMODE((outside / "root-only").stat().st_mode) == 0o600


def test_modes_owners_and_times(shares, place):
    inside, outside = place
    shares.sh(f"cd {inside}; umask 027; touch f; mkdir d; chmod 4751 f; chmod 1777 d; chown 12:34 f; chmod 4751 f")
    info = (outside / "f").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o4751, 12, 34)
    assert stat.S_IMODE((outside / "d").stat().st_mode) == 0o1777
    assert shares.fsops("times", f"{inside}/f", "1000000001", "2000000002") == "ok"
    info = (outside / "f").stat()
    assert (info.st_atime_ns, info.st_mtime_ns) == (1000000001123456789, 2000000002987654321)
    os.utime(outside / "d", ns=(5_000_000_001, 6_000_000_002))
    wait_for(lambda: shares.sh(f"stat -c '%X %Y' {inside}/d") == "5 6\n", "the host's times")


def wait_for(condition, what, timeout=30):
    """Names and attributes may be a second old in the guest."""
    deadline = deadline_in(timeout)
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.1)


def test_writing_clears_setuid(shares, place):
    inside, outside = place
    (outside / "f").write_text("x")
    os.chown(outside / "f", 1000, 1000)
    (outside / "f").chmod(0o6777)
    shares.guest("/bin/sh", "-c", f"echo more >> {inside}/f", flags=["--user", "1000:1000"])
    assert stat.S_IMODE((outside / "f").stat().st_mode) == 0o777


def test_special_files(shares, place):
    inside, outside = place
    shares.sh(f"cd {inside}; mkfifo -m 640 p; mknod null c 1 3")
    assert stat.S_ISFIFO((outside / "p").stat().st_mode)
    assert stat.S_ISCHR((outside / "null").stat().st_mode) and (outside / "null").stat().st_rdev == os.makedev(1, 3)
    assert shares.fsops("socket", f"{inside}/s") == "ok"
    assert stat.S_ISSOCK((outside / "s").stat().st_mode)
    # A pipe works between two processes of the guest, and is never opened on the host.
    assert shares.sh(f"cd {inside}; echo through > p & cat {inside}/p; wait") == "through\n"
    server = socket.socket(socket.AF_UNIX)
    os.chdir(outside)
    server.bind("of-host")
    assert "socket" in shares.sh(f"stat -c %F {inside}/of-host")


def test_device_nodes_of_the_host_are_not_opened(shares, place):
    """A node for the host's memory in a share names the guest's memory device at most, never the host's."""
    inside, outside = place
    os.mknod(outside / "kmsg", 0o666 | stat.S_IFCHR, os.makedev(1, 11))
    out = shares.sh(f"dd if={inside}/kmsg bs=8k count=1 2>&1; true")
    assert "ermission denied" in out or "not permitted" in out or "No such device" in out


def test_locks_exclude_each_other(shares, place):
    inside, outside = place
    (outside / "f").write_text("x" * 100)
    for command in (["flock", f"{inside}/f"], ["posixlock", f"{inside}/f", "10", "20"]):
        holder = shares.background("/tools/fsops", *command)
        assert holder.stdout.readline() == b"ok\n"
        assert shares.kiln("exec", shares.container, "/tools/fsops", *command, timeout=60).stdout.strip() in (
            "EAGAIN", "EACCES")
        if command[0] == "posixlock":
            assert shares.fsops("posixlock", f"{inside}/f", "30", "5") == "ok"
        holder.communicate(timeout=60)
        assert shares.fsops(*command) == "ok"


def test_a_killed_holder_loses_its_lock(shares, place):
    inside, outside = place
    (outside / "f").write_text("x")
    holder = shares.background("/tools/fsops", "flock", f"{inside}/f")
    assert holder.stdout.readline() == b"ok\n"
    shares.guest("killall", "-9", "fsops")
    holder.wait(timeout=60)
    wait_for(lambda: shares.fsops("flock", f"{inside}/f") == "ok", "lock")


def test_sparse_files_and_offsets_beyond_4_gib(shares, place):
    inside, outside = place
    assert shares.fsops("writeat", f"{inside}/f", str(5 << 30), "end") == "ok"
    info = (outside / "f").stat()
    assert info.st_size == (5 << 30) + 3 and info.st_blocks < 1000
    assert shares.sh(f"tail -c 3 {inside}/f") == "end"
    os.truncate(outside / "f", 0)
    with open(outside / "holes", "wb") as file:
        file.seek(1 << 20)
        file.write(b"x" * 4096)
        file.truncate(4 << 20)
    answer = shares.fsops("seekdata", f"{inside}/holes", "0")
    assert answer in (f"{1 << 20} {(1 << 20) + 4096}", f"0 {4 << 20}")  # where the host tells holes, and where not


def test_fallocate_and_copy_file_range(shares, place):
    inside, outside = place
    assert shares.fsops("fallocate", f"{inside}/f", "100000", "0") == "ok"
    assert (outside / "f").stat().st_size == 100000
    data = os.urandom(3_000_001)
    (outside / "from").write_bytes(data)
    assert shares.fsops("copyrange", f"{inside}/from", f"{inside}/to") == "ok"
    assert (outside / "to").read_bytes() == data


def test_nameless_files(shares, place):
    """O_TMPFILE works to the end, or says cleanly that it does not."""
    inside, outside = place
    answer = shares.fsops("tmpfile", inside, f"{inside}/named")
    assert answer in ("ok", "EOPNOTSUPP", "ENOSYS")
    assert os.listdir(outside) == (["named"] if answer == "ok" else [])


def test_open_flags(shares, place):
    inside, outside = place
    (outside / "f").write_text("x" * 4096)
    (outside / "d").mkdir()
    os.symlink("f", outside / "l")
    assert shares.fsops("open", f"{inside}/f", "excl") == "EEXIST"
    assert shares.fsops("open", f"{inside}/l", "nofollow") == "ELOOP"
    assert shares.fsops("open", f"{inside}/f", "directory") == "ENOTDIR"
    assert shares.fsops("open", f"{inside}/d", "write") == "EISDIR"
    assert shares.fsops("open", f"{inside}/none", "plain") == "ENOENT"
    assert shares.fsops("open", f"{inside}/f", "direct") in ("ok", "EINVAL")


def test_both_sides_see_each_other_s_changes(shares, place):
    inside, outside = place
    assert shares.sh(f"ls {inside}/late 2>&1; true").endswith("No such file or directory\n")
    (outside / "late").write_text("first\n")
    wait_for(lambda: shares.sh(f"cat {inside}/late 2>/dev/null; true") == "first\n", "new file")
    (outside / "late").write_text("second, longer\n")
    wait_for(lambda: shares.guest("cat", f"{inside}/late") == "second, longer\n", "new content")
    (outside / "late").rename(outside / "renamed")
    wait_for(lambda: "renamed" in shares.guest("ls", inside) and "late" not in shares.guest("ls", inside), "new name")
    (outside / "renamed").unlink()
    wait_for(lambda: shares.guest("ls", inside) == "", "removal")
    shares.sh(f"echo guest > {inside}/g")
    assert (outside / "g").read_text() == "guest\n"


def test_a_directory_of_three_thousand_files(shares, place):
    inside, outside = place
    shares.sh(f"cd {inside}; i=0; while [ $i -lt 1500 ]; do : > guest$i; i=$((i+1)); done")
    for i in range(1500):
        (outside / f"host{i}").touch()
    wait_for(lambda: shares.sh(f"ls -f {inside} | sort | md5sum; ls {inside} | wc -l").split()[-1] == "3000", "files")
    assert set(shares.guest("ls", inside).split()) == {path.name for path in outside.iterdir()}
    shares.sh(f"rm -r {inside}")
    assert not outside.exists()


def test_statfs(shares, place):
    inside, _ = place
    total = int(shares.sh(f"stat -f -c '%b %S' {inside}").split()[0])
    assert total > 0


def test_read_only_share_refuses_every_change(shares):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in shares.ro.iterdir())
    for words in (["setxattr", "/ro/file", "user.x", "y"], ["rename", "/ro/file", "/ro/g", "plain"],
                  ["fallocate", "/ro/file", "10", "0"], ["open", "/ro/file", "write"], ["open", "/ro/new", "excl"],
                  ["socket", "/ro/s"], ["writeat", "/ro/file", "0", "z"], ["times", "/ro/file", "1", "1"],
                  ["tmpfile", "/ro", "/ro/t"]):
        assert shares.fsops(*words) in ("EROFS", "EOPNOTSUPP"), words
    out = shares.sh("cd /ro; for c in 'mkdir x' 'rmdir dir' 'rm file' 'ln file l' 'ln -s a l' 'chmod 777 file' "
                    "'chown 5 file' 'mkfifo p' 'touch file'; do $c 2>/dev/null && echo BAD $c; done; cat file")
    assert out == "constant\n"
    assert sorted((path.name, path.stat().st_mtime_ns) for path in shares.ro.iterdir()) == before


def test_large_files_arrive_intact_both_ways(shares, place):
    inside, outside = place
    data = hashlib.sha256(b"large").digest() * (1 << 20)  # 32 MiB
    (outside / "down").write_bytes(data)
    out = shares.sh(f"cp {inside}/down {inside}/up; sha256sum {inside}/down {inside}/up")
    digest = hashlib.sha256(data).hexdigest()
    assert [line.split()[0] for line in out.splitlines()] == [digest, digest]
    assert hashlib.sha256((outside / "up").read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("seed", [1, 2])
def test_random_io_checked_on_both_sides(shares, place, tools, seed):
    """fsx in the guest, then on the host on the same file, in turns: each starts from what the other left."""
    inside, outside = place
    for turn in range(3):
        first = shares.guest("/tools/fsx", f"{inside}/f", str(100 * seed + 2 * turn), "400")
        on_host = subprocess.run([tools / "fsx", outside / "f", "1", "0"], stdout=subprocess.PIPE, text=True, check=True)
        assert on_host.stdout == first
        second = subprocess.run([tools / "fsx", outside / "f", str(100 * seed + 2 * turn + 1), "200"],
                                stdout=subprocess.PIPE, text=True, check=False)
        assert second.returncode == 0, second.stdout
        time.sleep(1.5)  # the guest may believe the size that it knows for a second
        time.sleep(1.5)  # the guest believes a file's attributes for a second
        assert shares.guest("/tools/fsx", f"{inside}/f", "1", "0") == second.stdout


def test_random_io_by_several_at_once(shares, place, tools):
    inside, outside = place
    processes = [shares.background("/tools/fsx", f"{inside}/f{i}", str(1000 + i), "300") for i in range(4)]
    answers = [process.communicate(timeout=200)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    for i, answer in enumerate(answers):
        on_host = subprocess.run([tools / "fsx", outside / f"f{i}", "1", "0"], stdout=subprocess.PIPE, text=True,
                                 check=True)
        assert on_host.stdout == answer


def tree_digest(root):
    """One line for each file below `root`, as the guest's find and sha256sum write them."""
    lines = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(root)}")
    return sorted(lines)


def make_repository(directory):
    """300 files, three commits, links and an executable, packed and loose objects."""
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "-C", str(directory)]
    directory.mkdir()
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    for commit in range(3):
        for i in range(100):
            path = directory / f"d{i % 7}" / f"s{i % 3}" / f"file-{commit}-{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{commit} {i}\n" * (i * 37 + 1))
        (directory / "run.sh").write_text(f"#!/bin/sh\necho {commit}\n")
        (directory / "run.sh").chmod(0o755)
        if commit == 0:
            (directory / "link").symlink_to("d0/s0")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", f"commit {commit}"], check=True)
        if commit == 1:
            subprocess.run([*git, "gc", "--quiet"], check=True)


@kiln_only
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_clone_into_a_share(kiln):
    """By the host's own git, in a box: clone, status and fsck in the guest; the same tree on both sides."""
    source, target = kiln.directory / "source", kiln.directory / "target"
    make_repository(source)
    target.mkdir()
    script = "git config --global --add safe.directory '*'; " \
             "git clone --quiet --no-hardlinks /mnt/source /mnt/target/clone && cd /mnt/target/clone && git fsck --strict && " \
             "git status --porcelain && ./run.sh && git log --oneline | wc -l && find . -type f -print0 | " \
             "xargs -0 sha256sum"
    result = kiln("box", "--ro", f"{source}:/mnt/source", "--rw", f"{target}:/mnt/target", "--env", "HOME=/tmp", "--",
                  "/bin/sh", "-c", script, timeout=300)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == ["2", "3"]
    assert sorted(lines[2:]) == tree_digest(target / "clone")
    work_tree = {line for line in tree_digest(source) if "  ./.git/" not in line}
    assert work_tree <= set(lines[2:])
    assert os.readlink(target / "clone/link") == "d0/s0"
    subprocess.run(["git", "-c", "safe.directory=*", "-C", str(target / "clone"), "fsck", "--strict"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
