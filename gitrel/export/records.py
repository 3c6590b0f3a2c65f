"""A release's records as files that go into its image, and their verification there (docs/oci.md).

    refs                what the objects are called: `<id> <ref>` a line, sorted
    objects/<id>        the records, and the files of the trust ledger
    provenance.json     of the build record
    config/<NAME>       the config's plain files
    secrets             of the others `<id> <sha256> <name>` a line: proof without content

They are those that were there when the release was made: its trust and all before it, its chain, what approves it.
What the release's trees hold follows from the build itself and these, so the trees are not among them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from gitrel.dataclass import dataclass
from gitrel.errors import BadInput, FormatError, LocalStateError, NotFound, Refused
from gitrel.export.layer import FileObjects
from gitrel.format.envdir import SECRET_SUFFIX
from gitrel.format.provenance import PROVENANCE
from gitrel.format.record import ReleaseRecord, parse_record_as
from gitrel.format.tree import Mode, Node, blob_node, directory_node, parse_tree
from gitrel.ids import TRUST, Deploy, Kind, Ledger, ObjectFormat, ObjectId, Sha256
from gitrel.store.repository import Repository
from gitrel.trust.checks import Check
from gitrel.trust.content import BUILD_FOLDER, CONFIG_FOLDER, BoundRelease, Objects
from gitrel.trust.ledger import ChainedRelease
from gitrel.trust.walk import deploys, entries, load_trust, walk_releases

_CONFIG = "config/"
_NAMES = re.compile(r"refs|secrets|provenance\.json|objects/[0-9a-f]{40,64}|config/[^/]+")


def collect(repo: Repository, refs: Mapping[str, ObjectId], bound: BoundRelease) -> dict[str, bytes]:
    """The files for a release's image. Raises `NotFound`, `LocalStateError`."""
    chained = bound.chained
    files: dict[str, bytes] = {PROVENANCE: bound.provenance}
    names: dict[str, ObjectId] = {}

    def take(oid: ObjectId, kind: Kind) -> bytes:
        data = repo.read(oid, kind)
        files[f"objects/{oid}"] = FileObjects.encode(kind, data)
        return data

    for entry, oid in entries(refs, TRUST).items():
        if entry <= chained.trust.entry:
            names[str(TRUST[entry])] = oid
            tree = _tree_of(take(oid, "commit"))
            for child in parse_tree(take(tree, "tree"), repo.format):
                take(child.oid, "blob")
    ledger = Ledger.releases(chained.record.deploy)
    for entry, oid in entries(refs, ledger).items():
        if entry <= chained.entry:
            names[str(ledger[entry])] = oid
            for part in _parts(take(oid, "commit"), repo.format):
                if part in repo:
                    take(part, "commit")
    records = {name.removeprefix("objects/") for name in files}
    for name, oid in refs.items():
        if name.startswith("refs/approvals/") and name.split("/")[2] in records:
            with contextlib.suppress(NotFound, LocalStateError):  # no tag, or not here: it approves nothing
                take(oid, "tag")
                names[name] = oid
    files["refs"] = "".join(f"{oid} {name}\n" for name, oid in sorted(names.items())).encode()
    return files | _config_files(bound, repo.format)


def _tree_of(commit: bytes) -> ObjectId:
    return ObjectId(commit.partition(b"\n")[0].removeprefix(b"tree ").decode())


def _parts(raw: bytes, fmt: ObjectFormat) -> Iterator[ObjectId]:
    """The records that a release consists of; none if it is no release, which the verifier will say."""
    try:
        record = parse_record_as(ReleaseRecord, raw, fmt).record
    except FormatError:
        return
    yield record.build.oid
    if record.config is not None:
        yield record.config.id.oid


def _config_files(bound: BoundRelease, fmt: ObjectFormat) -> dict[str, bytes]:
    """No secret goes into an image, not even encrypted."""
    plain = {name: data for name, data in bound.config.items() if not name.endswith(SECRET_SUFFIX)}
    nodes = {name: blob_node(data, fmt) for name, data in bound.config.items() if name not in plain}
    lines = "".join(f"{nodes[name].oid} {nodes[name].sha256} {name}\n" for name in sorted(nodes))
    return {**{_CONFIG + name: data for name, data in plain.items()}, "secrets": lines.encode()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an image's records prove, once its build is what they say (`prove`).

    `secrets`: the config's variables whose values are not here.
    """

    chained: ChainedRelease
    config: Mapping[str, bytes]
    secrets: tuple[str, ...]
    nodes: Mapping[str, Node]
    provenance: bytes


def read_claim(files: Mapping[str, bytes], pin: Sha256) -> Claim:
    """Verify the records against the pin: checks 1 to 10, 13 and 14. Raises `Refused`, `BadInput`."""
    stray = next((name for name in files if _NAMES.fullmatch(name) is None), None)
    if stray is not None:
        raise BadInput("a file that is no record", where=f"/.gitrel/{stray}")
    try:
        refs = _refs(files["refs"].decode())
        (deploy,) = deploys(refs)
        objects = FileObjects(files)
        fmt = ObjectFormat.of(next(iter(refs.values())))
        secrets = _secrets(files["secrets"].decode())
        provenance = files[PROVENANCE]
    except (KeyError, ValueError, FormatError, StopIteration) as error:
        raise BadInput("the image's records are incomplete", where="/.gitrel", why=str(error)) from None
    chained = _newest(refs, objects, fmt, deploy, pin)
    config = {name.removeprefix(_CONFIG): data for name, data in files.items() if name.startswith(_CONFIG)}
    return Claim(
        chained=chained,
        config=config,
        secrets=tuple(name.removesuffix(SECRET_SUFFIX) for name in secrets),
        nodes={**{name: blob_node(data, fmt) for name, data in config.items()}, **secrets},
        provenance=provenance,
    )


def _newest(
    refs: Mapping[str, ObjectId], objects: Objects, fmt: ObjectFormat, deploy: Deploy, pin: Sha256
) -> ChainedRelease:
    try:
        trust = load_trust(refs, objects, fmt, pin)
        verdict = list(walk_releases(refs, objects, trust, deploy))[-1]
    except (FormatError, NotFound, LocalStateError) as error:
        raise Refused(
            "the image's records are not whole", check=Check.CONTENT, where=error.where, why=error.what
        ) from None
    if verdict.release is None:
        raise verdict.refusal or Refused("no verdict", check=Check.PREVIOUS, where=verdict.ref)
    return verdict.release


def _refs(text: str) -> dict[str, ObjectId]:
    found = [line.split(" ") for line in text.splitlines()]
    return {name: ObjectId(oid) for oid, name in found}


def _secrets(text: str) -> dict[str, Node]:
    found = [line.split(" ") for line in text.splitlines()]
    return {name: Node(Mode.FILE, ObjectId(oid), Sha256(digest)) for oid, digest, name in found}


def prove(claim: Claim, build: Node) -> None:
    """Check 12: the build, the provenance and the config make the very trees that were signed, by both hash functions.

    Raises `Refused`.
    """
    chained = claim.chained
    fmt = ObjectFormat.of(chained.id.oid)
    ref = str(chained.record.ref)
    if claim.nodes and chained.config is None:
        raise Refused("it has a config and cites no config record", check=Check.CONFIG, where=ref)
    config = directory_node(claim.nodes, fmt)[1]
    release = {BUILD_FOLDER: build, **({CONFIG_FOLDER: config} if claim.nodes else {})}
    record = {BUILD_FOLDER: build, PROVENANCE: blob_node(claim.provenance, fmt)}
    signed = [
        (directory_node(record, fmt)[1], chained.build.tree, chained.build.record.tree_sha256),
        (directory_node(release, fmt)[1], chained.signed.tree, chained.record.tree_sha256),
    ]
    if chained.config is not None:
        signed.append((config, chained.config.tree, chained.config.record.tree_sha256))
    for node, tree, digest in signed:
        if node.oid != tree or node.sha256 != digest:
            why = f"Tree-SHA256 is {digest}, the image's files give {node.sha256}"
            raise Refused("the image's files are not the signed ones", check=Check.CONTENT, where=ref, why=why)
