"""The first trust record of an app: its maker holds every role."""

from __future__ import annotations

from gitrel.format.record import Signed, Stamp, TrustRecord
from gitrel.format.trust import (
    SIGNERS_FILE,
    TRUST_FILE,
    DeployPolicy,
    KeyLine,
    Role,
    TrustPolicy,
    encode_allowed_signers,
    encode_trust,
)
from gitrel.ids import PRODUCTION, App, Entry, PersonName
from gitrel.store.records import Sign, write_record
from gitrel.store.repository import Repository
from gitrel.store.snapshot import store_tree


def sole_policy(app: App, person: PersonName, key: KeyLine) -> TrustPolicy:
    """One person, one key, every role."""
    role = Role(people=(person,))
    return TrustPolicy(
        app=app,
        people={person: (key,)},
        root=role,
        build=role,
        deploys={PRODUCTION: DeployPolicy(release=role, config=role)},
    )


def write_genesis(repo: Repository, policy: TrustPolicy, *, who: Stamp, sign: Sign) -> Signed[TrustRecord]:
    """Trust v1, signed and stored; its id's `sha256` is the pin."""
    tree = store_tree(repo, {TRUST_FILE: encode_trust(policy), SIGNERS_FILE: encode_allowed_signers(policy)})
    record = TrustRecord(
        app=policy.app,
        subject=f"Trust v1 of {policy.app}",
        entry=Entry(1),
        previous=None,
        tree_sha256=tree.sha256,
    )
    return write_record(repo, record, tree, who=who, sign=sign)
