"""Rows for ledgers: a command at many releases beside the same at ten, and what stands in a server's way at night.

Both ledgers are made up, with a build for every other release, a config for every tenth and a trust record for every
300th, packed as a git host keeps them. Bytes are counted on the way out of `git upload-pack`, for both sides alike.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.desk import set_up
from bench.measure import HERE, Row, Series, Took, own, run, take_turns

sys.path.insert(0, str(HERE.parent / "unit"))

from keys_support import ed25519_key
from simulator import FILES, Simulator, policy

from gitrel.format.trust import encode_allowed_signers
from gitrel.ids import ObjectFormat
from gitrel.store.pack import PackWriter
from gitrel.store.repository import Repository

FEW = 10
LAST = 20_000_000  # bytes of the newest build, which a first pull brings; a pull of a rollback brings no build
SAMPLE = 40  # records that git verifies one by one
IMPORT = "import cryptography.hazmat.primitives.asymmetric.ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A remote with its ledger, a developer's clone, a server's home, and a folder for stock git to fetch into."""

    at: Path
    pin: str

    def gitrel(self, *words: str | Path, cwd: str = "dev") -> Took:
        script = self.at.parent / "gitrel"
        return run(sys.executable, "-P", script, *words, cwd=self.at / cwd)

    def git(self, *words: str | Path, cwd: str = "dev") -> Took:
        return run("git", *words, cwd=self.at / cwd)

    @property
    def url(self) -> str:
        return f"ssh://bench{self.at}/remote.git"

    def received(self) -> int:
        """Bytes since it was asked last."""
        count = self.at.parent / "count"
        size = count.stat().st_size if count.exists() else 0
        count.unlink(missing_ok=True)
        return size


def make_ledger(path: Path, count: int) -> str:
    """A bare repository with so many releases; its pin."""
    sim, build, noise = Simulator(), None, random.Random(1)
    trust = sim.trust()
    config = sim.config()
    for number in range(1, count + 1):
        if number % 300 == 0:
            sim.trust()
        if number % 10 == 0:
            config = sim.config({"LOG_LEVEL": b"%d" % number})
        if number % 2 or build is None:
            body = noise.randbytes(LAST if number + 2 > count else 100)
            build = sim.build({**FILES, "version": b"%d" % number, "body": body})
        sim.release(build, config)
    with Repository.init_bare(path, ObjectFormat.SHA1) as repo, PackWriter(repo) as pack:
        for kind, data in sim.objects.values():
            pack.add(kind, data)
        pack.finish()
    lines = "".join(f"{oid} {name}\n" for name, oid in sorted(sim.refs.items()))
    (path / "packed-refs").write_text(f"# pack-refs with: sorted \n{lines}")
    run("git", "config", "uploadpack.allowFilter", "true", cwd=path)
    run("git", "config", "uploadpack.allowAnySHA1InWant", "true", cwd=path)
    return trust.id.sha256


def prepare(at: Path, count: int) -> Place:
    (at / "fetched").mkdir(parents=True)
    place = Place(at=at, pin=make_ledger(at / "remote.git", count))
    run("git", "init", "-q", "--bare", at / "fetched")
    run("git", "init", "-q", at / "dev")
    place.git("remote", "add", "origin", place.url)
    (at / "dev/gitrel.toml").write_text('app = "shop"\n')
    (at / "dev/Procfile").write_text("web: true\n")
    place.gitrel("init", "--trust", place.pin)
    place.gitrel("log", "-n", "1")
    return place


def rows(scratch: Path, count: int, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Everything about ledgers, the long one of `count` releases."""
    set_up(scratch, ed25519_key("alice").private)
    many, few = prepare(scratch / "many", count), prepare(scratch / "few", FEW)
    pulls, wire = _pulls(many, say)
    few.gitrel("join", few.url, "home", "--trust", few.pin, cwd=".")
    few.gitrel("pull", "--home", few.at / "home", cwd=".")
    commands = [_beside(rounds, many, few, what, go, say) for what, go in _commands()]
    starts = [
        _exec(rounds, place, f"exec -- true, at {number:,} releases", say)
        for place, number in ((many, count), (few, FEW))
    ]
    return [*pulls, *wire, *commands, *starts, *_verify(scratch, count, say)]


def _commands() -> list[tuple[str, Callable[[Place], Took]]]:
    """Each pull brings the release that was made before it."""

    def pull(place: Place) -> Took:
        return place.gitrel("pull", "--home", place.at / "home", cwd=".")

    def release(place: Place) -> Took:
        _commit(place)
        return place.gitrel("release")

    def push(place: Place) -> Took:
        return place.git("push", "-q", "origin", f"{_commit(place)}:refs/heads/{os.urandom(4).hex()}")

    return [
        ("log -n 20", lambda place: place.gitrel("log", "-n", "20")),
        ("show", lambda place: place.gitrel("show")),
        ("status", lambda place: place.gitrel("status", "--home", place.at / "home", cwd=".")),
        ("rollback, which makes and pushes a release", lambda place: place.gitrel("rollback")),
        ("pull of it", pull),
        ("release of a new commit, with its build", release),
        ("pull of it", pull),
        ("for comparison: git push of one ref", push),
    ]


def _commit(place: Place) -> str:
    """A new commit in the developer's clone; its branch."""
    place.git("add", "-A")
    place.git("commit", "-q", "--allow-empty", "-m", os.urandom(4).hex())
    return "HEAD"


def _beside(
    rounds: int, many: Place, few: Place, what: str, go: Callable[[Place], Took], say: Callable[[str], None]
) -> Row:
    series = take_turns(rounds, {"many": lambda _: go(many), f"at {FEW} releases": lambda _: go(few)}, say)
    return Row(what=what, ours=series["many"], theirs=series[f"at {FEW} releases"], aim=2)


def _pulls(place: Place, say: Callable[[str], None]) -> tuple[list[Row], list[Row]]:
    """The first pull and the next, each beside a fetch of the same release, one commit deep."""
    times, wire = [], []
    listed = ["git", "for-each-ref", "--format=x", "refs/releases/"]
    newest = len(subprocess.run(listed, cwd=place.at / "remote.git", capture_output=True, check=True).stdout.split())
    place.gitrel("join", place.url, "home", "--trust", place.pin, cwd=".")
    for what, number in (("first", newest), ("next", newest + 1)):
        if number > newest:
            place.gitrel("rollback")
        ref = f"refs/releases/v{number}"
        place.received()
        fetched = place.git("fetch", "-q", "--depth=1", place.url, f"{ref}:{ref}", cwd="fetched")
        theirs = place.received()
        pulled = place.gitrel("pull", "--home", place.at / "home", cwd=".")
        ours = place.received()
        say(f"{what} pull: {ours} bytes, git fetch: {theirs}")
        fetch = Series(name="git fetch --depth 1", took=[fetched])
        times.append(Row(what=f"pull, {what}", ours=Series(name="gitrel", took=[pulled]), theirs=fetch, aim=1.3))
        sizes = [Series(name=name, took=[Took(seconds=n, cpu=n)]) for name, n in (("", ours), (fetch.name, theirs))]
        wire.append(Row(what=f"pull, {what}: bytes", ours=sizes[0], theirs=sizes[1], aim=1.1, unit="B"))
    return times, wire


def _exec(rounds: int, place: Place, what: str, say: Callable[[str], None]) -> Row:
    python = f"python -c '{IMPORT[:25]}…'"
    sides: dict[str, Callable[[int], Took]] = {
        "gitrel exec": lambda _: place.gitrel("exec", "--home", place.at / "home", "--", "true", cwd="."),
        python: lambda _: run(sys.executable, "-P", "-c", IMPORT),
    }
    series = take_turns(4 * rounds, sides, say)
    return Row(what=what, ours=series["gitrel exec"], theirs=series[python], aim=3)


def _verify(scratch: Path, count: int, say: Callable[[str], None]) -> list[Row]:
    """All checks of the records, beside git's of the signatures alone, timed on a sample, and ten times as many."""
    sides = []
    for number in (count, 10 * count):
        path = scratch / f"ledger-{number}.git"
        pin = make_ledger(path, number)
        found = own("verify", repo=path, pin=pin, releases=number)
        sides.append(Series(name=f"{number:,} releases", took=[Took(**{key: found[key] for key in Took.__slots__})]))
        say(f"verify {number}: {found['seconds']:.1f} s")
    signers = scratch / "signers"
    signers.write_bytes(encode_allowed_signers(policy()))
    repo = scratch / f"ledger-{count}.git"
    sample = [f"refs/releases/v{number}" for number in random.Random(2).sample(range(1, count + 1), min(SAMPLE, count))]
    loop = [run("git", "-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", ref, cwd=repo) for ref in sample]
    scale = count / len(sample)
    total = Took(seconds=sum(one.seconds for one in loop) * scale, cpu=sum(one.cpu for one in loop) * scale)
    git = Series(name="git verify-commit, of the releases alone", took=[total])
    shutil.rmtree(scratch / f"ledger-{10 * count}.git")
    return [
        Row(what=f"verify {count:,} releases", ours=sides[0], theirs=git, aim=0.02),
        Row(what=f"verify {10 * count:,} releases", ours=sides[1], theirs=sides[0], aim=11),
    ]
