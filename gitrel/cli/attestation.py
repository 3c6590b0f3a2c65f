"""`gitrel export attestation` and `sbom`: what a build's record says, for tools that know nothing of gitrel.

Whoever attests a build holds the build role: a reader of the envelope sees one signature, and no ledger.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer
from gitrel.cli.missing import with_objects
from gitrel.cli.naming import named_release, read_ledger
from gitrel.cli.stage_release import counting, named_build
from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, NotFound, Refused, UsageError
from gitrel.export.attestation import envelope, sbom_statement
from gitrel.export.sbom import Sbom, parse_sbom, sbom_names
from gitrel.format.provenance import PROVENANCE, parse_provenance
from gitrel.format.record import BuildRecord, Signed
from gitrel.format.tree import Mode, Node
from gitrel.ids import BuildRef, ObjectId
from gitrel.store.differ import read_folder
from gitrel.store.durable import replace_file
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import build_node, hash_tree
from gitrel.trust.signers import require_role

_FILES = (Mode.FILE, Mode.EXECUTABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where, and of what: a release by any of its names, or a build by the beginning of its id."""

    repo: Path | None
    remote: str | None
    deploy: str
    pin: str | None
    release: str | None = None
    build: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    """Of a build that counts: its tree, proven by the record's signed ids, and what it says of itself."""

    build: ObjectId
    node: Node
    provenance: bytes
    sboms: Mapping[str, ObjectId]


def attestation(console: Console, place: Place, output: Path | None) -> None:
    """A bundle: the provenance's envelope, and one for each SBOM."""
    with _opened(console, place) as (dev, chain, contents):
        key, policy = dev.signer.public_key.id, chain.newest.policy
        person = require_role(policy, policy.build, key, "attest builds")
        sboms = [_sbom(dev, name, oid) for name, oid in contents.sboms.items()]
        statements = [contents.provenance, *(sbom_statement(contents.node, each) for each in sboms)]
        lines = [envelope(statement, key, dev.signer.sign_plain) for statement in statements]
    console.note(f"{contents.build[:12]}: {len(lines)} signed by {person}, key id {key}")
    _write(console, b"".join(lines), output)
    console.result(
        build=contents.build,
        signer=person,
        keyid=key,
        output=str(output) if output else None,
        sboms=[sbom_fields(each) for each in sboms],
        envelopes=[json.loads(line) for line in lines],
    )


def sbom(console: Console, place: Place, name: str | None, output: Path | None) -> None:
    """The file as the build has it."""
    with _opened(console, place) as (dev, _, contents):
        names = list(contents.sboms)
        if not names:
            hint = "let the build write one at its top, named bom.json, *.cdx.json or *.spdx.json"
            raise NotFound("no SBOM in the build", where=contents.build, hint=hint)
        if name is None and len(names) > 1:
            raise UsageError("more than one SBOM in the build", where=", ".join(names), hint=f"--file {names[0]}")
        if name is not None and name not in names:
            raise NotFound(f"no SBOM {name!r} in the build", where=contents.build, why=f"there are {', '.join(names)}")
        found = _sbom(dev, name or names[0], contents.sboms[name or names[0]])
    console.note(str(found))
    _write(console, found.raw, output)
    console.result(build=contents.build, **sbom_fields(found), output=str(output) if output else None)


def sbom_fields(found: Sbom) -> dict[str, object]:
    return {"name": found.name, "kind": found.kind.title, "version": found.version, "components": found.components}


def show_sboms(dev: Developer, tree: ObjectId) -> tuple[list[str], list[dict[str, object]]]:
    """What a build lists of its components, for people and for programs; a file that only has the name is said so."""
    lines: list[str] = []
    fields: list[dict[str, object]] = []
    for name, oid in _sboms(dev, tree).items():
        try:
            found = _sbom(dev, name, oid)
        except FormatError as error:
            lines.append(f"{name}: {error.what}")
        else:
            lines.append(str(found))
            fields.append(sbom_fields(found))
    return lines, fields


@contextmanager
def _opened(console: Console, place: Place) -> Iterator[tuple[Developer, TrustChain, _Contents]]:
    if place.release is not None and place.build is not None:
        raise UsageError("a release and a build are asked for", where="--build", hint="leave one of them out")
    with open_developer(console, repo=place.repo, remote=place.remote, deploy=place.deploy, trust=place.pin) as dev:
        dev.sync()
        chain = dev.trust()
        if place.build is not None:
            signed = counting(dev, named_build(dev, chain, place.build))
            contents = _contents(dev, signed)
        else:
            release = named_release(console, read_ledger(dev), place.release).runnable
            contents = with_objects(dev, [release], lambda: _contents(dev, release.build))
        yield dev, chain, contents


def _contents(dev: Developer, signed: Signed[BuildRecord]) -> _Contents:
    """Raises `Refused` if the files are not the signed ones, or the provenance is of another build."""
    where = str(BuildRef(signed.id.oid))
    node = build_node(signed, dev.repo, where)
    sboms = _sboms(dev, node.oid)
    if sboms and hash_tree(dev.repo, node.oid, where) != node:
        raise Refused("the build's content is not the signed one", check=Check.CONTENT, where=where)
    provenance = dev.repo.read(read_folder(dev.repo, signed.tree)[PROVENANCE].oid, "blob")
    try:
        stated = parse_provenance(provenance)
    except FormatError as error:
        raise Refused("its provenance is no statement", check=Check.BUILD, where=where, why=str(error)) from None
    if (stated.tree, stated.tree_sha256, stated.source) != (node.oid, node.sha256, signed.record.source):
        why = "the tree or the source that it states is not the record's"
        raise Refused("its provenance is another build's", check=Check.BUILD, where=where, why=why)
    return _Contents(build=signed.id.oid, node=node, provenance=provenance, sboms=sboms)


def _sboms(dev: Developer, tree: ObjectId) -> dict[str, ObjectId]:
    files = {name: each.oid for name, each in read_folder(dev.repo, tree).items() if each.mode in _FILES}
    return {name: files[name] for name in sbom_names(files)}


def _sbom(dev: Developer, name: str, oid: ObjectId) -> Sbom:
    return parse_sbom(name, dev.repo.read(oid, "blob"))


def _write(console: Console, data: bytes, output: Path | None) -> None:
    """A file, or standard output unless the JSON document goes there."""
    if output is not None:
        replace_file(output, data)
    elif not console.as_json:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
