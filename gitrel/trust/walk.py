"""Reading whole ledgers: refs and objects in, verdicts out.

`refs` is what a repository or a remote says that its refs are; nothing about it is believed (`gitrel.format.refs`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import ParamSpec, TypeVar

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.record import AnyRecord, BuildRecord, ConfigRecord, Detached, Signed, TrustRecord
from gitrel.format.refs import RefMap, RefView, view
from gitrel.format.tree import Mode, parse_tree
from gitrel.format.trust import SIGNERS_FILE, TRUST_FILE
from gitrel.ids import (
    TRUST,
    BuildRef,
    Deploy,
    Entry,
    KeyId,
    Ledger,
    LedgerKind,
    LedgerRef,
    ObjectFormat,
    ObjectId,
    PersonName,
    RecordId,
    Sha256,
    parse_ref,
)
from gitrel.trust.anchor import Anchor
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import Objects
from gitrel.trust.ledger import ReleaseLedger, Verdict
from gitrel.trust.parts import verify_signatures
from gitrel.trust.signers import judge_signers, parse_canonical, verify_signature

K = TypeVar("K")
P = ParamSpec("P")

_FEW = 256  # records; to have fewer verified by others takes longer
_LOOKED_UP = 200  # records whose approvals are looked up, at 0.1 ms each


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedConfig:
    """An entry of a config ledger whose record, chain and signer were checked.

    `people` are those of today's role who signed it. `lack` is why the next release cannot carry it: its signer
    lost the role (5), or too few people signed (6); None also if a good release has carried it. The ledger cannot
    tell what a key that was removed added since, and who adds to a pending entry would sign what they did not look
    at: nothing of either belongs into the next entry, which follows it all the same.
    """

    signed: Signed[ConfigRecord]
    maker: PersonName
    people: tuple[PersonName, ...]
    lack: Refused | None

    @property
    def id(self) -> RecordId:
        return self.signed.id

    @property
    def entry(self) -> Entry:
        return self.signed.record.entry

    @property
    def anchor(self) -> Anchor:
        return Anchor(self.entry, self.id, self.signed.record.trust.entry)

    @property
    def usable(self) -> bool:
        return self.lack is None

    @property
    def pending(self) -> bool:
        """It lacks nothing but signatures."""
        return self.lack is not None and self.lack.check == Check.THRESHOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBuild:
    """A build record by somebody with the build role; `lack`: what keeps it pending (6)."""

    signed: Signed[BuildRecord]
    lack: Refused | None


class RecordReader:
    """The records and approvals of one set of refs, for the verifier to ask for (`gitrel.trust.ledger.Records`)."""

    def __init__(self, refs: RefMap, objects: Objects) -> None:
        self._objects = objects
        self._refs = view(refs)
        self._looked_up = 0
        self._listed: dict[str, dict[str, ObjectId]] = {}
        self._commits: Mapping[ObjectId, bytes] = {}
        self._signers: Mapping[Detached, KeyId] = {}

    def known(self, oid: ObjectId) -> bytes | None:
        """A commit that was read ahead."""
        return self._commits.get(oid) or None

    def commit(self, oid: ObjectId) -> bytes:
        return self.known(oid) or self._objects.read(oid, "commit")

    def signer(self, signed: Signed[AnyRecord], where: str) -> KeyId:
        return self._signers.get(Detached(signed.signature, signed.payload)) or verify_signature(signed, where)

    def ahead(self, found: Mapping[K, ObjectId]) -> Generator[tuple[K, ObjectId], None, None]:
        """The items of `found`. If they are many, what is asked for of each has been read and verified already.

        Close it (`contextlib.closing`) if it may not be exhausted.
        """
        if len(found) <= _FEW:
            yield from found.items()
            return
        from gitrel.trust.ahead import windows  # a short walk has no use for it

        items = iter(found.items())
        with contextlib.closing(windows(self._objects, list(found.values()))) as ahead:
            for oids, self._commits, self._signers in ahead:
                yield from itertools.islice(items, len(oids))

    def approvals(self, record: ObjectId) -> Sequence[bytes]:
        """Those that can be read and are what their refs say: any other approves nothing."""
        found = []
        for name, oid in self._approving(f"refs/approvals/{record}/").items():
            with contextlib.suppress(FormatError, NotFound, LocalStateError):  # a stray ref approves nothing
                parse_ref(name)
                raw = self._objects.read(oid, "tag")
                if raw.startswith(f"object {record}\ntype commit\ntag {name.removeprefix('refs/')}\n".encode()):
                    found.append(raw)
        return found

    def _approving(self, prefix: str) -> RefMap:
        """The approvals of one record. Of a few records they are looked up; for more than that all are listed, once."""
        if self._looked_up < _LOOKED_UP:
            self._looked_up += 1
            return self._refs.below(prefix)
        if self._looked_up == _LOOKED_UP:
            self._looked_up += 1
            for name, oid in self._refs.below("refs/approvals/").items():
                self._listed.setdefault(name[: len(prefix)], {})[name] = oid
        return self._listed.get(prefix, {})


def entries(refs: RefMap, ledger: Ledger, first: int = 1) -> dict[Entry, ObjectId]:
    """The refs that are entries of one ledger from `first` on, in order."""
    return view(refs).entries(ledger, first)


def deploys(refs: RefMap) -> list[Deploy]:
    """The deploys that have a release ledger."""
    found = set()
    for name in refs:
        if name.startswith("refs/releases/"):
            try:
                ref = parse_ref(name)
            except FormatError:
                continue
            if isinstance(ref, LedgerRef) and ref.ledger.kind is LedgerKind.RELEASE and ref.ledger.deploy:
                found.add(ref.ledger.deploy)
    return sorted(found)


def load_trust(refs: RefMap, objects: Objects, fmt: ObjectFormat, pin: Sha256 | None) -> TrustChain:
    """Walk the whole trust ledger from the pin. Raises `Refused`; `NotFound` if there is none at all.

    A newest record that only waits for approvals is not in force yet: it is `TrustChain.pending`.
    """
    chain = TrustChain(fmt, pin)
    reader = RecordReader(refs, objects)
    found = entries(refs, TRUST)
    if not found:
        raise NotFound("no trust ledger", where=f"{TRUST.prefix}1", hint="start one with `gitrel init`")
    for entry, oid in found.items():
        name = str(TRUST[entry])
        if entry != len(chain) + 1:
            raise Refused(f"v{len(chain) + 1} is missing", check=Check.TRUST_CHAIN, where=name)
        raw = _read(name, objects.read, oid, "commit")
        trust_file, signers_file = trust_files(raw, objects, fmt, name)
        try:
            chain.add(name, raw, trust_file=trust_file, signers_file=signers_file, approvals=reader.approvals(oid))
        except Refused:
            if chain.pending is None or not len(chain) or entry != max(found):
                raise
    return chain


def trust_files(raw: bytes, objects: Objects, fmt: ObjectFormat, name: str) -> tuple[bytes, bytes]:
    """`trust.toml` and `allowed_signers` of a trust record that nobody has verified yet. Raises `Refused` (2, 11)."""
    try:
        tree = parse_tree(_read(name, objects.read, parse_canonical(TrustRecord, raw, fmt, name).tree, "tree"), fmt)
    except FormatError as error:
        raise Refused("its tree is malformed", check=Check.TREE, where=name, why=str(error)) from None
    files = {entry.name: entry for entry in tree if entry.mode is Mode.FILE}
    if set(files) != {TRUST_FILE, SIGNERS_FILE} or len(tree) != len(files):
        raise Refused(f"its tree is not {TRUST_FILE} and {SIGNERS_FILE}", check=Check.TREE, where=name)
    return (
        _read(name, objects.read, files[TRUST_FILE].oid, "blob"),
        _read(name, objects.read, files[SIGNERS_FILE].oid, "blob"),
    )


def walk_releases(
    refs: RefMap,
    objects: Objects,
    trust: TrustChain,
    deploy: Deploy,
    *,
    anchor: Anchor | None = None,
    shallow: bool = False,
    released_before: Callable[[RecordId], bool] | None = None,
    left_out: Mapping[Entry, RecordId] | None = None,
) -> Iterator[Verdict]:
    """A verdict for each release after the anchor, oldest first; one that breaks the chain is the last.

    `left_out`: releases that are there, too, and were refused by an earlier walk: trust may name them. Raises `Refused`
    (13) if the anchor's own release is gone or another one, or if a release that the trust names has not come; (7) if
    the trust names another one than was seen.
    """
    ledger, refs = Ledger.releases(deploy), view(refs)
    found = refs.entries(ledger, anchor.entry if anchor is not None else 1)
    newest = max(found, default=0)
    if anchor is not None:
        _check_anchor(anchor, found.pop(anchor.entry, None), ledger)
    _check_heads(trust, deploy, refs, newest, anchor, left_out or {})
    reader = RecordReader(refs, objects)
    verifier = ReleaseLedger(
        trust,
        deploy,
        reader,
        anchor=anchor,
        shallow=shallow,
        **({"released_before": released_before} if released_before else {}),
    )
    with contextlib.closing(reader.ahead(found)) as ahead:
        for entry, oid in ahead:
            name = str(ledger[entry])
            try:
                if entry != verifier.next and not shallow:
                    raise Refused(f"{verifier.next} is missing", check=Check.PREVIOUS, where=name)
                yield verifier.add(name, _read(name, reader.commit, oid))
                shallow = False
            except Refused as refusal:
                raw_id = RecordId(oid, Sha256("0" * 64))
                yield Verdict(ref=name, entry=entry, id=raw_id, refusal=refusal)
                return


def _check_anchor(anchor: Anchor, now: ObjectId | None, ledger: Ledger) -> None:
    if now != anchor.id.oid:
        raise Refused(
            f"{anchor.entry} is another release now" if now else f"{anchor.entry} is gone",
            check=Check.HIGHEST_SEEN,
            where=str(ledger[anchor.entry]),
            why=f"it was {anchor.id.oid}, verified" + (f"; the remote says {now}" if now else ""),
            hint="the ledger was rewritten or rolled back: ask who can write to the remote",
        )


def _check_heads(
    trust: TrustChain,
    deploy: Deploy,
    refs: RefView,
    newest: int,
    anchor: Anchor | None,
    left_out: Mapping[Entry, RecordId],
) -> None:
    """What trust records name exists, and is what an earlier verification saw; the walk compares what comes after.

    `newest`: the highest number that there is, or 0.
    """
    ledger = Ledger.releases(deploy)
    for each in trust:
        head = each.head(deploy)
        if head is None:
            continue
        name = str(ledger[head.entry])
        if head.entry > newest and left_out.get(head.entry) != head.id:
            raise Refused(
                f"{head.entry} is not there, which trust {each.entry} names",
                check=Check.HIGHEST_SEEN,
                where=name,
                why=f"the newest that is there is {Entry(newest)}" if newest else "there is no release at all",
                hint="the ledger was rolled back, or not all of it was sent: ask who can write to the remote",
            )
        if anchor is None or head.entry > anchor.entry:
            continue
        seen = anchor.id.oid if head.entry == anchor.entry else refs.get(name, head.id.oid)
        if seen != head.id.oid or (head.entry == anchor.entry and head.id != anchor.id):
            raise Refused(
                f"trust {each.entry} names another {head.entry}: the ledger was forked",
                check=Check.POSITION,
                where=name,
                why=f"{head.id.oid} and {seen}",
                hint="keep both as evidence, and ask who can write to the remote",
            )


def walk_config(
    refs: RefMap, objects: Objects, trust: TrustChain, deploy: Deploy, *, anchor: Anchor | None = None
) -> list[VerifiedConfig]:
    """The deploy's config ledger after the anchor, every link and signature checked.

    Raises `Refused` at the first bad entry; (13) if the anchor's own is gone or another one.
    """
    ledger, refs = Ledger.config(deploy), view(refs)
    reader = RecordReader(refs, objects)
    start = anchor.entry if anchor is not None else 0
    found = refs.entries(ledger, max(start, 1))
    if anchor is not None and found.pop(anchor.entry, None) != anchor.id.oid:
        raise Refused("it is another one now", check=Check.HIGHEST_SEEN, where=str(ledger[anchor.entry]))
    newest = trust.newest
    role = newest.policy.deploy(deploy).config
    carried: frozenset[RecordId] | None = None
    verified: list[VerifiedConfig] = []
    for number, oid in found.items():
        name = str(ledger[number])
        signed = parse_canonical(ConfigRecord, _read(name, reader.commit, oid), trust.format, name)
        record = signed.record
        if str(record.ref) != name:
            raise Refused("the ref does not name this record", check=Check.NAME, where=name)
        if record.app != trust.app:
            raise Refused("config of another app", check=Check.APP, where=name, why=record.app)
        previous = verified[-1].id if verified else anchor and anchor.id
        if record.entry != start + len(verified) + 1 or record.previous != previous:
            raise Refused("does not follow the entry before it", check=Check.PREVIOUS, where=name)
        cited = trust.cited(record.trust, name)
        signatures = verify_signatures(signed, record.ref, reader, trust, name)
        maker = cited.owners.get(signatures.own)
        if maker is None or maker not in cited.policy.deploy(deploy).config.people:
            raise Refused("signed by somebody without the config role", check=Check.SIGNATURE, where=name)
        lack = judge_signers(signatures, role, newest.owners, record.ref, name)
        if lack is not None:
            carried = _carried_configs(refs, objects, trust, deploy) if carried is None else carried
            lack = None if signed.id in carried else lack
        people = signatures.people(role, newest.owners)
        verified.append(VerifiedConfig(signed=signed, maker=maker, people=people, lack=lack))
    return verified


def _carried_configs(refs: RefMap, objects: Objects, trust: TrustChain, deploy: Deploy) -> frozenset[RecordId]:
    """The config records that good releases carry. It takes a walk of the whole ledger."""
    good = [verdict.release for verdict in walk_releases(refs, objects, trust, deploy) if verdict.release is not None]
    return frozenset(release.config.id for release in good if release.config is not None)


def walk_builds(
    refs: RefMap,
    objects: Objects,
    trust: TrustChain,
    source: ObjectId | None = None,
    *,
    among: RefMap | None = None,
) -> Iterator[VerifiedBuild]:
    """The builds that the build role signed, of one source commit or of all; others are passed over.

    `among`: only these refs of builds are looked at.
    """
    newest = trust.newest
    reader = RecordReader(refs, objects)
    for name, oid in (view(refs).below("refs/builds/") if among is None else among).items():
        try:
            signed = parse_canonical(BuildRecord, reader.commit(oid), trust.format, name)
            if name != str(BuildRef(signed.id.oid)) or signed.record.app != trust.app:
                continue
            if source is not None and signed.record.source != source:
                continue
            trust.cited(signed.record.trust, name)
            subject = BuildRef(signed.id.oid)
            signatures = verify_signatures(signed, subject, reader, trust, name)
        except (Refused, NotFound, LocalStateError):
            continue  # whoever can write to the remote can put anything here; an audit names it
        lack = judge_signers(signatures, newest.policy.build, newest.owners, subject, name)
        if lack is None or lack.check == Check.THRESHOLD:
            yield VerifiedBuild(signed=signed, lack=lack)


def _read(name: str, read: Callable[P, bytes], *args: P.args, **kwargs: P.kwargs) -> bytes:
    try:
        return read(*args, **kwargs)
    except (NotFound, LocalStateError) as error:
        raise Refused(f"cannot be read: {error.what}", check=Check.CANONICAL, where=name, why=error.why) from None
