"""Whatever is done to a sealed folder shows in its seal; whatever is done to content shows in its hash."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store_snapshot import PLANS, Plan, fresh, make

from gitrel.errors import LocalStateError
from gitrel.ids import ObjectFormat
from gitrel.store.checkout import stage_checkout
from gitrel.store.removal import remove_folder
from gitrel.store.repository import Repository
from gitrel.store.seal import hash_folder, seal_folder
from gitrel.store.snapshot import snapshot

PLAN: Plan = {
    "a": (b"content", False),
    "run": (b"#!", True),
    "link": "a",
    "folder": {"b": (b"b", False), "empty": {}},
}


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A checkout."""
    with Repository.init_bare(tmp_path / "r.git", ObjectFormat.SHA1) as repo:
        taken = snapshot(make(tmp_path / "folder", PLAN), repo)
        with stage_checkout(repo, taken.node.oid, tmp_path) as staged:
            staged.publish(tmp_path / "out")
    yield tmp_path / "out"
    remove_folder(tmp_path / "out")


def rewrite(path: Path, data: bytes) -> None:
    """As somebody who hides it: same size, same times, same mode."""
    info = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def swap(path: Path, make_other: Callable[[], object]) -> None:
    path.rename(path.parent.parent / "away")
    make_other()


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


# what is done, and whether the content's hash tells (None: it is refused)
CHANGES: dict[str, tuple[Callable[[Path], object], bool | None]] = {
    "one byte, size and mtime as before": (lambda top: rewrite(top / "a", b"Content"), True),
    "the same bytes again": (lambda top: rewrite(top / "a", b"content"), False),
    "appended": (lambda top: (top / "a").write_bytes(b"content and more"), True),
    "truncated": (lambda top: os.truncate(top / "a", 3), True),
    "mtime": (lambda top: os.utime(top / "a", (1, 1)), False),
    "mtime of a link": (lambda top: os.utime(top / "link", (1, 1), follow_symlinks=False), False),
    "file added": (lambda top: (top / "folder" / "c").write_bytes(b""), True),
    "hidden file added": (lambda top: (top / "folder" / ".c").write_bytes(b""), True),
    "folder added": (lambda top: (top / "folder" / "empty" / "c").mkdir(), True),
    "file removed": (lambda top: (top / "folder" / "b").unlink(), True),
    "folder removed": (lambda top: (top / "folder" / "empty").rmdir(), True),
    "file renamed": (lambda top: (top / "folder" / "b").rename(top / "folder" / "c"), True),
    "file moved": (lambda top: (top / "folder" / "b").rename(top / "b"), True),
    "made writable": (lambda top: (top / "a").chmod(0o644), False),
    "made executable": (lambda top: (top / "a").chmod(0o544), True),
    "folder made writable": (lambda top: (top / "folder").chmod(0o755), False),
    "top made writable": (lambda top: top.chmod(0o755), False),
    "another owner": (lambda top: os.chown(top / "a", 65534, -1), False),
    "another group": (lambda top: os.chown(top / "folder" / "empty", -1, 65534), False),
    "set-user-id": (lambda top: (top / "run").chmod(0o4555), None),
    "file replaced by a copy": (
        lambda top: swap(top / "a", lambda: (top / "a").write_bytes(b"content")),
        False,
    ),
    "file replaced by a link": (lambda top: swap(top / "a", lambda: (top / "a").symlink_to("run")), True),
    "file replaced by a folder": (lambda top: swap(top / "a", (top / "a").mkdir), True),
    "file replaced by a FIFO": (lambda top: swap(top / "a", lambda: os.mkfifo(top / "a")), None),
    "folder replaced by a link": (
        lambda top: swap(top / "folder", lambda: (top / "folder").symlink_to("../away")),
        True,
    ),
    "link retargeted": (lambda top: swap(top / "link", lambda: (top / "link").symlink_to("b")), True),
    "hard link made elsewhere": (lambda top: (top.parent / "other").hardlink_to(top / "a"), False),
    "socket added": (lambda top: bind(top / "s"), None),
    ".git added": (lambda top: (top / ".git").mkdir(), None),
    "unsafe name added": (lambda top: (top / "a\nb").write_bytes(b""), None),
    "name that is no UTF-8 added": (lambda top: open(os.fsencode(top) + b"/\xff", "wb").close(), None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_v10_every_change_shows(sealed: Path, change: str) -> None:
    seal, node = seal_folder(sealed), hash_folder(sealed, ObjectFormat.SHA1)
    act, shows_in_content = CHANGES[change]
    act(sealed)
    assert seal_folder(sealed) != seal
    if shows_in_content is None:
        with pytest.raises(LocalStateError):
            hash_folder(sealed, ObjectFormat.SHA1)
    else:
        assert (hash_folder(sealed, ObjectFormat.SHA1) != node) == shows_in_content


def test_reading_changes_nothing(sealed: Path) -> None:
    seal = seal_folder(sealed)
    for path in sealed.rglob("*"):
        if path.is_file():
            path.read_bytes()
    hash_folder(sealed, ObjectFormat.SHA256)
    assert seal_folder(sealed) == seal
    assert len(seal.digest) == 64


def test_v11_the_descriptor_is_the_folder_whatever_its_name_says(sealed: Path) -> None:
    fd = os.open(sealed, os.O_RDONLY | os.O_DIRECTORY)
    try:
        seal, node = seal_folder(fd), hash_folder(fd, ObjectFormat.SHA1)
        assert seal == seal_folder(sealed)
        other = make(sealed.parent / "evil", {"a": (b"evil", False)})
        kept = sealed.parent / "kept"
        kept.mkdir()
        sealed.rename(kept / "out")
        other.rename(sealed)
        assert seal_folder(sealed) != seal
        assert hash_folder(fd, ObjectFormat.SHA1) == node
        assert hash_folder(sealed, ObjectFormat.SHA1) != node
        assert os.fstat(fd).st_ino == (kept / "out").stat().st_ino
        remove_folder(sealed)
        (kept / "out").rename(sealed)
    finally:
        os.close(fd)


@pytest.mark.parametrize("look", [seal_folder, lambda path: hash_folder(path, ObjectFormat.SHA1)], ids=["seal", "hash"])
def test_a_link_is_not_a_folder(sealed: Path, look: Callable[[Path], object]) -> None:
    (sealed.parent / "link").symlink_to(sealed)
    for path in (sealed.parent / "link", sealed.parent / "nowhere", sealed / "a"):
        with pytest.raises(LocalStateError) as caught:
            look(path)
        assert str(path) in str(caught.value)


def test_a_second_change_in_the_same_tick_cannot_hide(sealed: Path) -> None:
    """Inodes are stamped by a clock of a few milliseconds: a seal taken at once would hold for both contents."""
    for number in range(10):
        rewrite(sealed / "a", b"%07d" % number)
        seal = seal_folder(sealed)
        rewrite(sealed / "a", b"%07d" % (number + 100))
        assert seal_folder(sealed) != seal


def test_an_old_folder_is_sealed_without_waiting(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = seal_folder(sealed)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10**9)
    assert seal_folder(sealed) == seal
    monkeypatch.setattr(time, "time_ns", lambda: 0)  # V17: the clock is at 1970
    assert seal_folder(sealed) == seal
    assert waits == []


def test_deep_folders_are_refused_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deep = tmp_path / "deep"
    here = deep
    for _ in range(600):
        here.mkdir()
        os.chdir(here)
        here = Path("d")
    os.chdir(tmp_path)
    with pytest.raises(LocalStateError, match="deep"):
        seal_folder(deep)
    with pytest.raises(LocalStateError, match="too big"):
        hash_folder(deep, ObjectFormat.SHA1)
    remove_folder(deep)


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("room")


@given(plan=PLANS, extra=st.sampled_from(["z", "A"]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_hash_is_the_snapshots(room: Path, plan: Plan, extra: str) -> None:
    """In both formats, read-only, and the seal of the same folder is the same each time."""
    room = fresh(room / "x")
    folder = make(room / "folder", plan)
    seal = seal_folder(folder)
    for fmt in ObjectFormat:
        with Repository.init_bare(room / f"{fmt}.git", fmt) as repo:
            assert hash_folder(folder, fmt) == snapshot(folder, repo).node
    assert seal_folder(folder) == seal
    if extra not in plan:
        (folder / extra).write_bytes(b"")
        assert seal_folder(folder) != seal
