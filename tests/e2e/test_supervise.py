"""The supervisor with real processes: what it starts, restarts, switches, stops, and never leaves behind."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from supervised import PATIENCE, SLEEP, Server, await_end, server, web

from gitrel.run.formation import MARK, mark
from gitrel.run.proctree import of_home

__all__ = ["server"]  # a fixture


def test_a_killed_process_is_restarted(server: Server) -> None:
    server.want("v1", web(SLEEP))
    server.start()
    first = server.pid(r"web.1 \| pid")
    server.up()
    os.kill(first, signal.SIGKILL)
    server.expect(r"web.1 failed: signal 9 \(SIGKILL\)")
    assert server.pid(r"web.1 \| pid") != first
    server.expect("web.1 healthy")
    server.settle("v1")
    (process,) = server.status()["processes"]
    assert (process["restarts"], process["state"]) == (1, "up")
    server.stop()
    assert server.status()["processes"] == []
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
    server.settle("v2")
    assert {process["name"] for process in server.status()["processes"]} == {"web.1", "web.2"}
    server.signal(signal.SIGHUP)  # unchanged: nothing happens
    said = server.stop()
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
    first, failed, back = server.notes()
    assert (first, back) == ("good v1", "good v1")
    assert re.fullmatch(rf"failed v2: {why} / web.1 \| (broken|pid \d+)", failed)
    assert server.status()["failed"] == ["v2"]


def test_what_the_log_says_of_a_release_is_in_the_status_file_before(server: Server) -> None:
    server.want("v1", web(SLEEP))
    server.start(told=True)
    server.up()
    server.want("v2", web("exit 1", settle=5))
    server.signal(signal.SIGHUP)
    server.expect("v2 failed")
    server.expect("v1 is good", in_any_order=True)
    said = [line for line in server.stop().splitlines() if re.search("status: |is good|failed: ", line)]
    before = [said[said.index(line) - 1] for line in said if re.search(r"v1 is good|v2 failed: ", line)]
    assert before[0] == "status: steady v1, failed []"
    assert before[1].endswith("failed ['v2']")


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
    server.start(poll="printf 'looking \\033[2J'; test -e next && mv next wanted.json; exit 7", interval=0.3)
    server.up(r"pull \| looking", "pull: exit code 7")
    server.want("v2", web(SLEEP), file="next")
    server.expect("v2 is good")
    server.stop()


def test_a_look_that_fails_or_talks_nonsense_changes_nothing(server: Server) -> None:
    server.want("v1", web(SLEEP))
    server.start()
    server.expect("v1 is good")
    (server.folder / "wanted.json").unlink()
    server.signal(signal.SIGHUP)
    server.expect("pull: exit code 1")
    server.want("v2", web(SLEEP))
    server.signal(signal.SIGHUP)
    server.expect("v2 is good")
    server.stop()


def test_a_pull_that_hangs_is_ended(server: Server) -> None:
    server.want("v1", web(SLEEP))
    server.start(poll="sleep 1000 & echo hanging; sleep 1000", interval=0.1, limit=2)
    server.expect(r"pull \| hanging")
    server.expect("pull: not done within 2 s")
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
    server.start(poll="true", interval=1000)
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
