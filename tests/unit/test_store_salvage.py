"""What is made of streams that were cut, or never were packs: exactly the objects that came whole, under the limits."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_store_remote_pack import (
    BAD,
    BASE,
    BLOB,
    COSTLY,
    GOOD,
    SHA1,
    blob_id,
    copy,
    insert,
    number,
    ofs_delta,
    pack,
    ref_delta,
    whole,
)

from gitrel.errors import RemoteError
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.ingest import Ingested, PackReceiver
from gitrel.store.limits import Limits
from gitrel.store.packs import Pack
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository
from gitrel.store.salvage import Salvage, repository, streams, weigh

GIT = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
STEP = 1 if "GITREL_SWEEP" in os.environ else 7  # every how many bytes a pack is cut


def git(folder: Path, *args: str, stdin: bytes = b"") -> bytes:
    argv = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args]
    return subprocess.run(argv, cwd=folder, env=GIT, input=stdin, capture_output=True, check=True).stdout


class Work:
    """Two commits of small files that resemble each other, by stock git, and the packs that it would send."""

    def __init__(self, folder: Path, fmt: ObjectFormat) -> None:
        self.path, self.format = folder, fmt
        folder.mkdir()
        git(folder, "init", "-q", f"--object-format={fmt.value}")
        noise = random.Random(1)
        text = [f"line {noise.random()}\n" for _ in range(40)]
        for at in range(2):
            for file in range(4):
                (folder / f"d{file % 2}").mkdir(exist_ok=True)
                text[file * 3 + at] = f"{at} {file}\n"
                (folder / f"d{file % 2}/{file}").write_text("".join(text))
            git(folder, "add", "-A")
            git(folder, "commit", "-q", "-m", str(at))
        self.old, self.new = (ObjectId(git(folder, "rev-parse", rev).decode().strip()) for rev in ("HEAD^", "HEAD"))
        git(folder, "config", "uploadpack.allowFilter", "true")

    def pack(self, *, thin: bool) -> bytes:
        wants = f"{self.new}\n" + (f"^{self.old}\n" if thin else "")
        options = ["--stdout", "--revs", "--delta-base-offset", *(["--thin"] if thin else [])]
        return git(self.path, "pack-objects", "-q", *options, stdin=wants.encode())

    def home(self, folder: Path, *, with_old: bool) -> Repository:
        """A repository that has the old commit, or nothing."""
        repo = Repository.init_bare(folder, self.format)
        if with_old:
            git(folder, "fetch", "-q", str(self.path), f"{self.old}:refs/heads/old")
            repo.packs.reload()
        return repo


@pytest.fixture(scope="module", params=[ObjectFormat.SHA1, ObjectFormat.SHA256], ids=lambda fmt: fmt.value)
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("work") / "src", request.param)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "home.git", SHA1) as repo:
        yield repo


def salvage(folder: Path, home: Repository, data: bytes, limits: Limits | None = None) -> Ingested:
    """What becomes of a stream of these bytes."""
    folder.mkdir(exist_ok=True)
    stream = folder / "incoming-0.tmp"
    stream.write_bytes(data)
    done = PackReceiver(folder, home, limits or Limits(), stream=stream).salvage()
    assert list(folder.glob("*.tmp")) == []
    return done


def places(path: Path, fmt: ObjectFormat) -> dict[ObjectId, int]:
    """Where each object of a pack begins."""
    made = Pack(path, fmt)
    found = {ObjectId.from_raw(raw): offset for raw, offset in made.entries()}
    made.close()
    return found


@pytest.mark.parametrize("thin", [False, True])
def test_a_pack_of_gits_cut_at_any_byte(work: Work, tmp_path: Path, thin: bool) -> None:
    """Of what stock git sends, deltas and all, exactly the objects whose last byte came; stock git takes the result."""
    data = work.pack(thin=thin)
    with work.home(tmp_path / "home.git", with_old=thin) as home:
        full = tmp_path / "full"
        full.mkdir()
        receiver = PackReceiver(full, home, Limits())
        receiver.write(data)
        done = receiver.finish()
        starts = places(full / f"{done.pack}.pack", work.format)
        ends = sorted(starts.values())[1:]
        sent = {oid: at for oid, at in starts.items() if at < len(data) - work.format.raw_length}
        assert len(sent) > 6
        for cut in [*range(0, len(data), STEP), *ends, *(end - 1 for end in ends), len(data) - 1, len(data)]:
            folder = tmp_path / "cut"
            done = salvage(folder, home, data[:cut])
            whole_ones = {oid for oid, at in sent.items() if min((e for e in ends if e > at), default=at + 1) <= cut}
            last = max(sent, key=lambda oid: sent[oid])
            if not thin and cut < len(data) - work.format.raw_length:
                whole_ones.discard(last)  # its end is no beginning of another
            got = places(folder / f"{done.pack}.pack", work.format) if done.pack else {}
            assert {oid for oid in got if oid in sent} - {last} == whole_ones - {last}, cut
            assert all(oid in home for oid in got.keys() - sent.keys()), "bases of a thin pack"
            if done.pack:
                git(folder, "verify-pack", f"{folder}/{done.pack}.pack", f"--object-format={work.format.value}")
            for path in folder.iterdir():
                path.unlink()


DAMAGED = {
    "a delta whose base comes later": (
        pack(
            whole(BLOB, b"x"), ref_delta(blob_id(BASE), number(len(BASE)) + number(1) + insert(b"y")), whole(BLOB, BASE)
        ),
        {b"x"},
    ),
    "a delta that makes less than it says": (
        pack(whole(BLOB, BASE), ofs_delta(len(whole(BLOB, BASE)), number(450) + number(9) + insert(b"y"))),
        {BASE},
    ),
    "an object twice": (pack(whole(BLOB, BASE), whole(BLOB, b"x"), whole(BLOB, BASE), whole(BLOB, b"z")), {BASE, b"x"}),
    "more than it says": (pack(whole(BLOB, BASE), whole(BLOB, b"x"), count=1), {BASE}),
    "less than it says": (pack(whole(BLOB, BASE), count=9), {BASE}),
    "a delta of a good one behind a bad one": (
        pack(
            whole(BLOB, BASE),
            ofs_delta(len(whole(BLOB, BASE)), number(450) + number(9) + copy(449, 9)),
            whole(BLOB, b"x"),
        ),
        {BASE},
    ),
}


@pytest.mark.parametrize("row", DAMAGED)
def test_what_is_good_ends_before_what_is_not(store: Repository, row: str) -> None:
    data, good = DAMAGED[row]
    done = salvage(store.objects / "pack", store, data)
    assert done.objects == len(good)
    for each in good:
        assert store.read(SHA1.object_id("blob", each), "blob") == each
    git(store.path, "fsck", "--strict", "--full")


@pytest.mark.parametrize("row", [*BAD, *COSTLY])
def test_no_bad_pack_is_an_error(store: Repository, row: str) -> None:
    """Nothing is raised and no limit passed; what is there then is in order."""
    data, limits = (BAD[row], {}) if row in BAD else COSTLY[row][:2]
    done = salvage(store.objects / "pack", store, data, Limits(**limits))
    most = Limits(**limits)
    assert done.objects <= most.objects
    for found in (store.objects / "pack").glob("*.pack"):
        for oid in places(found, SHA1):
            assert len(store.read_any(oid)[1]) <= most.object_bytes
        git(store.path, "verify-pack", str(found))


@settings(deadline=None, max_examples=60)
@given(st.data())
@example(None)
def test_garbage_gives_no_object_a_wrong_id(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject | None
) -> None:
    """Whatever bytes: what is salvaged hashes to its name, and is what the limits allow."""
    thing = pack(
        whole(BLOB, BASE),
        ofs_delta(
            len(whole(BLOB, BASE)), number(len(BASE)) + number(len(BASE) + 1) + copy(0, len(BASE)) + insert(b"!")
        ),
        *(whole(BLOB, bytes([at]) * 50) for at in range(10)),
    )
    raw = bytearray(thing)
    if data is not None:
        for at, value in data.draw(st.lists(st.tuples(st.integers(12, len(raw) - 1), st.integers(0, 255)), max_size=3)):
            raw[at] = value
        raw = raw[: data.draw(st.integers(0, len(raw)))] + data.draw(st.binary(max_size=60))
    folder = tmp_path_factory.mktemp("garbage")
    limits = Limits(object_bytes=460, total_bytes=800, objects=15)
    with Repository.init_bare(folder / "home.git", SHA1) as home:
        done = salvage(home.objects / "pack", home, bytes(raw), limits)
        total = 0
        for found in (home.objects / "pack").glob("*.pack"):
            read = [home.read_any(oid)[1] for oid in places(found, SHA1)]  # hashed again, or it raises
            assert len(read) == done.objects <= limits.objects
            assert all(len(each) <= limits.object_bytes for each in read)
            total = sum(map(len, read))
        assert total <= limits.total_bytes
        if data is None:
            assert done.objects == 1, "the second would be too large"


@pytest.fixture
def kept(tmp_path: Path, store: Repository) -> Iterator[tuple[Salvage, Quarantine]]:
    with Quarantine(store, tmp_path / "run/quarantine") as quarantine:
        made = Salvage(tmp_path / "run/salvage", most=2000)
        made.open(quarantine.repository)
        yield made, quarantine


class TestTheFolder:
    def test_reads_through_to_quarantine_and_home_and_they_do_not_read_it(
        self, kept: tuple[Salvage, Quarantine], store: Repository
    ) -> None:
        made, quarantine = kept
        here, there = store.write("blob", b"home"), quarantine.repository.write("blob", b"quarantine")
        salvage(made.folder / "pack", store, GOOD)
        with repository(made.folder, SHA1) as found:
            mine = SHA1.object_id("blob", BASE)
            assert here in found
            assert there in found
            assert mine in found
        assert mine not in quarantine.repository
        assert mine not in store

    def test_what_a_killed_pull_leaves(self, kept: tuple[Salvage, Quarantine], store: Repository) -> None:
        """Half of a pair goes, a stream stays."""
        made, quarantine = kept
        folder = made.folder / "pack"
        done = salvage(folder, store, GOOD)
        (folder / f"{done.pack}.idx").rename(folder / "pack-1.idx")
        for name in ("incoming-1.tmp", "tmp_gitrel_1.pack", "pack-2.pack"):
            (folder / name).write_bytes(b"x")
        made.open(quarantine.repository)
        assert [path.name for path in folder.iterdir()] == ["incoming-1.tmp"]

    def test_salvage_bytes_bound_it(self, kept: tuple[Salvage, Quarantine], store: Repository) -> None:
        """What came first stays: a stream is cut, a pack goes whole."""
        made, _ = kept
        folder = made.folder / "pack"
        done = salvage(folder, store, GOOD)
        size = (folder / f"{done.pack}.pack").stat().st_size
        for at in range(3):
            (folder / f"incoming-{at}.tmp").write_bytes(bytes(900))
            os.utime(folder / f"incoming-{at}.tmp", (time.time() + at,) * 2)
        assert made.trim() == 2000
        assert [path.stat().st_size for path in sorted(streams(made.folder))] == [900, 900, 200 - size]
        tight = Salvage(made.folder, most=size - 1)
        assert tight.trim() == size - 1
        assert not list(folder.glob("pack-*"))
        assert weigh(made.folder) == size - 1

    def test_it_grows_old(self, kept: tuple[Salvage, Quarantine]) -> None:
        made, quarantine = kept
        stream = made.folder / "pack/incoming-1.tmp"
        for days, left in ((6, True), (8, False)):
            stream.write_bytes(b"x")
            os.utime(stream, (time.time() - days * 24 * 3600,) * 2)
            made.open(quarantine.repository)
            assert stream.exists() is left


class TestUseless:
    """Somebody sent what no release needs. It goes, or is at least not taken into the home."""

    @pytest.fixture
    def place(self, work: Work, tmp_path: Path) -> Iterator[tuple[Path, Quarantine, Repository]]:
        with (
            work.home(tmp_path / "home.git", with_old=False) as home,
            Quarantine(home, tmp_path / "run/quarantine") as quarantine,
        ):
            Salvage(tmp_path / "run/salvage", most=10**9).open(quarantine.repository)
            yield tmp_path / "run/salvage", quarantine, home

    def junk(self, work: Work, folder: Path) -> ObjectId:
        git(work.path, "hash-object", "-w", "--stdin", stdin=b"junk" * 100)
        oid = git(work.path, "hash-object", "--stdin", stdin=b"junk" * 100).strip()
        data = git(work.path, "pack-objects", "-q", "--stdout", stdin=oid + b"\n")
        (folder / "pack/incoming-1.tmp").write_bytes(data)
        return ObjectId(oid.decode())

    @pytest.mark.parametrize("sure", [True, False])
    def test_beside_what_is_needed(self, work: Work, place: tuple[Path, Quarantine, Repository], sure: bool) -> None:
        folder, quarantine, home = place
        junk = self.junk(work, folder)
        data = work.pack(thin=False)
        (folder / "pack/incoming-2.tmp").write_bytes(data[: len(data) - 100])
        with Remote.resolve(None, str(work.path / ".git"), env=GIT) as remote:
            told: list[int] = []
            done = remote.fetch_files(quarantine, folder, [work.new], sure=sure, begin=told.append)
        assert told[0] > 0
        assert not done.anew
        assert done.wire_bytes < len(data)
        with repository(folder, work.format) as left:
            assert (junk in left) is not sure, "what nobody vouches for drops nothing"
        assert junk not in quarantine.repository
        assert quarantine.shallow == {work.new}
        quarantine.adopt()
        git(home.path, "update-ref", "refs/heads/new", work.new)
        assert git(home.path, "fsck", "--strict", "--full", "--no-dangling") == b""

    def test_alone(self, work: Work, place: tuple[Path, Quarantine, Repository]) -> None:
        """Nothing can be gone on with: one fetch as ever."""
        folder, quarantine, _ = place
        junk = self.junk(work, folder)
        with Remote.resolve(None, str(work.path / ".git"), env=GIT) as remote:
            told: list[int] = []
            remote.fetch_files(quarantine, folder, [work.new], sure=True, begin=told.append)
        with repository(folder, work.format) as left:
            assert junk in left or told == [0]
        assert work.new in quarantine.repository
        assert junk not in quarantine.repository

    @pytest.mark.parametrize("limit", ["total_bytes", "objects", "cpu_seconds"])
    def test_what_costs_too_much_is_in_nobodys_way(
        self, work: Work, place: tuple[Path, Quarantine, Repository], limit: str
    ) -> None:
        """A bomb that an earlier server left: its cost is bounded, and the honest one is asked for all."""
        folder, quarantine, _ = place
        zeros = whole(BLOB, bytes(5_000_000))
        data = pack(*([zeros] if limit == "total_bytes" else [whole(BLOB, b"%d" % at) for at in range(3000)]))
        if limit == "cpu_seconds":
            size = 20_000_000
            delta = number(size) + number(size + 4) + copy(0, 1_000_000) * 20
            entries = [whole(BLOB, bytes(size))]
            for at in range(300):
                entries.append(ofs_delta(sum(map(len, entries)), delta + insert(b"%04d" % at)))
            data = pack(*entries)
        (folder / "pack/incoming-1.tmp").write_bytes(data)
        most = {"total_bytes": 1_000_000, "objects": 1000, "cpu_seconds": 1}[limit]
        with Remote.resolve(None, str(work.path / ".git"), env=GIT, limits=Limits(**{limit: most})) as remote:
            told: list[int] = []
            remote.fetch_files(quarantine, folder, [work.new], sure=True, begin=told.append)
        assert told == [0]
        assert work.new in quarantine.repository
        assert weigh(folder) < 100_000


def test_a_server_that_breaks_the_rest_every_time_costs_no_progress(work: Work, tmp_path: Path) -> None:
    """It sends everything well and single objects never: it is asked for everything, in the same call."""
    bare = tmp_path / "refusing.git"
    git(tmp_path, "clone", "-q", "--bare", str(work.path), str(bare))
    wrapper = tmp_path / "bin/git"
    wrapper.parent.mkdir()
    real = subprocess.run(["which", "git"], env=GIT, capture_output=True, text=True, check=True).stdout.strip()
    wrapper.write_text(f'#!/bin/sh\nunset GIT_PROTOCOL\nexec {real} "$@"\n')  # version 0, and no any-SHA-1
    wrapper.chmod(0o755)
    data = work.pack(thin=False)
    with (
        work.home(tmp_path / "home.git", with_old=False) as home,
        Quarantine(home, tmp_path / "run/quarantine") as quarantine,
    ):
        folder = tmp_path / "run/salvage"
        Salvage(folder, most=10**9).open(quarantine.repository)
        (folder / "pack/incoming-1.tmp").write_bytes(data[: len(data) * 3 // 4])
        env = {**GIT, "PATH": f"{wrapper.parent}:{GIT['PATH']}"}
        with Remote.resolve(None, str(bare), env=env) as remote:
            done = remote.fetch_files(quarantine, folder, [work.new], sure=True)
            assert done.anew
            with pytest.raises(RemoteError):
                remote.fetch(quarantine, [ObjectId("1" * 2 * work.format.raw_length)])
        assert work.new in quarantine.repository
