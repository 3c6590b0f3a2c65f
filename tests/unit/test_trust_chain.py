"""The trust ledger under attack: pins, thresholds, approvals, gaps, and files that say something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from keys_support import Key, ecdsa_key, ed25519_key, rsa_key, string
from simulator import Simulator, commit_with, line, policy, role, shop

from gitrel.errors import NotFound, Refused
from gitrel.format.record import Cited
from gitrel.format.trust import TrustPolicy, encode_allowed_signers, encode_trust
from gitrel.ids import (
    PRODUCTION,
    App,
    Entry,
    ObjectFormat,
    PersonName,
    RecordId,
    Sha256,
)
from gitrel.trust.chain import TrustChain, VerifiedTrust

ALICE, BOB, CAROL, MALLORY = (ed25519_key(name) for name in ("alice", "bob", "carol", "mallory"))
THREE = {"alice": (ALICE,), "bob": (BOB,), "carol": (CAROL,)}


def two_of_three(**more: Any) -> TrustPolicy:
    return policy(THREE, root=role("alice", "bob", "carol", threshold=2), **more)


def refused(sim: Simulator, pin: Sha256 | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        sim.chain(pin)
    return caught.value


def start(first: TrustPolicy | None = None) -> Simulator:
    sim = Simulator()
    sim.trust(first)
    return sim


@pytest.mark.parametrize("fmt", ObjectFormat)
def test_the_pin(fmt: ObjectFormat) -> None:
    sim = shop(1, fmt)
    right = sim.trusts[0].id.sha256
    chain = sim.chain(right)
    assert (chain.pin, chain.app, len(chain)) == (right, "shop", 1)
    assert TrustChain(fmt, None).add(
        "refs/trust/v1",
        sim.trusts[0].raw,
        trust_file=encode_trust(policy()),
        signers_file=encode_allowed_signers(policy()),
    ).signers == ("alice",)
    wrong = refused(sim, Sha256("0" * 64))
    assert wrong.check == 3
    assert right in wrong.why
    assert "0" * 64 in wrong.why


def test_with_a_wrong_pin_nothing_that_came_is_parsed() -> None:
    sim = start()
    sim.trusts.clear()
    sim.trust(files={"trust.toml": b"= no TOML ="})
    assert refused(sim, Sha256("0" * 64)).check == 3
    assert refused(sim).check == 4


def test_no_trust_at_all() -> None:
    with pytest.raises(NotFound):
        Simulator().chain(Sha256("0" * 64))
    with pytest.raises(Refused) as caught:
        _ = TrustChain(ObjectFormat.SHA1, None).newest
    assert caught.value.check == 4


def test_a_verified_trust_is_made_in_one_place() -> None:
    good = start().chain().newest
    with pytest.raises(TypeError):
        replace(good, proof=object())
    with pytest.raises(TypeError):
        VerifiedTrust(signed=good.signed, policy=good.policy, owners={}, signers=(), proof=None)


SUCCESSORS: dict[str, tuple[Callable[[Simulator], object], int]] = {
    "good": (lambda sim: sim.trust(), 0),
    "stranger": (lambda sim: sim.trust(by=MALLORY), 5),
    "no-root-role": (lambda sim: sim.trust(by=BOB), 5),
    "names-itself": (lambda sim: sim.trust(policy({"mallory": (MALLORY,)}), by=MALLORY), 5),
    "gap": (lambda sim: sim.trust(entry=Entry(3)), 4),
    "again-v1": (lambda sim: sim.trust(entry=Entry(1), previous=None, ref="refs/trust/v2"), 1),
    "other-number": (lambda sim: sim.trust(entry=Entry(3), ref="refs/trust/v2"), 1),
    "previous-is-another": (lambda sim: sim.trust(previous=sim.build().id), 8),
    "previous-sha256": (
        lambda sim: sim.trust(previous=RecordId(sim.trusts[0].id.oid, Sha256("1" * 64))),
        8,
    ),
    "another-app": (lambda sim: sim.trust(policy(app=App("other"))), 3),
    "app-in-the-file": (lambda sim: sim.trust(policy(app=App("other")), app=App("shop")), 3),
    "app-in-the-record": (lambda sim: sim.trust(app=App("other")), 3),
    "file-is-another": (
        lambda sim: sim.trust(tree=sim.node({"trust.toml": b"", "allowed_signers": b""}).oid),
        12,
    ),
    "tree-sha256": (lambda sim: sim.trust(tree_sha256=Sha256("2" * 64)), 12),
    "no-toml": (lambda sim: sim.trust(files={"trust.toml": b"\xff"}), 4),
    "signers-differ": (
        lambda sim: sim.trust(files={"allowed_signers": encode_allowed_signers(policy({"alice": (BOB,)}))}),
        4,
    ),
    "signers-with-a-comment": (
        lambda sim: sim.trust(files={"allowed_signers": b"# mine\n" + encode_allowed_signers(policy())}),
        4,
    ),
    "signers-wildcard": (
        lambda sim: sim.trust(files={"allowed_signers": f'* namespaces="git" {MALLORY.line}\n'.encode()}),
        4,
    ),
    "a-third-file": (lambda sim: sim.trust(files={"README": b"hello"}), 11),
    "a-file-less": (lambda sim: sim.trust(files={"allowed_signers": None}), 11),
    "no-files": (lambda sim: sim.trust(tree=sim.put("tree", b"garbage")), 11),
    "files-missing": (lambda sim: sim.trust(tree=sim.fmt.object_id("tree", b"nowhere")), 2),
    "not-a-commit": (lambda sim: sim.publish("refs/trust/v2", b"x", "blob"), 2),
    "a-release": (lambda sim: sim.publish("refs/trust/v2", sim.release().raw), 2),
    "unsigned": (lambda sim: sim.publish("refs/trust/v2", sim.trust().payload), 2),
    "signature-of-another": (
        lambda sim: sim.publish("refs/trust/v2", commit_with(sim.trust().payload, sim.trusts[0].signature)),
        5,
    ),
    "missing": (lambda sim: [sim.trust(), sim.trust(), sim.refs.pop("refs/trust/v2")], 4),
    "missing-first": (lambda sim: [sim.trust(), sim.refs.pop("refs/trust/v1")], 4),
}


@pytest.mark.parametrize("name", SUCCESSORS)
def test_successor(name: str) -> None:
    attack, expected = SUCCESSORS[name]
    sim = start()
    attack(sim)
    if expected:
        assert refused(sim).check == expected
    else:
        assert sim.chain().newest.entry == 2


def test_a_refusal_leaves_the_chain_as_it_was() -> None:
    sim = start()
    chain = sim.chain()
    new = sim.trust(by=MALLORY)
    trust_file, signers_file = encode_trust(policy()), encode_allowed_signers(policy())
    with pytest.raises(Refused):
        chain.add("refs/trust/v2", new.raw, trust_file=trust_file, signers_file=signers_file)
    assert (len(chain), chain.newest.entry, chain.pending) == (1, 1, None)
    del sim.trusts[-1]
    assert chain.add("refs/trust/v2", sim.trust().raw, trust_file=trust_file, signers_file=signers_file).entry == 2


def test_out_of_order_is_told_as_such() -> None:
    sim = start()
    chain = sim.chain()
    sim.trust()
    third = sim.trust()
    with pytest.raises(Refused) as caught:
        chain.add(
            "refs/trust/v3",
            third.raw,
            trust_file=encode_trust(policy()),
            signers_file=encode_allowed_signers(policy()),
        )
    assert caught.value.check == 4


# heads


@pytest.mark.parametrize("case", ["back", "another", "missing", "same", "forward"])
def test_heads_never_go_back(case: str) -> None:
    sim = shop(5)
    sim.trust()
    (head,) = sim.trusts[-1].record.heads
    fourth = sim.releases[PRODUCTION][3]
    heads = {
        "back": (replace(head, entry=Entry(4), id=fourth.id),),
        "another": (replace(head, id=fourth.id),),
        "missing": (),
        "same": (head,),
        "forward": (replace(head, entry=Entry(6), id=sim.release().id),),
    }[case]
    sim.trust(heads=heads)
    if case in ("same", "forward"):
        assert sim.chain().newest.entry == 3
    else:
        assert refused(sim).check == 8


# root thresholds


def test_two_of_three_pend_until_the_second_signs() -> None:
    sim = start()
    new = sim.trust(two_of_three())
    chain = sim.chain()
    assert chain.newest.entry == 1
    assert chain.pending is not None
    assert chain.pending.refusal.check == 6
    sim.approve(new, BOB)
    chain = sim.chain()
    assert chain.pending is None
    assert chain.newest.signers == ("alice", "bob")


def test_the_old_threshold_counts_too() -> None:
    """Two of three cannot be brought down to one of one by one."""
    sim = Simulator()
    first = sim.trust(two_of_three())
    sim.approve(first, BOB)
    new = sim.trust(policy())
    pending = sim.chain().pending
    assert pending is not None
    assert pending.refusal.check == 6
    sim.approve(new, CAROL)
    assert sim.chain().newest.entry == 2


def test_a_genesis_below_its_own_threshold_is_refused() -> None:
    sim = start(two_of_three())
    assert refused(sim).check == 6


def test_hand_over_to_somebody_new() -> None:
    """Alice leaves, bob comes: she signs it, he approves it; or the other way round."""
    for maker, other in ((ALICE, BOB), (BOB, ALICE)):
        sim = start()
        sim.trust(policy({"bob": (BOB,)}), by=maker, approved_by=[other])
        assert sim.chain().newest.signers == ("bob",)


def test_a_stranger_cannot_make_even_what_root_approves() -> None:
    sim = start()
    sim.trust(by=MALLORY, approved_by=[ALICE])
    assert refused(sim).check == 5


def test_nothing_stands_on_a_trust_that_pends() -> None:
    sim = start()
    sim.trust(two_of_three())
    sim.trust(two_of_three())
    assert refused(sim).check == 6


def test_one_person_with_two_keys_counts_once() -> None:
    two_keys = {"alice": (ALICE, ecdsa_key()), "bob": (BOB,)}
    sim = Simulator()
    first = sim.trust(policy(two_keys, root=role("alice", "bob", threshold=2)))
    sim.approve(first, ecdsa_key())
    sim.approve(first, ALICE)
    assert refused(sim).check == 6
    sim.approve(first, BOB)
    assert sim.chain().newest.signers == ("alice", "bob")


# keys that trust.toml may not name


def bare(blob: bytes, kind: str) -> Key:
    return Key(ed25519_key().private, string(kind.encode()) + blob)


KEYS: dict[str, tuple[Key, str]] = {
    "rsa-2048": (rsa_key(2048), "RSA key of 2048 bits"),
    "C54-rsa-1024": (rsa_key(1024), "RSA key of 1024 bits"),
    "dsa": (bare(string(b"p"), "ssh-dss"), "DSA"),
    "C69-certificate": (bare(string(b"n"), "ssh-ed25519-cert-v01@openssh.com"), "certificate"),
    "unknown-kind": (bare(string(b"n"), "ssh-ed448"), "unknown key type"),
    "short": (bare(string(b"n"), "ssh-ed25519"), "32 bytes"),
    "small-order": (bare(string(b"\1" + bytes(31)), "ssh-ed25519"), "small order"),
    "off-curve": (
        bare(string(b"nistp256") + string(b"\4" + bytes(63) + b"\1"), "ecdsa-sha2-nistp256"),
        "not on nistp256",
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_may_not_be_named_is_refused_by_name(name: str) -> None:
    key, reason = KEYS[name]
    sim = start()
    sim.trust(policy({"alice": (ALICE,), "dora": (key,)}))
    refusal = refused(sim)
    assert refusal.check == 4
    assert "people.dora" in refusal.why
    assert reason in refusal.why


def test_kind_and_blob_are_one(recwarn: pytest.WarningsRecorder) -> None:
    sim = start()
    new = policy()
    lying = replace(line(BOB), kind="ssh-rsa")
    sim.trust(replace(new, people={**new.people, PersonName("bob"): (lying,)}))
    assert refused(sim).check == 4
    assert not recwarn.list


@pytest.mark.parametrize("fmt", ObjectFormat)
def test_cited_trust(fmt: ObjectFormat) -> None:
    """Check 4: the trust that a release cites is of this chain."""
    other = Simulator(fmt=fmt, stamp=replace(Simulator().stamp, time=7))
    other.trust()
    for cited in (
        Cited(Entry(2), shop(1, fmt).trusts[0].id),
        other.cited,
        replace(shop(1, fmt).cited, id=RecordId(shop(1, fmt).trusts[0].id.oid, Sha256("4" * 64))),
    ):
        sim = shop(1, fmt)
        sim.release(trust=cited)
        assert sim.outcome() == [0, 4]
