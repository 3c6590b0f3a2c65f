"""`gitrel export systemd`: systemd's own tools find no fault, and a systemd that is PID 1 of a machine runs the units.

machine = boot()                       # `boot` is a fixture: namespaces, a root of its own, systemd as PID 1
machine.run("systemctl", "start", "shop")
machine.get("http://127.0.0.1:8000/")  # from inside: it has its own network too
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from apps import Host, Shop, farm, host, shop
from conftest import program
from room import ROOT, Done, run

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[..., Shop]

PATIENCE = 60.0
EXPOSURE = 2.5  # of 10, as systemd-analyze judges; 4 is where it stops to say OK
TREES = {"/opt/tree": str(ROOT), "/opt/packages": sysconfig.get_path("purelib"), sys.base_prefix: sys.base_prefix}
PYTHONPATH = "/opt/tree:/opt/packages"

_APP = """\
import http.server, os, socket


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.environ['GITREL_RELEASE']} {os.environ['PORT']} {os.getuid()}".encode())

    def log_message(self, *args):
        pass


assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid())
server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.serve_forever()
"""
_MANIFEST = """\
[run.web]
listen = "127.0.0.1:8000"
health = { path = "/", timeout = "30s" }
stop_timeout = "3s"
scale = 2
[run.worker]
settle = "200ms"
stop_timeout = "1500ms"
"""

# $1 the new root, $2 the cgroup, then pairs of a folder here and one there.
_BOOT = """\
set -eu
root=$1 group=$2
shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr etc/systemd/system/service.d run tmp var/log proc sys/fs/cgroup dev root srv opt/bin
mount --rbind /usr usr
for link in bin sbin lib lib32 lib64; do [ ! -L "/$link" ] || cp -a "/$link" .; done
cp -r /etc/ld.so.cache /etc/nsswitch.conf /etc/alternatives /etc/ssl etc/
printf 'root:x:0:0:root:/root:/bin/sh\\n' > etc/passwd
printf 'root:x:0:\\n' > etc/group
printf '[safe]\\n\\tdirectory = *\\n' > etc/gitconfig  # the remote is another user's
echo 0123456789abcdef0123456789abcdef > etc/machine-id
cat > etc/systemd/system.conf <<END
[Manager]
DefaultEnvironment=PYTHONPATH=$PYTHONPATH PYTHONDONTWRITEBYTECODE=1
END
printf '[Unit]\\nDescription=nothing but us\\n' > etc/systemd/system/idle.target
printf '[Service]\\nStandardOutput=append:/var/log/services\\n' > etc/systemd/system/service.d/log.conf
touch var/log/services
printf '#!%s\\nfrom gitrel.cli import main\\nraise SystemExit(main())\\n' "$PYTHON" > opt/bin/gitrel
chmod 755 opt/bin/gitrel
while [ $# -gt 0 ]; do mkdir -p "./$2"; mount --bind "$1" "./$2"; shift 2; done
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs sys
mkdir -p sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir "sys/fs/cgroup/$group"
echo $$ > "sys/fs/cgroup/$group/cgroup.procs"
umount sys/fs/cgroup
exec unshare --cgroup sh -c '
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    exec chroot . /usr/bin/env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
        /lib/systemd/systemd --system --log-target=console --unit=idle.target --show-status=no
'
"""
_REMOVE_GROUP = """\
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$1"
[ ! -d "$1/$2" ] || find "$1/$2" -depth -type d -exec rmdir {} +
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A booted one, as seen from outside; `pid` is its systemd."""

    pid: int

    def attempt(self, *argv: str) -> Done:
        inside = ["nsenter", "-t", str(self.pid), "-a", "-r", "-w", "/usr/bin/env", "-i", f"PATH={os.defpath}"]
        extra = ["HOME=/root", f"PYTHONPATH={PYTHONPATH}", "PYTHONDONTWRITEBYTECODE=1"]
        return run([*inside, *extra, *argv], Path("/"), os.environ)

    def run(self, *argv: str, code: int = 0) -> str:
        done = self.attempt(*argv)
        assert done.code == code, f"{argv}: {done.code}\n{done.out}{done.err}\n{self.said()}"
        return done.out

    def said(self) -> str:
        """What the services printed."""
        return Path(f"/proc/{self.pid}/root/var/log/services").read_text(errors="replace")[-6000:]

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "-P", name, unit).strip()

    def get(self, url: str) -> str:
        code = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=40).read().decode())"
        return self.run("/usr/bin/python3", "-c", code).strip()

    def await_stopped(self, *units: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while (states := {self.show(unit, "ActiveState") for unit in units}) != {"inactive"}:
            assert time.monotonic() < deadline, f"{states}\n{self.said()}"

    def await_get(self, url: str, prefix: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while not (answer := self.get(url)).startswith(prefix):
            assert time.monotonic() < deadline, f"{answer} and never {prefix}\n{self.said()}"
        return answer


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """`boot({folder here: folder there})`: a machine, gone with all of its processes after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda binds: stack.enter_context(_booted(tmp_path, binds))


@contextlib.contextmanager
def _booted(tmp_path: Path, binds: dict[str, str]) -> Iterator[Machine]:
    root, log, group = tmp_path / "root", tmp_path / "systemd.log", f"gitrel-{os.getpid()}-{time.monotonic_ns()}"
    root.mkdir()
    pairs = [word for inside, outside in {**TREES, **binds}.items() for word in (outside, inside)]
    program("nsenter"), program("systemctl")  # where one of them is not installed, nothing is booted
    space = [program("unshare"), "--pid", "--mount", "--net", "--uts", "--ipc", "--fork", "--kill-child"]
    with log.open("wb") as output:
        shell = subprocess.Popen(
            [*space, "sh", "-c", _BOOT, "boot", str(root), group, *pairs],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHON": os.path.realpath(sys.executable), "PYTHONPATH": PYTHONPATH},
        )
    try:
        yield _await_systemd(shell, log)
    finally:
        shell.kill()
        shell.wait()
        _remove_group(tmp_path, group)


def _await_systemd(shell: subprocess.Popen[bytes], log: Path) -> Machine:
    deadline = time.monotonic() + PATIENCE
    children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children")
    while time.monotonic() < deadline and shell.poll() is None:
        for pid in children.read_text().split():
            machine = Machine(int(pid))
            if machine.attempt("systemctl", "is-active", "idle.target").out == "active\n":
                return machine
        time.sleep(0.05)
    raise AssertionError(f"systemd does not come up:\n{log.read_text()}")


def _remove_group(tmp_path: Path, group: str) -> None:
    point = tmp_path / "cgroup"
    point.mkdir(exist_ok=True)
    argv = ["unshare", "--mount", "sh", "-c", _REMOVE_GROUP, "remove", str(point), group]
    deadline = time.monotonic() + PATIENCE
    while (done := run(argv, Path("/"), os.environ)).code != 0:  # the last of its processes may still be dying
        assert time.monotonic() < deadline, done.err
        time.sleep(0.05)


@pytest.fixture
def dev(shop: Shops) -> Shop:
    return shop(0, first_release)


def first_release(dev: Shop) -> None:
    dev.desk.write("app.py", _APP)
    dev.desk.write("Procfile", "web: exec /usr/bin/python3 app.py\nworker: exec sleep 1000\n")
    dev.desk.manifest(_MANIFEST)
    assert dev.release() == "v1"


def exported(machine: Machine, dev: Shop, *args: str, home: str = "/srv/shop", user: str = "shop") -> None:
    """A joined home of `user` and its units, the way the manual goes."""
    machine.run("systemd-sysusers", "--inline", "u shop - shop /var/lib/shop")
    machine.run("install", "-d", "-o", user, "-g", user, home)
    become = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "/opt/bin/gitrel")
    machine.run(*become, "join", "/srv/remote.git", home, "--trust", dev.pin)
    machine.run(*become, "pull", "--home", home)
    machine.run(*become, "export", "systemd", "--home", home, "-o", "/tmp/etc", *args)
    machine.run("cp", "-r", "/tmp/etc/.", "/etc/")
    machine.run("sh", "-c", "systemd-sysusers /etc/sysusers.d/*.conf || [ $1 = root ]", "sh", user)
    machine.run("sh", "-c", "systemd-tmpfiles --create /etc/tmpfiles.d/*.conf")
    machine.run("systemctl", "daemon-reload")


def hurry(machine: Machine, drop_in: str) -> None:
    """Shorter times than the unit has."""
    folder = "/etc/systemd/system/shop.service.d"
    machine.run("sh", "-c", 'mkdir "$1" && printf "[Service]\n$2" > "$1/quick.conf"', "sh", folder, drop_in)
    machine.run("systemctl", "daemon-reload")


def test_one_service_for_all(dev: Shop, boot: Callable[..., Machine]) -> None:
    machine = boot({"/srv/remote.git": dev.url})
    exported(machine, dev)
    hurry(machine, "RestartSec=100ms\n")
    machine.run("systemctl", "enable", "--now", "shop.service")
    assert machine.show("shop.service", "ActiveState") == "active"
    assert machine.show("shop-web.socket", "ActiveState") == "active"
    uid = machine.run("id", "-u", "shop").strip()
    url = "http://127.0.0.1:8000/"
    release, port, whose = machine.get(url).split()
    assert (release, whose) == ("v1", uid)
    assert port in ("5000", "5001")
    assert "v1" in machine.show("shop.service", "StatusText")

    assert dev.release() == "v2"
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=USR1", "shop.service")
    machine.await_get(url, "v2")
    machine.run("systemctl", "reload", "shop.service")

    main = machine.show("shop.service", "MainPID")
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "shop.service")
    assert machine.get(url).startswith("v2"), "the connection waits in the socket until gitrel is back"
    assert machine.show("shop.service", "MainPID") not in ("0", main)

    machine.run("systemctl", "stop", "shop.service", "shop-web.socket")
    assert machine.show("shop.service", "Result") == "success"
    assert machine.show("shop.service", "ActiveState") == "inactive"
    assert "shop" not in machine.run("ps", "-eo", "user=")


def test_a_service_for_each(dev: Shop, boot: Callable[..., Machine]) -> None:
    machine = boot({"/srv/remote.git": dev.url})
    exported(machine, dev, "--per-process")
    machine.run("systemctl", "enable", "--now", "shop.target")
    units = ["shop-web@1.service", "shop-web@2.service", "shop-worker@1.service"]

    def pids() -> list[str]:
        return [machine.show(unit, "MainPID") for unit in units]

    assert [machine.show(unit, "ActiveState") for unit in [*units, "shop-pull.timer"]] == ["active"] * 4
    url = "http://127.0.0.1:8000/"
    assert machine.await_get(url, "v1").split()[1] in ("5000", "5001")
    before = pids()
    machine.run("systemctl", "start", "shop-pull.service")
    assert pids() == before, "nothing moved, nothing was restarted"
    assert dev.release() == "v2"
    machine.run("systemctl", "start", "shop-pull.service")
    assert not set(pids()) & set(before)
    machine.await_get(url, "v2")

    assert dev.release() == "v3"
    dev.push(dev.at_remote("rev-parse", "refs/releases/v1"), "refs/releases/v4")
    refused = machine.attempt("systemctl", "start", "shop-pull.service")
    assert refused.code != 0, "somebody has to look at it"
    machine.await_get(url, "v3")

    after = pids()
    machine.run("mount", "-t", "tmpfs", "tmpfs", "/srv/remote.git")
    failed = machine.attempt("systemctl", "start", "shop-pull.service")
    assert failed.code != 0, "a remote that is away is a failed unit"
    assert pids() == after
    machine.run("systemctl", "stop", "shop.target")  # waits for the target alone, not for what is part of it
    machine.await_stopped("shop-web@1.service", "shop-web@2.service", "shop-worker@1.service")
    assert "shop" not in machine.run("ps", "-eo", "user=")


ODD = """/srv/a b$HOME%h"c'd\\e;"""


def test_names_that_need_quotes(dev: Shop, boot: Callable[..., Machine]) -> None:
    machine = boot({"/srv/remote.git": dev.url})
    exported(machine, dev, "--name", "my $shop%n", home=ODD)
    name = "my\\x20\\x24shop\\x25n"
    machine.run("systemctl", "enable", "--now", f"{name}.service")
    assert machine.get("http://127.0.0.1:8000/").startswith("v1")
    assert ODD in machine.show(f"{name}.service", "ExecStart")
    assert shlex.split(machine.show(f"{name}.service", "ReadWritePaths").replace("\\$", "$")) == [ODD]
    machine.run("systemctl", "disable", "--now", f"{name}.service", f"{name}-web.socket")

    machine.run(
        "/opt/bin/gitrel", "export", "systemd", "--home", ODD, "-o", "/etc", "--name", "my $shop%n", "--per-process"
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--now", f"{name}.target")
    machine.await_get("http://127.0.0.1:8000/", "v1")
    assert dev.release() == "v2"
    machine.run("systemctl", "start", f"{name}-pull.service")
    machine.await_get("http://127.0.0.1:8000/", "v2")


@pytest.mark.parametrize("mode", [(), ("--per-process",)], ids=["supervised", "per-process"])
def test_a_process_of_another_user(mode: tuple[str, ...], dev: Shop, boot: Callable[..., Machine]) -> None:
    dev.desk.manifest(_MANIFEST.replace("[run.web]", '[run.web]\nuser = "shop"'))
    assert dev.release() == "v2"
    machine = boot({"/srv/remote.git": dev.url})
    exported(machine, dev, *mode, user="root")
    machine.run("systemctl", "enable", "--now", "shop.target" if mode else "shop.service")
    uid = machine.run("id", "-u", "shop").strip()
    assert machine.await_get("http://127.0.0.1:8000/", "v2").split()[2] == uid
    machine.run("systemctl", "stop", "shop.target" if mode else "shop.service")
    assert "shop" not in machine.run("ps", "-eo", "user=")


def test_a_gitrel_that_hangs_is_started_anew(dev: Shop, boot: Callable[..., Machine]) -> None:
    machine = boot({"/srv/remote.git": dev.url})
    exported(machine, dev)
    hurry(machine, "WatchdogSec=2s\nTimeoutAbortSec=200ms\nRestartSec=100ms\n")
    machine.run("systemctl", "start", "shop.service")
    main = machine.show("shop.service", "MainPID")

    def told() -> int:
        """When systemd was told that gitrel lives, in microseconds."""
        return int(machine.show("shop.service", "WatchdogTimestampMonotonic"))

    first, deadline = told(), time.monotonic() + PATIENCE
    while told() < first + 2_500_000:  # longer than the interval
        assert time.monotonic() < deadline, machine.said()
        time.sleep(0.1)
    assert machine.show("shop.service", "MainPID") == main
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "shop.service")
    while machine.show("shop.service", "MainPID") in ("0", main):
        assert time.monotonic() < deadline, machine.said()
    assert machine.get("http://127.0.0.1:8000/").startswith("v1")


@pytest.fixture
def server(dev: Shop, host: Hosts) -> Host:
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    return server


@pytest.mark.parametrize("mode", [(), ("--per-process",)], ids=["supervised", "per-process"])
def test_systemd_finds_no_fault(mode: tuple[str, ...], server: Host, tmp_path: Path) -> None:
    printed = server.gitrel("export", "systemd", *mode, "--user", "daemon", "--name", "a b")
    first = server.gitrel("export", "systemd", *mode, "--user", "daemon", "--name", "a b", "-o", str(tmp_path / "etc"))
    made = sorted(path for path in (tmp_path / "etc").rglob("*") if path.is_file())
    assert first.out.splitlines() == [str(path) for path in made]
    assert printed.out == "".join(f"# /etc/{path.relative_to(tmp_path / 'etc')}\n{path.read_text()}\n" for path in made)
    record = server.gitrel("export", "systemd", *mode, "--user", "daemon", "--name", "a b", "--json").json
    assert record["files"] == {str(path.relative_to(tmp_path / "etc")): path.read_text() for path in made}

    units = [str(path) for path in made if path.parent.name == "system"]
    analyze = program("systemd-analyze")
    done = run([analyze, "verify", "--man=no", *units], tmp_path, os.environ)
    assert (done.code, done.out, done.err) == (0, "", "")
    services = [unit for unit in units if unit.endswith(".service")]
    assert services
    for unit in services:
        argv = [analyze, "security", "--offline=yes", f"--threshold={int(EXPOSURE * 10)}", "--no-pager", unit]
        assert (judged := run(argv, tmp_path, os.environ)).code == 0, judged.out


def test_what_it_refuses(server: Host, dev: Shop) -> None:
    assert "not a user's name" in server.gitrel("export", "systemd", "--user", "a b", code=2).message["what"]
    assert "unit's name" in server.gitrel("export", "systemd", "--name", "x" * 300, code=2).message["what"]
    dev.desk.manifest(_MANIFEST.replace("[run.worker]", '[run.worker]\nuser = "daemon"'))
    dev.release()
    server.gitrel("pull")
    for mode in ((), ("--per-process",)):
        failed = server.gitrel("export", "systemd", *mode, "--user", "nobody", code=2)
        assert failed.message["what"] == "worker runs as daemon, and gitrel as nobody"
        assert "User=root" in server.gitrel("export", "systemd", *mode).out
    assert "as root" not in server.gitrel("export", "systemd").err
