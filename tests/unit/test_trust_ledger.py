"""The rows L of the catalogue that need no disk: what a hostile remote can do to a ledger with what it has.

Every row begins with five good releases. The expected outcome is one number for each release that is judged:
0 for one that may run, else the check that refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from keys_support import ed25519_key, signed
from simulator import FILES, Simulator, commit_with, ledger_ref, policy, shop

from gitrel.errors import NotFound, Refused
from gitrel.format.commit import encode_commit, parse_commit
from gitrel.ids import PRODUCTION, App, Deploy, Entry, ObjectFormat, RecordId

Attack = Callable[[Simulator], object]
GOOD = [0, 0, 0, 0, 0]
MALLORY, BOB = ed25519_key("mallory"), ed25519_key("bob")


def skip_a_number(sim: Simulator) -> None:
    sim.release(entry=Entry(7))


def delete(number: int) -> Attack:
    return lambda sim: sim.refs.pop(str(ledger_ref(number)))


def move_back(sim: Simulator) -> None:
    sim.refs["refs/releases/v5"] = sim.refs["refs/releases/v4"]


def replay_as_v6(sim: Simulator) -> None:
    sim.refs["refs/releases/v6"] = sim.refs["refs/releases/v5"]


def swap(sim: Simulator) -> None:
    refs = sim.refs
    refs["refs/releases/v4"], refs["refs/releases/v5"] = refs["refs/releases/v5"], refs["refs/releases/v4"]


def twin_of_v5(sim: Simulator) -> RecordId:
    """A second v5, as good as the first, without a ref."""
    other = sim.fork()
    del other.releases[PRODUCTION][-1]
    twin = other.release(other.build({**FILES, "twin": b""}))
    sim.objects.update(other.objects)
    return twin.id


def built_on_the_twin(sim: Simulator) -> None:
    sim.release(previous=twin_of_v5(sim))


def parent_is_v3(sim: Simulator) -> None:
    del sim.releases[PRODUCTION][-1]
    sim.release(previous=sim.releases[PRODUCTION][2].id)


def no_parent(sim: Simulator) -> None:
    """The trailer `Previous` is left out of v6 with its parent: that is no record at all."""
    good = sim.release()
    commit = parse_commit(good.raw, sim.fmt)
    message = "\n".join(line for line in commit.message.split("\n") if not line.startswith("Previous: "))
    bare = replace(commit, parents=commit.parents[1:], message=message, signature=None)
    armor = signed(ed25519_key("alice"), encode_commit(bare))
    sim.publish(ledger_ref(6), encode_commit(replace(bare, signature=armor)))


def new_genesis_in_the_middle(sim: Simulator) -> None:
    sim.releases[PRODUCTION] = []
    sim.release(ref=ledger_ref(6))


def source_commit_as_parent(sim: Simulator) -> None:
    raw = b"tree %s\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nsource\n"
    oid = sim.put("commit", raw % sim.node({}).oid.encode())
    sim.release(previous=RecordId(oid, sim.releases[PRODUCTION][-1].id.sha256))


def another_app(sim: Simulator) -> None:
    sim.release(app=App("other"))


def staging_as_production(sim: Simulator) -> None:
    sim.release(deploy=Deploy("staging"), entry=Entry(6), ref=ledger_ref(6), previous=sim.anchor().id)


def untrusted_key(sim: Simulator) -> None:
    sim.release(by=MALLORY)


def without_the_role(sim: Simulator) -> None:
    sim.release(by=BOB)


def unsigned(sim: Simulator) -> None:
    good = sim.release()
    sim.publish(ledger_ref(6), good.payload)


def unsigned_in_the_middle(sim: Simulator) -> None:
    good = sim.releases[PRODUCTION][2]
    sim.publish(ledger_ref(3), good.payload)


def names_its_own_key(sim: Simulator) -> None:
    """Mallory signs a trust record that trusts mallory, and a release that cites it."""
    sim.trust(policy({"mallory": (MALLORY,)}), by=MALLORY)
    sim.release(by=MALLORY)


def backwards_in_time(sim: Simulator) -> None:
    sim.release(stamp=replace(sim.stamp, time=1))


def far_future(sim: Simulator) -> None:
    sim.release(stamp=replace(sim.stamp, time=4_070_908_800))


def rollback(sim: Simulator) -> None:
    third = sim.releases[PRODUCTION][2].record
    build = next(each for each in sim.objects if each == third.build.oid)
    record = replace(sim.draft()[0], build=third.build, rollback_to=Entry(3), tree_sha256=third.tree_sha256)
    config = third.config
    made = sim.sign(replace(record, config=config), sim.releases[PRODUCTION][2].tree, ed25519_key("alice"))
    assert build == made.record.build.oid
    sim.refs["refs/releases/v6"] = made.id.oid
    sim.releases[PRODUCTION].append(made)


def malleated_twin(sim: Simulator) -> None:
    raw = sim.releases[PRODUCTION][-1].raw
    sim.publish(ledger_ref(5), raw.replace(b"\ngpgsig", b"\ngpgsig-note anything\ngpgsig", 1))


def stray(name: str) -> Attack:
    """A good v6 that only has a ref of another name."""

    def attack(sim: Simulator) -> None:
        sim.release(ref=f"refs/releases/{name}")

    return attack


def entry_line(text: str) -> Attack:
    """A release whose trailer says `Entry: <text>`, signed, under refs/releases/v6."""

    def attack(sim: Simulator) -> None:
        good = sim.release()
        payload = good.payload.replace(b"\nEntry: v6\n", f"\nEntry: {text}\n".encode())
        assert payload != good.payload
        sim.publish(ledger_ref(6), commit_with(payload, signed(ed25519_key("alice"), payload)))

    return attack


ROWS: dict[str, tuple[Attack, list[int]]] = {
    "L00": (lambda _: None, GOOD),
    "L01": (skip_a_number, [*GOOD, 8]),
    "L02": (delete(3), [0, 0, 8]),
    "L05": (move_back, [0, 0, 0, 0, 1]),
    "L06": (replay_as_v6, [*GOOD, 1]),
    "L07": (swap, [0, 0, 0, 1]),
    "L08": (built_on_the_twin, [*GOOD, 8]),
    "L10": (parent_is_v3, [0, 0, 0, 0, 8]),
    "L11-no-previous": (no_parent, [*GOOD, 2]),
    "L11-genesis": (new_genesis_in_the_middle, [*GOOD, 1]),
    "L13": (source_commit_as_parent, [*GOOD, 8]),
    "L14": (another_app, [*GOOD, 3]),
    "L15": (staging_as_production, [*GOOD, 1]),
    "L17": (untrusted_key, [*GOOD, 5]),
    "L17-known-but-no-role": (without_the_role, [*GOOD, 5]),
    "L18": (unsigned, [*GOOD, 2]),
    "L19": (unsigned_in_the_middle, [0, 0, 2]),
    "L22": (backwards_in_time, [*GOOD, 0]),
    "L23": (far_future, [*GOOD, 0]),
    "L24": (rollback, [*GOOD, 0]),
    "L30": (malleated_twin, [0, 0, 0, 0, 2]),
    "L40": (stray("V6"), GOOD),
    "L41": (stray("v06"), GOOD),
    "L42": (stray("v+6"), GOOD),
    "L43": (stray("v6.0"), GOOD),
    "L44": (stray("v-1"), GOOD),
    "L45": (stray("v0"), GOOD),
    "L46": (stray("v6 "), GOOD),
    "L47": (stray("v６"), GOOD),
    "L48": (stray("v6e0"), GOOD),
    "L49": (stray("v18446744073709551616"), GOOD),
    "L50": (stray("v6/x"), GOOD),
    "L51": (stray("6"), GOOD),
    "L52": (stray("v"), GOOD),
    "L53": (stray("latest"), GOOD),
    "L54": (stray("v6^{}"), GOOD),
    "L55": (stray("v6.lock"), GOOD),
    "L56": (stray("v6\n"), GOOD),
    "L68-bare": (entry_line("6"), [*GOOD, 2]),
    "L68-float": (entry_line("v6.0"), [*GOOD, 2]),
    "L68-quoted": (entry_line('"v6"'), [*GOOD, 2]),
    "L68-twice": (entry_line("v6\nEntry: v6"), [*GOOD, 2]),
    "L68-padded": (entry_line("v06"), [*GOOD, 2]),
    "L69": (entry_line("v18446744073709551622"), [*GOOD, 2]),
}


@pytest.mark.parametrize("fmt", ObjectFormat)
@pytest.mark.parametrize("row", ROWS)
def test_row(row: str, fmt: ObjectFormat) -> None:
    attack, expected = ROWS[row]
    sim = shop(5, fmt)
    attack(sim)
    assert sim.outcome() == expected


@pytest.mark.parametrize("row", [row for row, (_, expected) in ROWS.items() if expected[:5] == GOOD])
def test_row_for_a_server_that_has_seen_v5(row: str) -> None:
    attack, expected = ROWS[row]
    sim = shop()
    anchor = sim.anchor()
    attack(sim)
    assert sim.outcome(anchor=anchor) == expected[5:]


def refused(sim: Simulator, **walk: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        sim.verdicts(**walk)
    return caught.value


@pytest.mark.parametrize(
    ("row", "attack"),
    [("L03", delete(5)), ("L04", lambda sim: [sim.refs.pop(f"refs/releases/v{each}") for each in range(1, 6)])],
    ids=["L03", "L04"],
)
def test_what_was_seen_has_to_stay(row: str, attack: Attack) -> None:
    sim = shop()
    anchor = sim.anchor()
    attack(sim)
    refusal = refused(sim, anchor=anchor)
    assert refusal.check == 13
    assert anchor.id.oid in refusal.why


@pytest.mark.parametrize("row", ["L03-first-time", "L04-first-time"])
def test_what_the_trust_names_has_to_be_there(row: str) -> None:
    """A server that has seen nothing still knows the heads of the trust records."""
    sim = shop()
    sim.trust()
    assert sim.outcome() == GOOD
    for number in (5,) if row.startswith("L03") else range(1, 6):
        del sim.refs[f"refs/releases/v{number}"]
    assert refused(sim).check == 13
    assert "v5" in refused(sim).what


def test_what_the_trust_names_may_have_been_left_out_after_it_was_refused() -> None:
    """That very record, by both its hashes; another one under its name is no excuse."""
    sim = shop()
    sim.trust()
    five, four = (sim.releases[PRODUCTION][at].id for at in (4, 3))
    del sim.refs["refs/releases/v5"]
    assert sim.outcome(left_out={Entry(5): five}) == GOOD[:4]
    for other in (four, replace(five, sha256=four.sha256), replace(five, oid=four.oid)):
        assert refused(sim, left_out={Entry(5): other}).check == 13
    assert refused(sim, left_out={Entry(6): five}).check == 13


def test_l05_and_l07_after_the_release_was_seen() -> None:
    for attack in (move_back, swap):
        sim = shop()
        anchor = sim.anchor()
        attack(sim)
        assert refused(sim, anchor=anchor).check == 13


def test_l09_a_fork_is_told_with_both_commits() -> None:
    sim = shop()
    anchor = sim.anchor()
    other = sim.fork()
    del other.releases[PRODUCTION][-1]
    twin = other.release(other.build({**FILES, "twin": b""}))
    assert other.outcome() == GOOD  # without a memory nothing is wrong with it
    refusal = refused(other, anchor=anchor)
    assert refusal.check == 13
    assert anchor.id.oid in refusal.why
    assert twin.id.oid in refusal.why


def test_l09_a_fork_is_told_by_the_trust_that_names_the_other() -> None:
    sim = shop()
    sim.trust()
    other = sim.fork()
    del other.releases[PRODUCTION][-1]
    twin = other.release(other.build({**FILES, "twin": b""}), trust=sim.releases[PRODUCTION][-1].record.trust)
    other.release()
    verdicts = other.verdicts()
    assert other.outcome() == [0, 0, 0, 0, 7], "and nothing is built on it"
    assert verdicts[-1].refusal is not None
    assert twin.id.oid in verdicts[-1].refusal.why
    assert sim.anchor().id.oid in verdicts[-1].refusal.why


@pytest.mark.parametrize("seen", [5, 6])
def test_l09_a_server_on_the_losing_side_is_told_too(seen: int) -> None:
    sim = shop()
    other = sim.fork()
    del other.releases[PRODUCTION][-1]
    other.release(other.build({**FILES, "twin": b""}))
    other.release()
    anchor = other.anchor(seen)
    honest = sim.trust()
    other.objects.update(sim.objects)
    other.refs["refs/trust/v2"] = honest.id.oid
    refusal = refused(other, anchor=anchor)
    assert refusal.check == 7
    assert sim.anchor().id.oid in refusal.why


def test_l12_the_whole_ledger_again_from_a_new_genesis() -> None:
    sim = shop()
    again = Simulator(stamp=replace(sim.stamp, time=5))
    again.trust()
    for _ in range(5):
        again.release()
    assert again.outcome() == GOOD
    assert refused(again, pin=sim.pin).check == 3


def test_l12_releases_again_under_the_old_trust() -> None:
    sim = shop()
    anchor = sim.anchor()
    sim.releases.clear()
    for number in range(1, 6):
        sim.release(sim.build({**FILES, "again": b"%d" % number}))
    assert refused(sim, anchor=anchor).check == 13


def test_l16_another_app_at_this_url() -> None:
    other = Simulator(app=App("other"))
    other.trust(policy(app=App("other")))
    other.release()
    assert other.outcome() == [0]
    assert refused(other, pin=shop().pin).check == 3


def test_l20_a_key_is_rotated_through_the_trust() -> None:
    sim = shop()
    new = sim.trust(policy({"alice": (BOB,)}))
    pending = sim.chain().pending
    assert pending is not None, "root of the new trust, that is the new key, has to sign too"
    assert pending.signed.id == new.id
    sim.approve(new, BOB)
    sim.release(sim.build(by=BOB), by=BOB)
    sim.release(sim.build(by=BOB))
    sim.release(sim.build(), by=BOB)
    assert sim.outcome() == [*GOOD, 0, 5, 9]


def test_l21_trust_that_names_its_own_maker() -> None:
    sim = shop()
    names_its_own_key(sim)
    assert refused(sim).check == 5


def test_l28_and_l63_a_commit_that_is_not_there() -> None:
    sim = shop()
    del sim.objects[sim.refs["refs/releases/v3"]]
    assert sim.outcome() == [0, 0, 2]
    assert sim.outcome(anchor=sim.anchor(3)) == [0, 0]


def test_l64_a_blob_of_an_old_release_is_missing() -> None:
    sim = shop()
    blob = sim.fmt.object_id("blob", b"2\n")
    del sim.objects[blob]
    assert [sim.refusal(number) for number in range(1, 6)] == [0, 11, 0, 0, 0]


def test_l65_a_blob_with_other_bytes_under_its_id() -> None:
    sim = shop()
    sim.objects[sim.fmt.object_id("blob", b"5\n")] = ("blob", b"6\n")
    assert [sim.refusal(number) for number in range(1, 6)] == [0, 0, 0, 0, 12]


@pytest.mark.parametrize("kind", ["blob", "tree", "tag"])
def test_l25_to_l27_a_ref_at_another_kind_of_object(kind: str) -> None:
    sim = shop()
    sim.publish(ledger_ref(6), b"x", kind)
    assert sim.outcome() == [*GOOD, 2]


def test_no_ledger_at_all() -> None:
    sim = shop()
    for name in list(sim.refs):
        if name.startswith("refs/trust/"):
            del sim.refs[name]
    with pytest.raises(NotFound):
        sim.verdicts()
