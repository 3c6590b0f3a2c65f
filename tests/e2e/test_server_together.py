"""Everything at once on one home, again and again: a supervisor, pulls, prunes, pins, scales, looks and execs."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable

from apps import Host, Shop, farm, host, shop
from room import Done, run

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

SECONDS = 5.0
ROUNDS = 3  # of each command, at least


class Crowd:
    """Commands in threads, each as a program of its own, until the time is over."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._until = time.monotonic() + SECONDS
        self.codes: Counter[tuple[str, int]] = Counter()
        self.broken: list[str] = []
        self.outs: set[str] = set()

    def keep_on(self, *commands: Callable[[], tuple[str, ...]], fine: frozenset[int]) -> threading.Thread:
        def work() -> None:
            rounds = 0
            while time.monotonic() < self._until or rounds < ROUNDS:
                rounds += 1
                for command in commands:
                    args = command()
                    done = self._run(args)
                    self.codes[args[0], done.code] += 1
                    if args[0] == "exec":
                        self.outs.add(done.out)
                    if done.code not in fine or "Traceback" in done.err:
                        self.broken.append(f"{args}: {done.code}\n{done.err}")

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def _run(self, args: tuple[str, ...]) -> Done:
        if args[0] == "exec":  # what it becomes is told by its program
            env = {**self._server.env, "GITREL_HOME": str(self._server.path)}
            return run(self._server.argv(*args), self._server.path.parent, env)
        return self._server.attempt(*args)


def test_nobody_breaks(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    for _ in range(2):
        dev.release("cat text; [ -z $PORT ] || exec sleep ${NAP:-0}")
    dev.desk.gitrel("config", "set", "NAP=1000")
    dev.release()
    server = host(dev.url, dev.pin)
    server.gitrel("pull")

    def newest() -> int:
        return int(server.state()["ready"][1:])

    with server.running("--follow") as app:
        app.expect("v4 is good")
        crowd = Crowd(server)
        one = frozenset({0})
        threads = [
            crowd.keep_on(lambda: ("pull",), fine=frozenset({0, 12})),
            crowd.keep_on(lambda: ("prune", "--keep", "3"), fine=one),
            crowd.keep_on(lambda: ("pin", f"v{newest()}"), lambda: ("unpin",), fine=one),
            crowd.keep_on(lambda: ("scale", "web=2"), lambda: ("scale", "--reset"), fine=one),
            crowd.keep_on(lambda: ("status", "--json"), lambda: ("poke",), fine=frozenset({0, 18})),
            crowd.keep_on(lambda: ("exec", "--", "cat", "text"), fine=one),
        ]
        for _ in range(2):
            dev.release()
        for thread in threads:
            thread.join()
        assert crowd.broken == []
        assert {out for out in crowd.outs if not re.fullmatch(r"[456]\n", out)} == set()
        server.gitrel("unpin")
        server.gitrel("scale", "--reset")
        server.gitrel("poke")
        server.await_current(f"v{dev.releases}")
        assert server.state()["failed"] == {}
    server.gitrel("prune", "--keep", "1")
    assert len(list((server.path / "repo.git/objects/pack").glob("*.pack"))) == 1
    server.fsck()
    assert subprocess.run(["git", "-C", str(server.path / "repo.git"), "count-objects"], check=True).returncode == 0
