"""Changes of trust: what each makes of a policy, and what is refused before anything is signed, with the reason."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keys_support import Key, ecdsa_key, ed25519_key, new_key, rsa_key, run, string

from gitrel.errors import FormatError, NotFound, UsageError
from gitrel.format.trust import DeployPolicy, KeyLine, Role, TrustPolicy, encode_trust, parse_trust
from gitrel.ids import PRODUCTION, App, Deploy, Entry, PersonName
from gitrel.release import amend

ALICE, BOB, CAROL, CI = (PersonName(name) for name in ("alice", "bob", "carol", "ci"))
STAGING = Deploy("staging")


def key(name: str) -> KeyLine:
    return KeyLine.parse(ed25519_key(name).line)


def team(root: int = 2) -> TrustPolicy:
    """alice, bob and carol in root and release, ci builds."""
    three = (ALICE, BOB, CAROL)
    return TrustPolicy(
        app=App("shop"),
        people={who: (key(who),) for who in (*three, CI)},
        root=Role(people=three, threshold=root),
        build=Role(people=(CI,)),
        deploys={PRODUCTION: DeployPolicy(release=Role(people=three, threshold=2), config=Role(people=(ALICE,)))},
    )


def test_a_new_person_has_keys_and_no_role() -> None:
    dan = PersonName("dan")
    after = amend.add_person(team(), dan, [key("dan"), key("dan at home")])
    assert [each.id for each in after.people[dan]] == [key("dan").id, key("dan at home").id]
    assert dan not in {*after.root.people, *after.build.people}
    assert parse_trust(encode_trust(after)) == after


def test_more_keys_for_somebody() -> None:
    after = amend.add_person(team(), BOB, [key("bob's token")])
    assert after.people[BOB] == (key("bob"), key("bob's token"))


@pytest.mark.parametrize("who", ["bob", "dan", "alice"])
def test_a_key_that_somebody_has(who: str) -> None:
    with pytest.raises(UsageError, match="alice has that key already") as caught:
        amend.add_person(team(), PersonName(who), [key("dan"), key("alice")])
    assert key("alice").id[:16] in caught.value.where


def test_a_key_with_another_comment_is_the_same_key() -> None:
    line = KeyLine.parse(ed25519_key("alice").line + " another comment")
    with pytest.raises(UsageError, match="alice has that key already"):
        amend.add_person(team(), PersonName("dan"), [line])


def test_a_key_given_twice() -> None:
    with pytest.raises(UsageError, match="given twice"):
        amend.add_person(team(), PersonName("dan"), [key("dan"), key("dan")])


def test_a_leaver_leaves_every_role() -> None:
    policy = amend.set_role(team(), "config", [ALICE, BOB], 1, STAGING)
    after = amend.remove_person(policy, BOB)
    assert BOB not in after.people
    assert BOB not in {*after.root.people, *after.deploys[PRODUCTION].release.people}
    assert BOB not in after.deploys[STAGING].config.people
    assert parse_trust(encode_trust(after)) == after


def test_one_key_of_two() -> None:
    policy = amend.add_person(team(), BOB, [key("bob's token")])
    after = amend.remove_person(policy, BOB, [key("bob").id[:12]])
    assert after.people[BOB] == (key("bob's token"),)
    assert after.root == policy.root
    for wrong in (["0" * 12], [""], [key("alice").id]):
        with pytest.raises(NotFound, match="no such key, or several"):
            amend.remove_person(policy, BOB, wrong)


def test_the_last_key_takes_its_owner_along() -> None:
    assert BOB not in amend.remove_person(team(), BOB, [key("bob").id]).people


@pytest.mark.parametrize(
    ("who", "root", "role"), [(CI, 2, "build"), (ALICE, 2, "config of production"), (BOB, 3, "root")]
)
def test_nobody_is_left(who: PersonName, root: int, role: str) -> None:
    """The last builder, the only one for config, one of three for a threshold of three."""
    with pytest.raises(UsageError, match=f"without {who} nobody could fill the role '{role}'") as caught:
        amend.remove_person(team(root), who)
    assert "would be left for a threshold of" in caught.value.why
    assert "set-role" in caught.value.hint


@pytest.mark.parametrize("threshold", [-1, 0, 3, 100])
@pytest.mark.parametrize("role", amend.ROLES)
def test_a_threshold_that_nobody_reaches(role: str, threshold: int) -> None:
    with pytest.raises(UsageError, match=f"a threshold of {threshold} for 2 people") as caught:
        amend.set_role(team(), role, [ALICE, BOB, ALICE], threshold, PRODUCTION)
    assert caught.value.where == role


def test_a_role_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="no role 'admin'") as caught:
        amend.set_role(team(), "admin", [PersonName("nobody")], 1, PRODUCTION)
    assert caught.value.why == f"there are {', '.join(amend.ROLES)}"


def test_somebody_unknown() -> None:
    with pytest.raises(NotFound, match="nobody called alcie") as caught:
        amend.set_role(team(), "root", [ALICE, PersonName("alcie")], 1, PRODUCTION)
    assert caught.value.hint == "did you mean alice?"
    with pytest.raises(NotFound) as caught:
        amend.remove_person(team(), PersonName("zoe"))
    assert caught.value.hint == "`gitrel trust add zoe KEY`"


def test_roles() -> None:
    policy = team()
    assert amend.set_role(policy, "root", [ALICE, BOB], 2, PRODUCTION).root == Role(people=(ALICE, BOB), threshold=2)
    assert amend.set_role(policy, "build", [CI, ALICE], 1, PRODUCTION).build.people == (CI, ALICE)
    after = amend.set_role(policy, "release", [BOB], 1, STAGING)
    assert after.deploys[STAGING].release.people == (BOB,)
    assert after.deploys[STAGING].config == policy.deploys[PRODUCTION].config
    assert after.deploys[PRODUCTION] == policy.deploys[PRODUCTION]


def test_readers_are_not_inherited() -> None:
    policy = amend.set_readers(team(), PRODUCTION, ["age1xyz"])
    after = amend.set_readers(policy, STAGING, ["age1abc"])
    assert after.deploys[PRODUCTION].readers == ("age1xyz",)
    assert after.deploys[STAGING].readers == ("age1abc",)


def test_repudiation_adds_up() -> None:
    policy = amend.repudiate(amend.repudiate(team(), PRODUCTION, Entry(7)), PRODUCTION, Entry(3))
    assert policy.repudiated == {PRODUCTION: (Entry(3), Entry(7))}
    assert amend.repudiate(policy, PRODUCTION, Entry(7)) == policy


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "root", "build", "release", "config", "repudiate"]),
            st.lists(st.sampled_from([ALICE, BOB, CAROL, CI, PersonName("dan")]), min_size=1, max_size=4),
            st.integers(0, 4),
            st.sampled_from([PRODUCTION, STAGING]),
        ),
        max_size=12,
    )
)
def test_what_is_not_refused_can_stand(steps: list[tuple[str, list[PersonName], int, Deploy]]) -> None:
    """After any series of changes the policy is one that parses: every role can be filled, every key has one owner."""
    policy = team()
    for what, people, number, deploy in steps:
        try:
            if what == "add":
                policy = amend.add_person(policy, people[0], [key(f"{people[0]}{number}")])
            elif what == "remove":
                policy = amend.remove_person(policy, people[0])
            elif what == "repudiate":
                policy = amend.repudiate(policy, deploy, Entry(number + 1))
            else:
                policy = amend.set_role(policy, what, people, number, deploy)
        except (UsageError, NotFound):
            continue
        assert parse_trust(encode_trust(policy)) == policy


def dsa() -> str:
    """ssh-keygen of today makes none, so the blob is put together (RFC 4253, 6.6)."""
    blob = string(b"ssh-dss") + b"".join(string(b"\x01" * 20) for _ in range(4))
    return f"ssh-dss {base64.b64encode(blob).decode()} old"


def test_keys_of_every_kind(tmp_path: Path) -> None:
    keys: list[Key] = [
        ed25519_key(),
        ecdsa_key("nistp256"),
        ecdsa_key("nistp384"),
        ecdsa_key("nistp521"),
        rsa_key(3072),
        ed25519_key("token", b"ssh:"),
        ecdsa_key("nistp256", b"ssh:"),
    ]
    text = ["# a file of one key a line", "", *(f"{each.line} comment {n}" for n, each in enumerate(keys)), "  "]
    read = amend.read_keys(text, "keys")
    assert [each.blob for each in read] == [each.blob for each in keys]
    assert read[4].comment == "comment 4"


def test_keys_from_an_agents_listing(tmp_path: Path) -> None:
    path = new_key(tmp_path / "key", "ed25519")
    public = Path(f"{path}.pub").read_text()
    assert [each.id for each in amend.read_keys(public.splitlines(), "standard input")] == [
        hashlib.sha256(base64.b64decode(public.split(" ")[1])).hexdigest()
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (dsa(), "a DSA key"),
        (rsa_key(2048).line, "an RSA key of 2048 bits"),
        ('from="10.0.0.1" ' + ed25519_key().line, "options in front of the key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "that is a private key"),
        ("ssh-ed25519", "a key type without a key"),
        ("ssh-ed25519 AAAA!", "the key is not base64"),
        ("The agent has no identities.", "not an SSH public key"),
        ("ssh-ed448 AAAA", "unknown key type"),
        ("ecdsa-sha2-nistp256 " + ed25519_key().line.split(" ")[1], "the line says ecdsa-sha2-nistp256"),
    ],
)
def test_keys_refused_by_name(line: str, what: str) -> None:
    with pytest.raises(FormatError, match=what) as caught:
        amend.read_keys([ed25519_key().line, "", line], "keys.txt")
    assert caught.value.where == "keys.txt:3"


def test_a_certificate(tmp_path: Path) -> None:
    authority, path = new_key(tmp_path / "ca", "ed25519"), new_key(tmp_path / "key", "ed25519")
    run("ssh-keygen", "-q", "-s", authority, "-I", "id", "-n", "me", f"{path}.pub")
    certificate = Path(f"{path}-cert.pub")
    with pytest.raises(FormatError, match="a certificate") as caught:
        amend.read_keys(certificate.read_text().splitlines(), str(certificate))
    assert caught.value.where == f"{certificate}:1"


@pytest.mark.parametrize("lines", [[], ["", "# nothing"], ["   "]])
def test_no_key(lines: list[str]) -> None:
    with pytest.raises(FormatError, match="no public key in it"):
        amend.read_keys(lines, "empty.pub")


def test_a_policy_put_together_wrongly_is_not_signed() -> None:
    """`write_trust` reads back what it is about to sign."""
    policy = team()
    broken = replace(policy, root=Role(people=(PersonName("ghost"),)))
    with pytest.raises(FormatError, match="not in"):
        parse_trust(encode_trust(broken))


def test_the_roles_of_witnesses() -> None:
    """They need not be there, take one signature, and go with the last who holds them."""
    hosts = amend.set_role(team(), "receipt", [ALICE, BOB], 1, PRODUCTION)
    beating = amend.set_role(hosts, "heartbeat", [BOB], 1, STAGING)
    assert beating.roles["receipt"].people == (ALICE, BOB)
    assert beating.roles["heartbeat"] == Role(people=(BOB,))
    left = amend.remove_person(amend.set_role(beating, "root", [ALICE], 1, PRODUCTION), BOB)
    assert left.heartbeat is None
    assert left.receipt == Role(people=(ALICE,))
    for role in ("heartbeat", "receipt"):
        with pytest.raises(UsageError, match="threshold"):
            amend.set_role(team(), role, [ALICE, BOB], 2, PRODUCTION)
    odd = amend.add_person(team(), PersonName("Web.1"), (key("other"),))
    with pytest.raises(UsageError, match="not a host's name"):
        amend.set_role(odd, "receipt", [PersonName("Web.1")], 1, PRODUCTION)
