"""A signed build's provenance, and its SBOM, as in-toto attestations (docs/attestations.md).

An attestation is a DSSE envelope (https://github.com/secure-systems-lab/dsse, version 1) around an in-toto Statement,
and several are a bundle: JSON Lines, an envelope each (in-toto's spec/v1/bundle.md). The provenance's statement is
the build's provenance.json, byte for byte. What is signed is the pre-authentication encoding, `pae`, with the key's
own algorithm and no SSHSIG around it (`gitrel.keys.plain`).
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable

from gitrel.export.sbom import Sbom
from gitrel.format.provenance import STATEMENT_TYPE, SUBJECT_NAME
from gitrel.format.tree import Node
from gitrel.ids import KeyId

PAYLOAD_TYPE = "application/vnd.in-toto+json"

SignPlain = Callable[[bytes], bytes]


def pae(payload: bytes) -> bytes:
    """What is signed: DSSE's protocol.md, "Signature Definition"."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def envelope(statement: bytes, key: KeyId, sign: SignPlain) -> bytes:
    """A line of a bundle, with its LF. Raises what `sign` raises."""
    fields = {
        "payload": b64encode(statement).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key, "sig": b64encode(sign(pae(statement))).decode()}],
    }
    return json.dumps(fields).encode() + b"\n"


def sbom_statement(build: Node, sbom: Sbom) -> bytes:
    """The statement that this SBOM is the build's, whose subject is the tree as in provenance.json.

    The document stands in it in its own bytes: what wrote it chose how its numbers look.
    """
    head = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": SUBJECT_NAME, "digest": {"gitTree": build.oid, "sha256": build.sha256}}],
        "predicateType": sbom.kind.predicate_type,
    }
    return json.dumps(head).encode().removesuffix(b"}") + b', "predicate": ' + sbom.raw.strip() + b"}\n"
