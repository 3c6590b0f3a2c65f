"""gitrel.export.attestation and sbom, held against the libraries that others read them with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from google.protobuf import json_format  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]
from keys_support import ask_pass, ed25519_key, new_key, run, sk_inner, ssh_agent
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import SSlibKey
from test_provenance import FULL, GOLDEN, SMALL

from gitrel.errors import FormatError, NoUsableKey
from gitrel.export.attestation import PAYLOAD_TYPE, envelope, pae, sbom_statement
from gitrel.export.sbom import MAX_SBOM, SbomKind, parse_sbom, sbom_names
from gitrel.format.provenance import PREDICATE_TYPE, encode_provenance
from gitrel.format.tree import Mode, Node
from gitrel.ids import KeyId, ObjectId, Sha256
from gitrel.keys.plain import ask_agent, plain_signature
from gitrel.keys.private import Signer, load_signer
from gitrel.keys.public import PublicKey

PAYLOAD = GOLDEN.encode()
NODE = Node(Mode.DIRECTORY, ObjectId("a" * 40), Sha256("b" * 64))
CYCLONEDX = b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"name": "flask"}, {"score": 1.50e+2}]}'
SPDX = b'{"spdxVersion": "SPDX-2.3", "packages": []}'


@pytest.fixture
def agent() -> Iterator[dict[str, str]]:
    with ssh_agent() as env:
        yield env


def signer(path: Path | str, env: dict[str, str], *, interactive: bool = False) -> Signer:
    return load_signer(str(path), gpg_format="ssh", home=Path("/nowhere"), env=env, interactive=interactive)


def in_toto(statement: bytes) -> Statement:
    """Read and checked as in-toto's own library does: an unknown field is an error."""
    found = Statement.copy_from_pb(json_format.Parse(statement, statement_pb2.Statement()))
    found.validate()
    return found


def verified(line: bytes, key: PublicKey, scheme: str | None = None) -> bytes:
    """An envelope's payload, once securesystemslib has verified it with the public key alone."""
    read = Envelope.from_dict(json.loads(line))
    public = load_ssh_public_key(key.bare_line.encode())
    trusted = SSlibKey.from_crypto(public, keyid=key.id, scheme=scheme)
    assert set(read.verify([trusted], threshold=1)) == {key.id}
    assert read.payload_type == PAYLOAD_TYPE
    return bytes(read.payload)


def test_what_is_signed_is_dsses_encoding() -> None:
    assert pae(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    assert pae(PAYLOAD) == Envelope(PAYLOAD, PAYLOAD_TYPE, {}).pae()


KINDS = [
    ("ed25519", None, None),
    ("ecdsa", 256, None),
    ("ecdsa", 384, None),
    ("rsa", 3072, "rsa-pkcs1v15-sha256"),
]


@pytest.mark.parametrize(("kind", "bits", "scheme"), KINDS)
def test_an_envelope_verifies_with_the_public_key_alone(
    kind: str, bits: int | None, scheme: str | None, tmp_path: Path, agent: dict[str, str]
) -> None:
    path = new_key(tmp_path / "key", kind, bits)
    alone = signer(path, {"PATH": agent["PATH"]})
    run("ssh-add", "-q", path, env=agent)
    path.unlink()
    held = signer(f"{path}.pub", agent)
    for each in (alone, held, held, held):  # ECDSA: half of an agent's first values of s are high
        line = envelope(PAYLOAD, each.public_key.id, each.sign_plain)
        assert verified(line, each.public_key, scheme) == PAYLOAD
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
    forged = json.loads(envelope(PAYLOAD, alone.public_key.id, alone.sign_plain))
    forged["payload"] = forged["payload"].replace("W", "X", 1)
    with pytest.raises(VerificationError):
        verified(json.dumps(forged).encode(), alone.public_key, scheme)


def test_a_key_that_only_ssh_keygen_reaches(tmp_path: Path, agent: dict[str, str]) -> None:
    path = new_key(tmp_path / "key", "ed25519", passphrase="correct horse")
    locked = signer(path, agent, interactive=True)
    with pytest.raises(NoUsableKey, match="ssh-keygen signs in SSH's own format only") as caught:
        locked.sign_plain(b"data")
    assert caught.value.hint == f"ssh-add {path}"
    run("ssh-add", "-q", path, env={**agent, **ask_pass(tmp_path, "correct horse")})
    assert len(signer(path, agent).sign_plain(b"data")) == 64
    held = signer(path, agent)
    run("ssh-add", "-q", "-D", env=agent)
    with pytest.raises(NoUsableKey, match="ssh-agent does not sign"):
        held.sign_plain(b"data")
    gone = {**agent, "SSH_AUTH_SOCK": str(tmp_path / "nobody")}
    with pytest.raises(FormatError, match="does not answer"):
        ask_agent(gone["SSH_AUTH_SOCK"], held.public_key, b"data", seconds=5)


def test_a_hardware_key_cannot(tmp_path: Path) -> None:
    key = ed25519_key(application=b"ssh:")
    public = PublicKey.from_blob(key.blob)
    raw = sk_inner(key, b"ssh:", b"data")
    with pytest.raises(FormatError, match="not a signature of"):
        plain_signature(public, public.kind, raw[-69:-5], b"data")


def test_a_signature_over_other_bytes_never_leaves() -> None:
    key = ed25519_key()
    public = PublicKey.from_blob(key.blob)
    assert plain_signature(public, public.kind, key.private.sign(b"data"), b"data")  # type: ignore[call-arg]
    with pytest.raises(FormatError, match="does not match"):
        plain_signature(public, public.kind, key.private.sign(b"date"), b"data")  # type: ignore[call-arg]


@pytest.mark.parametrize("provenance", [SMALL, FULL], ids=["small", "full"])
def test_in_toto_reads_the_provenance(provenance: Any) -> None:
    raw = encode_provenance(provenance)
    read = in_toto(raw).pb
    assert read.predicate_type == PREDICATE_TYPE
    assert dict(read.subject[0].digest) == {"gitTree": "a" * 40, "sha256": "b" * 64}
    predicate = json_format.ParseDict(json.loads(raw)["predicate"], provenance_pb2.Provenance())
    assert predicate.run_details.builder.id == "urn:gitrel:builder:v1"
    assert predicate.build_definition.resolved_dependencies[0].digest["gitCommit"] == "c" * 40


@pytest.mark.parametrize(("name", "raw"), [("bom.json", CYCLONEDX), ("shop.spdx.json", SPDX)])
def test_in_toto_reads_the_statement_of_an_sbom(name: str, raw: bytes) -> None:
    sbom = parse_sbom(name, b"\n " + raw + b"\n")
    statement = sbom_statement(NODE, sbom)
    read = in_toto(statement).pb
    assert read.predicate_type == sbom.kind.predicate_type
    assert dict(read.subject[0].digest) == {"gitTree": "a" * 40, "sha256": "b" * 64}
    assert json.loads(statement)["predicate"] == json.loads(raw)
    assert raw in statement


def test_the_kinds_of_sbom() -> None:
    names = ["app.py", "bom.json", "Bom.json", "x.cdx.json", "y.spdx.json", "y.spdx", "sbom.json"]
    assert sbom_names(names) == ["bom.json", "x.cdx.json", "y.spdx.json"]
    assert str(parse_sbom("bom.json", CYCLONEDX)) == "bom.json: CycloneDX 1.6, 2 components"
    spdx = parse_sbom("a.spdx.json", SPDX)
    assert (spdx.kind, spdx.version, spdx.components) == (SbomKind.SPDX, "2.3", 0)
    assert parse_sbom("bom.json", b'{"bomFormat": "CycloneDX", "specVersion": "1.4"}').components == 0


REFUSED = {
    "not JSON": b"<bom/>",
    "not UTF-8": b'{"spdxVersion": "\xff"}',
    "a list": b"[]",
    "a BOM of the other kind": b"\xef\xbb\xbf{}",
    "another format": b'{"bomFormat": "SWID", "specVersion": "1"}',
    "no version": b'{"bomFormat": "CycloneDX"}',
    "a version that is no text": b'{"bomFormat": "CycloneDX", "specVersion": {}}',
    "a version that is a page": b'{"spdxVersion": "SPDX-' + b"9" * 400 + b'"}',
    "the other's version": b'{"spdxVersion": "CycloneDX-1"}',
    "components that are none": b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": 7}',
    "a key twice": b'{"spdxVersion": "SPDX-2.3", "spdxVersion": "SPDX-2.2"}',
    "not a number": b'{"spdxVersion": "SPDX-2.3", "x": NaN}',
    "a number of 5,000 digits": b'{"spdxVersion": "SPDX-2.3", "x": ' + b"9" * 5000 + b"}",
    "nested too deeply": b"[" * 100_000,
    "too large": b" " * (MAX_SBOM + 1),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_what_is_no_sbom(raw: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse_sbom("bom.json", raw)
    assert caught.value.where == "bom.json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.sampled_from([None, 1, "\t"]))
def test_a_statement_holds_the_document_unchanged(more: dict[str, Any], indent: Any) -> None:
    """For every document that is an SBOM, the statement's predicate is that document."""
    document = {**more, "bomFormat": "CycloneDX", "specVersion": "1.6", "components": []}
    raw = json.dumps(document, indent=indent).encode()
    assert json.loads(sbom_statement(NODE, parse_sbom("bom.json", raw)))["predicate"] == document


def test_a_key_id_is_the_records() -> None:
    """So that whoever reads an envelope can find the key in trust.toml."""
    key = PublicKey.from_blob(ed25519_key().blob)
    line = envelope(b"{}", key.id, lambda data: data[:1])
    assert json.loads(line)["signatures"] == [{"keyid": KeyId.of(key.blob), "sig": "RA=="}]
