"""Promises of the catalogue that hold for whole ledgers: 2, 6, 9, 24 and 25, and 29 for whatever is thrown at them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_support import ed25519_key
from simulator import FILES, Simulator, ledger_ref, policy, role, shop

from gitrel.errors import LocalStateError, NotFound, Refused
from gitrel.format.record import Signed
from gitrel.format.tree import Mode, Node, blob_node, directory_node
from gitrel.ids import PRODUCTION, Entry, ObjectFormat, ObjectId, Sha256
from gitrel.trust.content import bind_trees, check_shape, verify_content
from gitrel.trust.ledger import ReleaseLedger
from gitrel.trust.walk import RecordReader

ROOT = Path(__file__).resolve().parents[2]


# 2: one release, one byte string


class _Judge:
    """The same ledger, about to be given v3, again and again."""

    def __init__(self, fmt: ObjectFormat) -> None:
        self.sim = shop(3, fmt)
        self.chain = self.sim.chain()
        self.reader = RecordReader(self.sim.refs, self.sim)
        self.good = self.sim.releases[PRODUCTION][2].raw

    def accepts(self, raw: bytes) -> bool:
        ledger = ReleaseLedger(self.chain, PRODUCTION, self.reader, anchor=self.sim.anchor(2))
        try:
            return ledger.add("refs/releases/v3", raw).release is not None
        except Refused:
            return False


@pytest.fixture(scope="module", params=ObjectFormat)
def judge(request: pytest.FixtureRequest) -> _Judge:
    return _Judge(request.param)


def test_the_good_one(judge: _Judge) -> None:
    assert judge.accepts(judge.good)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_every_byte_flipped(judge: _Judge, flip: int) -> None:
    good = judge.good
    for at in range(len(good)):
        assert not judge.accepts(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]), at


@pytest.mark.parametrize("byte", [b"\n", b" ", b"\0", b"a", b"="])
def test_a_byte_inserted_anywhere(judge: _Judge, byte: bytes) -> None:
    good = judge.good
    for at in range(len(good) + 1):
        assert not judge.accepts(good[:at] + byte + good[at:]), at


def test_every_byte_deleted_and_doubled(judge: _Judge) -> None:
    good = judge.good
    for at in range(len(good)):
        assert not judge.accepts(good[:at] + good[at + 1 :]), at
        assert not judge.accepts(good[: at + 1] + good[at:]), at


def test_cut_anywhere(judge: _Judge) -> None:
    for at in range(len(judge.good)):
        assert not judge.accepts(judge.good[:at]), at


# 6: dates never grant trust, and no clock or time zone has a say

VERDICTS = """
import sys
sys.path[:0] = [{unit!r}]
from test_trust_promises import mixed
print(mixed().outcome(), mixed().refusal(1))
"""


def mixed() -> Simulator:
    """Good, pending, removed, repudiated, forged: a verdict of each kind."""
    people = {"alice": (ed25519_key("alice"),), "bob": (ed25519_key("bob"),)}
    two = role("alice", "bob", threshold=2)
    sim = Simulator()
    sim.trust(policy(people, release=role("alice", "bob")))
    build, config = sim.build(), sim.config()
    sim.release(build, config)
    sim.release(build, config, by=ed25519_key("bob"))
    cited = sim.cited
    sim.trust(policy(people, release=two))
    sim.release(build)
    sim.release(build, approved_by=[ed25519_key("bob")])
    sim.trust(policy({"alice": (ed25519_key("alice"),)}, repudiated={PRODUCTION: (ledger_ref(2).entry,)}))
    sim.release(build, by=ed25519_key("bob"), trust=cited)
    sim.release(build)
    sim.release(build, by=ed25519_key("mallory"))
    return sim


EXPECTED = [0, 14, 6, 0, 7, 0, 5]


def test_a_verdict_of_each_kind() -> None:
    assert mixed().outcome() == EXPECTED


@pytest.mark.parametrize("clock", [0, 2**31 - 1, 4_102_444_800], ids=["1970", "2038", "2100"])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "<-11>11", "nonsense"])
@pytest.mark.parametrize("row", ["V17", "V18"])
def test_no_clock_and_no_zone_has_a_say(row: str, zone: str, clock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = mixed()
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: float(clock))
    assert sim.outcome() == EXPECTED


@pytest.mark.parametrize("flags", [(), ("-O",), ("-OO",)], ids=["plain", "O", "OO"])
@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_nor_has_how_python_was_started(flags: tuple[str, ...], hash_seed: str) -> None:
    """`assert` is no check in gitrel, and no verdict depends on the order of a set."""
    code = VERDICTS.format(unit=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{EXPECTED} 0\n"


# 9: the ledger is a chain: no entry can be taken out, put in, doubled or exchanged


@pytest.mark.parametrize("at", range(1, 7))
def test_no_entry_can_be_taken_out(at: int) -> None:
    sim = shop(6)
    anchor = sim.anchor()
    for number in range(at, 6):
        sim.refs[f"refs/releases/v{number}"] = sim.refs[f"refs/releases/v{number + 1}"]
    del sim.refs["refs/releases/v6"]
    assert sim.outcome() == [*[0] * (at - 1), *([1] if at < 6 else [])]
    with pytest.raises(Refused) as caught:
        sim.outcome(anchor=anchor)
    assert caught.value.check == 13


@pytest.mark.parametrize("one", range(1, 5))
@pytest.mark.parametrize("other", range(1, 5))
def test_no_two_can_be_exchanged(one: int, other: int) -> None:
    sim = shop(4)
    refs = sim.refs
    first, second = f"refs/releases/v{one}", f"refs/releases/v{other}"
    refs[first], refs[second] = refs[second], refs[first]
    assert sim.outcome() == ([0] * 4 if one == other else [*[0] * (min(one, other) - 1), 1])


# 25: SHA-1 is not the last line. The simulator believes ids, as if the comparison were patched out.


def collided(path: str) -> tuple[Simulator, ObjectId]:
    sim = shop(1)
    sim.release(sim.build({**FILES, "sub": {"deep": b"good"}}), sim.config({"SECRET": b"good"}))
    oid = sim.fmt.object_id("blob", {"sub/deep": b"good", "Procfile": b"web: ./serve\n", "config": b"good"}[path])
    assert sim.refusal() == 0
    return sim, oid


@pytest.mark.parametrize("path", ["sub/deep", "Procfile", "config"])
def test_another_blob_under_the_same_id(path: str) -> None:
    sim, oid = collided(path)
    sim.objects[oid] = ("blob", b"evil" if path != "Procfile" else b"web: ./evil\n")
    with _Believing(sim):
        assert sim.refusal() == 12


def test_another_tree_under_the_same_id() -> None:
    sim, _ = collided("sub/deep")
    honest = sim.node({"deep": b"good"})
    sim.objects[honest.oid] = ("tree", directory_node({"deep": sim.node(b"evil")}, sim.fmt)[0])
    with _Believing(sim):
        assert sim.refusal() == 12


def test_another_provenance_under_the_same_id() -> None:
    sim = shop(1)
    sim.release(sim.build(provenance=b"stated"))
    sim.objects[sim.fmt.object_id("blob", b"stated")] = ("blob", b"forged")
    with _Believing(sim):
        assert sim.refusal() == 12


def test_another_trust_file_under_the_same_id() -> None:
    sim = shop(1)
    good = next(data for kind, data in sim.objects.values() if b"[roles.root]" in data and kind == "blob")
    sim.objects[sim.fmt.object_id("blob", good)] = ("blob", good.replace(b"alice", b"mally"))
    with pytest.raises(Refused) as caught, _Believing(sim):
        sim.chain()
    assert caught.value.check == 12


@pytest.mark.parametrize(("part", "check"), [("build", 9), ("config", 10), ("trust", 3), ("release", 8)])
def test_another_commit_under_the_same_id(part: str, check: int) -> None:
    """What records name each other by is SHA-256 too."""
    sim = shop(2)
    last = sim.releases[PRODUCTION][0].record
    assert last.config is not None
    oid = {
        "build": last.build.oid,
        "config": last.config.id.oid,
        "trust": sim.trusts[0].id.oid,
        "release": sim.releases[PRODUCTION][0].id.oid,
    }[part]
    other = shop(2)
    evil: Signed[Any] = _EVIL[part](other)
    sim.objects[oid] = ("commit", evil.raw)
    sim.objects.update({each: found for each, found in other.objects.items() if each not in sim.objects})
    with _Believing(sim):
        if part == "trust":
            with pytest.raises(Refused) as caught:
                sim.outcome(pin=shop(2).pin)
            assert caught.value.check == check
        elif part == "release":
            assert sim.outcome() == [0, check]
        else:
            assert sim.outcome() == [check, 0] if part == "build" else [check, check]


def _first_release_again(sim: Simulator) -> Signed[Any]:
    sim.releases[PRODUCTION].clear()
    return sim.release()


def _first_trust_again(sim: Simulator) -> Signed[Any]:
    sim.trusts.clear()
    return sim.trust(policy(root=role("alice", "bob")))


_EVIL: dict[str, Callable[[Simulator], Signed[Any]]] = {
    "build": lambda sim: sim.build({**FILES, "evil": b""}),
    "config": lambda sim: sim.config({"EVIL": b""}, entry=Entry(1), previous=None),
    "trust": _first_trust_again,
    "release": _first_release_again,
}


class _Believing:
    """SHA-1 is broken: whatever stands under an id has that id."""

    def __init__(self, sim: Simulator) -> None:
        self._patch = pytest.MonkeyPatch()
        self._known = {data: oid for oid, (_, data) in sim.objects.items()}

    def __enter__(self) -> None:
        real = ObjectFormat.object_id
        known = self._known
        self._patch.setattr(
            ObjectFormat,
            "object_id",
            lambda fmt, kind, data: known.get(data) or real(fmt, kind, data),
        )

    def __exit__(self, *exc: object) -> None:
        self._patch.undo()


def test_a_node_that_lies_about_its_sha256() -> None:
    """`verify_content` takes the digests of what was written out, and no other."""
    sim = shop(1)
    release = sim.verdicts()[0].release
    assert release is not None
    bound = bind_trees(release, sim)
    check_shape(sim, bound.build_tree, "here")
    good = sim.verify().build
    assert verify_content(bound, good).build == good
    for bad in (
        Node(good.mode, good.oid, Sha256("8" * 64)),
        Node(good.mode, ObjectId("8" * 40), good.sha256),
        Node(Mode.FILE, good.oid, good.sha256),
        blob_node(b"", sim.fmt),
    ):
        with pytest.raises(Refused) as caught:
            verify_content(bound, bad)
        assert caught.value.check == 12


# 29: nothing but a refusal, whatever the bytes


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_object_may_be_anything(data: st.DataObject) -> None:
    sim = shop(3).fork()
    for oid in data.draw(st.lists(st.sampled_from(sorted(sim.objects)), min_size=1, max_size=3, unique=True)):
        kind, good = sim.objects[oid]
        at = data.draw(st.integers(0, len(good)))
        cut = data.draw(st.integers(0, 40))
        sim.objects[oid] = (
            data.draw(st.sampled_from([kind, kind, kind, "blob", "tag", "tree", "commit"])),
            good[:at] + data.draw(st.binary(max_size=40)) + good[at + cut :],
        )
    try:
        for verdict in sim.verdicts():
            if verdict.release is not None:
                sim.verify_files(verdict.release)
    except (Refused, NotFound):
        pass
    except LocalStateError:
        pytest.fail("the store's own error came through")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_ref_may_point_anywhere(data: st.DataObject) -> None:
    """And a release that still verifies is one of the honest ones."""
    sim = shop(4).fork()
    honest = {made.id for made in sim.releases[PRODUCTION]}
    names = st.sampled_from(sorted(sim.refs)) | st.integers(1, 9).map(lambda at: f"refs/releases/v{at}")
    for name in data.draw(st.lists(names, min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            sim.refs[name] = data.draw(st.sampled_from(sorted(sim.objects)))
        else:
            sim.refs.pop(name, None)
    try:
        found = [verdict for verdict in sim.verdicts() if verdict.release is not None]
    except (Refused, NotFound):
        return
    assert {each.id for each in found} <= honest
    assert all(str(each.release.record.ref) == each.ref for each in found if each.release)
