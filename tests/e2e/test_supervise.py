"""The supervisor with real processes: what it starts, restarts, switches, stops, and never leaves behind.

A driver runs it as the command line would: `wanted.json` is what `resolve` returns, and the guardian holds the
lock of the home too. The tests wait for lines of the log, for pidfds and for the lock, never for time to pass.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitrel.run.formation import MARK, mark
from gitrel.run.proctree import of_home

PATIENCE = 30.0
REPOSITORY = Path(__file__).parents[2]
DRIVER = """
import fcntl, json, os, sys
from pathlib import Path
from gitrel.errors import RemoteError
from gitrel.format.manifest import Health
from gitrel.run.formation import MARK, Formation, Process, mark
from gitrel.run.supervise import Supervisor

folder = Path(sys.argv[1])
home = str(folder)

def load(name):
    spec = json.loads((folder / name).read_text())
    if "error" in spec:
        raise RemoteError(spec["error"])
    processes = []
    for each in spec["processes"]:
        label = f"{each['type']}.{each.get('index', 1)}"
        processes.append(Process(
            type=each["type"], index=each.get("index", 1), command=each["command"],
            env={"PATH": os.defpath, **each.get("env", {}), MARK: mark(home, spec["release"], label)},
            cwd=folder, port=each.get("port", 0),
            health=Health(**each["health"]) if "health" in each else None,
            settle=each.get("settle", 0.05), stop_timeout=each.get("stop_timeout", 10.0),
        ))
    return Formation(release=spec["release"], processes=tuple(processes))

def note(text):
    with open(folder / "notes", "a") as file:
        file.write(text + "\\n")

lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
fcntl.flock(lock, fcntl.LOCK_EX)
options = json.loads((folder / "options.json").read_text())
if options.get("poller"):
    options["poll_env"] = {"PATH": os.defpath, MARK: mark(home, "pull", "pull")}
Supervisor(
    lambda: load("wanted.json"), home=home, status=folder / "status.json", output=1, hold=[lock],
    on_good=lambda formation: note(f"good {formation.release}"),
    on_failed=lambda formation, why: note(f"failed {formation.release}: {why}"),
    last_good=load("good.json") if (folder / "good.json").exists() else None,
    **options,
).run()
"""


class Server:
    """One home, and the supervisor that runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.said = b""
        self.seen = 0

    def want(self, release: str, *processes: dict[str, Any], file: str = "wanted.json") -> None:
        new = self.folder / "new"
        new.write_text(json.dumps({"release": release, "processes": processes}))
        new.replace(self.folder / file)

    def start(self, *prefix: str, **options: Any) -> None:
        (self.folder / "options.json").write_text(json.dumps(options))
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", DRIVER, str(self.folder)],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"], "SECRET": "x"},
        )  # fmt: skip
        self.said, self.seen = b"", 0

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def expect(self, pattern: str, *, in_any_order: bool = False) -> re.Match[bytes]:
        """The next match in what it says, from where the last one ended, or `in_any_order` from the beginning."""
        if in_any_order:
            self.seen = 0
        assert self.running.stdout is not None
        fd = self.running.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while (match := re.compile(pattern.encode()).search(self.said, self.seen)) is None:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(fd, 65536) if ready else b""
            assert data, f"never said {pattern!r}:\n{self.said.decode(errors='replace')}"
            self.said += data
        self.seen = match.end()
        return match

    def pid(self, pattern: str) -> int:
        return int(self.expect(pattern + r" (\d+)\n")[1])

    def up(self, *patterns: str) -> None:
        """Until the first release is good and everything else was said, in whatever order."""
        for pattern in ("v1 is good", *patterns):
            self.expect(pattern, in_any_order=True)

    def signal(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    def stop(self) -> str:
        """TERM; it must end with 0 and leave nothing. Returns all that it said."""
        self.signal(signal.SIGTERM)
        assert self.rest() == 0
        assert of_home(str(self.folder)) == []
        return self.said.decode(errors="replace")

    def rest(self) -> int:
        output, _ = self.running.communicate(timeout=PATIENCE)
        self.said += output
        return self.running.returncode

    def status(self) -> dict[str, Any]:
        """As it was written before the supervisor last went to wait; what `expect` has just seen may be later."""
        found: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        return found

    def settle(self, release: str) -> None:
        """Until the release is good, said so in the status file, and the supervisor has gone to wait."""
        stat = Path(f"/proc/{self.running.pid}/status")
        deadline = time.monotonic() + PATIENCE
        while "State:\tS" not in stat.read_text() or (
            (status := self.status())["phase"],
            status["release"],
        ) != ("steady", release):
            assert time.monotonic() < deadline, "it never went to wait"

    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines()

    def await_unlocked(self) -> None:
        """Until the guardian has let go: nothing of the home is left then."""
        with open(self.folder / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a hang is pytest's timeout


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.communicate()
        made.await_unlocked()


def await_end(pid: int) -> None:
    """Until it has ended; it may have already."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([fd], [], [], PATIENCE)[0] == [fd]
    os.close(fd)


def web(command: str, **more: Any) -> dict[str, Any]:
    return {"type": "web", "command": command, **more}


SLEEP = "echo pid $$; exec sleep 1000"
PYTHON = f"exec {sys.executable} -u -c "


def test_a_killed_process_is_restarted(server: Server) -> None:
    server.want("v1", web(SLEEP))
    server.start()
    first = server.pid(r"web.1 \| pid")
    server.up()
    os.kill(first, signal.SIGKILL)
    server.expect(r"web.1 failed: signal 9 \(SIGKILL\)")
    assert server.pid(r"web.1 \| pid") != first
    server.expect("web.1 healthy")
    server.stop()
    (process,) = server.status()["processes"]
    assert (process["restarts"], process["state"], process["pid"]) == (1, "gone", None)
    assert server.notes() == ["good v1"]


def test_the_environment_is_exactly_what_was_given(server: Server) -> None:
    server.want("v1", web("tr '\\0' '\\n' < /proc/$$/environ; :", env={"A": "ä b"}, settle=1000))
    server.start()
    server.expect(r"web.1 failed")
    lines = re.findall(r"web\.1 \| (.*)", server.stop())
    expected = ["A=ä b", f"{MARK}={mark(str(server.folder), 'v1', 'web.1')}", f"PATH={os.defpath}"]
    assert sorted(set(lines)) == sorted(expected)


def test_term_ignored_ends_in_kill_after_stop_timeout(server: Server) -> None:
    server.want("v1", web("trap '' TERM; echo pid $$; while :; do sleep 1000; done", stop_timeout=0.2))
    server.start()
    pid = server.pid(r"web.1 \| pid")
    server.up()
    said = server.stop()
    assert "web.1 stubborn: still there 0.2 s after TERM; sending KILL" in said
    assert "web.1 exited: signal 9 (SIGKILL)" in said
    await_end(pid)


def test_a_second_signal_kills_at_once(server: Server) -> None:
    server.want("v1", web("trap '' TERM; echo up; while :; do sleep 1000; done", stop_timeout=1000))
    server.start()
    server.expect(r"web.1 \| up")
    server.signal(signal.SIGINT)
    server.expect("stopping\n")
    server.signal(signal.SIGTERM)
    server.expect("stopping at once")
    assert server.rest() == 0


def test_last_words_are_not_lost(server: Server) -> None:
    server.want("v1", web("trap 'printf \"bye, no newline\"; exit 0' TERM; echo up; while :; do sleep 0.1; done"))
    server.start()
    server.up(r"web.1 \| up")
    assert "web.1 | bye, no newline\n" in server.stop()


DAEMON = (
    "import os, time\n"
    "open('leader', 'w').write(str(os.getpid()))\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        {wipe}\n"
    "        print('daemon', os.getpid()); time.sleep(1000)\n"
    "    os._exit(0)\n"
    "os.wait(); time.sleep(1000)\n"
)


WIPE = "os.execve('/bin/sh', ['sh', '-c', 'echo daemon $$; sleep 1000; :'], {'PATH': os.defpath})"


@pytest.mark.parametrize("wipe", ["pass", WIPE])
def test_a_double_forked_daemon_dies_before_the_restart(server: Server, wipe: str) -> None:
    (server.folder / "app.py").write_text(DAEMON.format(wipe=wipe))
    server.want("v1", web(f"exec {sys.executable} -u app.py"))
    server.start()
    daemon = server.pid(r"web.1 \| daemon")
    held = os.pidfd_open(daemon)
    server.up()
    leader = int((server.folder / "leader").read_text())
    os.kill(leader, signal.SIGKILL)
    server.expect("web.1 restarting")
    assert select.select([held], [], [], 0)[0] == [held], "the daemon outlived the restart"
    os.close(held)
    server.stop()


@pytest.mark.parametrize("also", ["supervisor", "guardian first"])
def test_kill_9_of_the_supervisor_leaves_no_process(server: Server, also: str) -> None:
    (server.folder / "app.py").write_text(DAEMON.format(wipe="pass"))
    server.want("v1", web(f"exec {sys.executable} -u app.py"), {"type": "worker", "command": "sleep 999 & " + SLEEP})
    server.start()
    server.up(r"web.1 \| daemon", r"worker.1 \| pid")
    if also == "guardian first":
        os.kill(guardian_of(server), signal.SIGKILL)
        server.expect("the guardian died")
        assert guardian_of(server)
    assert len(of_home(str(server.folder))) >= 4
    server.signal(signal.SIGKILL)
    server.running.communicate(timeout=PATIENCE)
    server.await_unlocked()
    assert of_home(str(server.folder)) == []


def guardian_of(server: Server) -> int:
    """Its pid, once it is there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for name in os.listdir("/proc"):
            if name.isdigit() and _is_guardian(Path("/proc") / name, server.running.pid):
                return int(name)
    raise AssertionError("no guardian")


def _is_guardian(folder: Path, parent: int) -> bool:
    try:
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status["Name"] == "gitrel-guardian" and status["PPid"] == str(parent)


def test_what_an_earlier_run_left_is_gone_before_anything_starts(server: Server) -> None:
    """Supervisor and guardian killed at once: only the next start can help."""
    (server.folder / "app.py").write_text(DAEMON.format(wipe="pass"))
    server.want("v1", web(f"exec {sys.executable} -u app.py"))
    server.start()
    daemon = server.pid(r"web.1 \| daemon")
    server.up()
    os.kill(guardian_of(server), signal.SIGSTOP)  # it can neither act nor be replaced
    guardian = guardian_of(server)
    server.signal(signal.SIGKILL)
    os.kill(guardian, signal.SIGKILL)
    server.running.communicate(timeout=PATIENCE)
    assert daemon in {seen.pid for seen in of_home(str(server.folder))}
    held = os.pidfd_open(daemon)
    server.start()
    server.expect("starting v1")
    assert select.select([held], [], [], 0)[0] == [held]
    os.close(held)
    server.stop()


def test_a_good_release_takes_over_and_removed_types_stop(server: Server) -> None:
    server.want("v1", web(SLEEP), {"type": "old", "command": "echo pid $$; exec sleep 1000"})
    server.start()
    server.expect("v1 is good")
    server.want("v2", web("echo second; " + SLEEP), web(SLEEP, index=2))
    server.signal(signal.SIGUSR1)
    server.expect("v2 is good")
    server.signal(signal.SIGHUP)  # unchanged: nothing happens
    said = server.stop()
    assert {process["name"] for process in server.status()["processes"]} == {"web.1", "web.2"}
    assert said.index("old.1 exited") < said.index("starting v2")
    assert said.count("starting v") == 2
    assert server.notes() == ["good v1", "good v2"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (web("echo broken; exit 3", settle=5), "web.1: exit code 3"),
        (web(SLEEP, health={"port": True, "timeout": 0.3}, port=1), "web.1: not healthy within 0.3 s"),
    ],
)
def test_a_failing_release_gives_way_to_the_good_one(server: Server, bad: dict[str, Any], why: str) -> None:
    server.want("v1", web(SLEEP))
    server.start()
    server.expect("v1 is good")
    server.want("v2", bad)
    server.signal(signal.SIGHUP)
    server.expect(f"v2 failed: {why}")
    server.expect("starting v1")
    server.expect("v1 is good")
    server.signal(signal.SIGHUP)  # still wanted, and not tried again
    said = server.stop()
    assert said.count("starting v2") == 1
    assert server.notes() == ["good v1", f"failed v2: {why}", "good v1"]
    assert server.status()["failed"] == ["v2"]


def test_the_first_start_falls_back_to_the_last_good_release(server: Server) -> None:
    server.want("v1", web(SLEEP), file="good.json")
    server.want("v2", web("exit 1", settle=5))
    server.start()
    server.expect("v2 failed: web.1: exit code 1")
    server.expect("v1 is good")
    server.stop()


def test_a_first_start_without_a_good_release_keeps_trying_and_says_so(server: Server) -> None:
    server.want("v1", web("test -e fixed && exec sleep 1000; exit 1", settle=1))
    server.start()
    server.expect("v1 is not healthy, and there is no other good release")
    server.expect("failures in a row: 2")
    assert server.status()["trouble"] == "web.1: exit code 1"
    (server.folder / "fixed").touch()
    server.expect("v1 is good")
    server.stop()
    assert server.notes() == ["good v1"]


HTTP = (
    "import http.server, os, sys\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        ready = self.path == '/healthz' and os.path.exists('ready')\n"
    "        self.send_response(204 if ready else 503); self.end_headers()\n"
    "        open('ready', 'w').close()\n"
    "server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)\n"
    "server.serve_forever()\n"
)


def test_health_over_http(server: Server, free_port: int) -> None:
    (server.folder / "app.py").write_text(HTTP)
    command = f"exec {sys.executable} app.py {free_port} 2>/dev/null"
    server.want("v1", web(command, health={"path": "/healthz"}, port=free_port))
    server.start()
    server.expect("v1 is good")
    server.stop()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_following_pulls_in_a_child_and_survives_what_it_says(server: Server) -> None:
    server.want("v1", web(SLEEP))
    poll = "echo looking; test -e next && mv next wanted.json; exit 7"
    server.start(poller=["/bin/sh", "-c", f"cd {server.folder}; {poll}"], poll_interval=0.3)
    server.up(r"pull \| looking", "pull: exit code 7")
    (server.folder / "next").write_text(json.dumps({"error": "remote says \x1b[2J"}))
    server.expect(r"going on with what runs: remote says \\x1b\[2J")
    server.want("v2", web(SLEEP), file="next")
    server.expect("v2 is good")
    server.stop()


def test_a_pull_that_hangs_is_ended(server: Server) -> None:
    server.want("v1", web(SLEEP))
    server.start(poller=["/bin/sh", "-c", "sleep 1000 & echo hanging; sleep 1000"], poll_interval=0.1, poll_limit=0.2)
    server.expect(r"pull \| hanging")
    server.expect("pull: not done within 0.2 s")
    server.expect(r"pull: signal 15")
    server.stop()


TEARING = (
    "import signal, sys\n"
    "for _ in range(300):\n"
    "    for piece in ('a' * 500, 'b' * 500, '\\n'):\n"
    "        sys.stdout.write(piece); sys.stdout.flush()\n"
    "print('done', flush=True)\n"
    "signal.pause()\n"
)


def test_lines_are_never_torn(server: Server) -> None:
    (server.folder / "app.py").write_text(TEARING)
    server.want("v1", *(web(f"exec {sys.executable} -u app.py", index=each) for each in (1, 2, 3)))
    server.start()
    server.up(*(rf"web.{each} \| done" for each in (1, 2, 3)))
    texts = re.findall(r"(?m)^..:..:.. web\.\d \| (.*)$", server.stop())
    texts = [text for text in texts if text != "done"]
    assert set(texts) == {"a" * 500 + "b" * 500}
    assert len(texts) == 900


def test_fifty_restarts_leak_no_descriptor(server: Server) -> None:
    server.want("v1", web("echo pid $$; exec sleep 1000"))
    server.start(poller=["/bin/true"], poll_interval=1000)
    fds = Path(f"/proc/{server.running.pid}/fd")
    server.expect("v1 is good")
    server.settle("v1")
    before = len(list(fds.iterdir()))
    for number in range(50):
        server.want(f"v{number + 2}", web("echo pid $$; exec sleep 1000", settle=0.001))
        server.signal(signal.SIGUSR1)
        server.expect(f"v{number + 2} is good")
    server.settle("v51")
    assert len(list(fds.iterdir())) == before
    server.stop()


def test_idle_means_no_wakeups(server: Server) -> None:
    server.want("v1", web(SLEEP))
    server.start()
    server.expect("v1 is good")
    pid, output = server.running.pid, server.running.stdout
    assert output is not None
    server.settle("v1")
    before = wakeups(pid)
    assert select.select([output], [], [], 2.0)[0] == []  # two seconds without a word, measured
    assert wakeups(pid) == before
    server.stop()


def wakeups(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(number) for number in re.findall(r"ctxt_switches:\s+(\d+)", status))


def test_as_pid_1_it_reaps_forwards_and_leaves_nothing(server: Server) -> None:
    (server.folder / "app.py").write_text(DAEMON.format(wipe="pass"))
    server.want("v1", web(f"exec {sys.executable} -u app.py"))
    server.start("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    server.expect("v1 is good")
    assert server.status()["supervisor"] == 1
    children = Path(f"/proc/{server.running.pid}/status").read_text()
    assert "unshare" in children
    inner = next(seen for seen in map(int, filter(str.isdigit, os.listdir("/proc")))
                 if _is_child(seen, server.running.pid))  # fmt: skip
    os.kill(inner, signal.SIGTERM)
    assert server.rest() == 0
    assert b"gitrel | stopped" in server.said


def _is_child(pid: int, parent: int) -> bool:
    try:
        return f"PPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
