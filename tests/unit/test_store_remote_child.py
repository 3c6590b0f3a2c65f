"""The child that talks to a remote: it ends with its parent, within its limits, and never with a traceback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from test_store_remote_pack import blob_id, copy, insert, number, pack, ref_delta, whole

import gitrel
from gitrel.errors import Conflict, RemoteError, UsageError
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.limits import FilterUnsupported, Limits
from gitrel.store.quarantine import Quarantine, remove_stale
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository
from gitrel.store.transfer import Child

ENV = {"PATH": os.environ["PATH"]}

_PACKS = ("test_store_remote_pack.py", "test_limits_are_reached_before_the_cost")
_CHILD = "test_store_remote_child.py"
REACHED = {
    "wire_bytes": ("test_store_remote_hostile.py", "test_endless_pack"),
    "refs": ("test_store_remote_hostile.py", "test_advertisements"),
    "objects": _PACKS,
    "object_bytes": _PACKS,
    "metadata_bytes": _PACKS,
    "total_bytes": _PACKS,
    "delta_depth": _PACKS,
    "connect_seconds": (_CHILD, "test_a_connection_ends_at_its_limit"),
    "idle_seconds": (_CHILD, "test_silence_ends_at_the_idle_limit"),
    "wall_seconds": (_CHILD, "test_everything_ends_at_the_wall_limit"),
    "cpu_seconds": (_CHILD, "test_cpu_time_ends_at_its_limit"),
    "memory_bytes": (_CHILD, "test_memory_ends_at_its_limit"),
    "salvage_bytes": ("test_store_salvage.py", "test_salvage_bytes_bound_it"),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "home.git", ObjectFormat.SHA1) as repo:
        yield repo


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def url_of(listener: socket.socket) -> str:
    return f"git://127.0.0.1:{listener.getsockname()[1]}/repo.git"


def test_one_child_serves_many_operations(tmp_path: Path) -> None:
    Repository.init_bare(tmp_path / "bare.git", ObjectFormat.SHA1).close()
    with Remote.resolve(None, str(tmp_path / "bare.git"), env=ENV) as remote:
        assert remote.list(["refs/"]) == {}
        first = remote._child
        assert remote.list(["refs/"]) == {}
        assert remote._child is first


def test_a_killed_child_is_a_remote_error_and_the_next_operation_has_a_new_one(
    tmp_path: Path, listener: socket.socket
) -> None:
    with Remote.resolve(None, url_of(listener), env=ENV) as remote:
        killer = threading.Thread(target=kill_when_connected, args=(remote, listener))
        killer.start()
        with pytest.raises(RemoteError, match="killed by signal 9") as caught:
            remote.list(["refs/"])
        killer.join()
        assert caught.value.where == url_of(listener)
        listener.close()
        with pytest.raises(RemoteError, match="cannot reach the remote"):
            remote.list(["refs/"])


def kill_when_connected(remote: Remote, listener: socket.socket) -> None:
    connection, _ = listener.accept()
    assert remote._child is not None
    os.kill(remote._child._process.pid, signal.SIGKILL)
    connection.close()


def test_silence_ends_at_the_idle_limit(listener: socket.socket) -> None:
    with (
        Remote.resolve(None, url_of(listener), env=ENV, limits=Limits(idle_seconds=1)) as remote,
        pytest.raises(RemoteError, match="limit idle_seconds"),
    ):
        remote.list(["refs/"])


@pytest.mark.parametrize("scheme", ["git", "http"])
def test_a_connection_ends_at_its_limit(scheme: str) -> None:
    """A server whose queue of connections is full: the kernel answers nobody any more (listen(2))."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        url = url_of(server).replace("git:", f"{scheme}:")
        remote = stack.enter_context(Remote.resolve(None, url, env=ENV, limits=Limits(connect_seconds=1)))
        with pytest.raises(RemoteError, match=r"cannot reach the remote: .*timed out") as caught:
            remote.list(["refs/"])
        assert scheme == "http" or "limit connect_seconds" in caught.value.why


def test_a_listing_may_get_less_time(listener: socket.socket) -> None:
    with (
        Remote.resolve(None, url_of(listener), env=ENV) as remote,
        pytest.raises(RemoteError, match="more than 1 seconds"),
    ):
        remote.list(["refs/"], within=1)


def test_everything_ends_at_the_wall_limit(listener: socket.socket) -> None:
    with (
        Remote.resolve(None, url_of(listener), env=ENV, limits=Limits(wall_seconds=1)) as remote,
        pytest.raises(RemoteError, match="limit wall_seconds"),
    ):
        remote.list(["refs/"])


def test_the_child_dies_with_its_parent(tmp_path: Path, listener: socket.socket, store: Repository) -> None:
    """kill -9 on the parent: the connection ends, and what it left behind is removed by the next run."""
    code = f"""
import sys
from pathlib import Path
from gitrel.ids import ObjectId
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository
store = Repository.open(Path({str(store.path)!r}))
with Quarantine(store, Path({str(tmp_path / "q")!r})) as quarantine:
    Remote.resolve(None, {url_of(listener)!r}, env={ENV!r}).fetch(quarantine, [ObjectId("1" * 40)])
"""
    root = str(Path(gitrel.__file__).parent.parent)
    process = subprocess.Popen([sys.executable, "-c", code], env={**ENV, "PYTHONPATH": root})
    connection, _ = listener.accept()
    with connection:
        connection.recv(1000)
        remove_stale(tmp_path / "q")
        assert len(list((tmp_path / "q").iterdir())) == 1, "a living process keeps its quarantine"
        process.kill()
        process.wait()
        connection.settimeout(10)
        assert connection.recv(1000) == b""
    remove_stale(tmp_path / "q")
    assert list((tmp_path / "q").iterdir()) == []


def serve_pack(listener: socket.socket, data: bytes) -> threading.Thread:
    """A git:// server of version 0 that sends one pack, whatever it is asked for."""

    def run() -> None:
        with listener.accept()[0] as connection:
            line = b"1" * 40 + b" refs/releases/v1\0side-band-64k ofs-delta object-format=sha1"
            connection.recv(65536)
            connection.sendall(b"%04x" % (len(line) + 4) + line + b"0000")
            connection.recv(65536)
            connection.sendall(b"0008NAK\n")
            for at in range(0, len(data), 60_000):
                part = data[at : at + 60_000]
                connection.sendall(b"%04x" % (len(part) + 5) + b"\1" + part)
            connection.sendall(b"0000")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_memory_ends_at_its_limit(tmp_path: Path, listener: socket.socket, store: Repository) -> None:
    """Two objects that fit one by one and not together; the parent's memory is never touched."""
    base = bytes(100_000_000)
    size = number(len(base))
    delta = size + size + b"".join(copy(0, 10_000_000) for _ in range(10))
    thread = serve_pack(listener, pack(whole(3, base), ref_delta(blob_id(base), delta[:-8] + copy(1, 10_000_000))))
    limits = Limits(memory_bytes=300_000_000)
    with (
        Remote.resolve(None, url_of(listener), env=ENV, limits=limits) as remote,
        Quarantine(store, tmp_path / "q") as quarantine,
        pytest.raises(RemoteError, match="limit memory_bytes"),
    ):
        remote.fetch(quarantine, [ObjectId("1" * 40)])
    thread.join()
    assert list((tmp_path / "q").iterdir()) == []


def test_cpu_time_ends_at_its_limit(tmp_path: Path, listener: socket.socket, store: Repository) -> None:
    base = bytes(20_000_000)
    head = number(len(base)) + number(len(base) + 4)
    body, name = copy(0, 1_000_000) * 20, blob_id(base)
    entries = [ref_delta(name, head + body + insert(b"%04d" % at)) for at in range(400)]
    thread = serve_pack(listener, pack(whole(3, base), *entries))
    limits = Limits(cpu_seconds=1, total_bytes=10**12)
    with (
        Remote.resolve(None, url_of(listener), env=ENV, limits=limits) as remote,
        Quarantine(store, tmp_path / "q") as quarantine,
        pytest.raises(RemoteError, match="limit cpu_seconds"),
    ):
        remote.fetch(quarantine, [ObjectId("1" * 40)])
    thread.join()


def test_nothing_but_the_environment_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has what the caller passed, not what this process has."""
    monkeypatch.setenv("GITREL_TEST_LEAK", "1")
    child = Child(ENV, Limits(), interactive=False)
    try:
        raw = Path(f"/proc/{child._process.pid}/environ").read_bytes()
    finally:
        child.close()
    assert b"GITREL_TEST_LEAK" not in raw
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child._process.pid}").exists():
        assert time.monotonic() < deadline


def test_a_password_is_in_no_argument(listener: socket.socket) -> None:
    """/proc is for everybody to read."""
    url = f"http://me:hunter2@127.0.0.1:{listener.getsockname()[1]}/repo.git"
    seen: list[bytes] = []
    with Remote.resolve(None, url, env=ENV, limits=Limits(idle_seconds=5)) as remote:

        def look() -> None:
            connection, _ = listener.accept()
            assert remote._child is not None
            seen.append(Path(f"/proc/{remote._child._process.pid}/cmdline").read_bytes())
            seen.append(Path(f"/proc/{remote._child._process.pid}/environ").read_bytes())
            connection.close()

        thread = threading.Thread(target=look)
        thread.start()
        with pytest.raises(RemoteError):
            remote.list(["refs/"])
        thread.join()
    assert len(seen) == 2
    assert not any(b"hunter2" in text for text in seen)


def test_every_error_of_the_child_is_known_to_the_parent() -> None:
    """The exit codes stay what they were on the other side of the pipe."""
    assert FilterUnsupported.exit_code is RemoteError.exit_code
    assert Conflict.exit_code != RemoteError.exit_code


class TestLimits:
    def test_settings(self) -> None:
        assert Limits.from_settings({"objects": "12"}) == Limits(objects=12)
        assert Limits.of({"GITREL_LIMITS": "objects=12, idle_seconds=3"}) == Limits(objects=12, idle_seconds=3)
        assert Limits.of({}) == Limits()
        with Remote.resolve(None, "/x", env={"GITREL_LIMITS": "refs=7"}) as remote:
            assert remote.limits == Limits(refs=7)

    @pytest.mark.parametrize(
        ("name", "value"), [("nope", "1"), ("objects", "0"), ("objects", "-1"), ("objects", "1e3")]
    )
    def test_settings_that_make_no_sense(self, name: str, value: str) -> None:
        with pytest.raises(UsageError, match="GITREL_LIMITS"):
            Limits.of({"GITREL_LIMITS": f"{name}={value}"})

    def test_each_is_reached_by_a_test(self) -> None:
        """Which one, by limit: `pytest FILE -k NAME` runs it."""
        assert REACHED.keys() == {field.name for field in fields(Limits)}
        for name, (file, test) in REACHED.items():
            text = (Path(__file__).parent / file).read_text()
            assert f"def {test}(" in text, name
            assert name in text, name

    def test_each_is_documented(self) -> None:
        page = (Path(__file__).parents[2] / "docs/remotes.md").read_text()
        rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE))
        assert rows == {name: str(value) for name, value in asdict(Limits()).items()}
