"""What is fuzzed: every reader of bytes that somebody else can choose, and what it promises.

A target takes any bytes and says whether they were accepted; an exception that leaves it is a finding. Only
`FormatError` may leave a reader of `gitrel.format` and `gitrel.keys`, only that and `RemoteError` the intake of
packs; what is accepted encodes to the same bytes where the format has one spelling. `SEEDS` has good inputs for
each, to start from.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from gitrel.errors import FormatError, RemoteError
from gitrel.format.commit import parse_commit
from gitrel.format.manifest import parse_manifest
from gitrel.format.procfile import parse_procfile
from gitrel.format.provenance import parse_provenance
from gitrel.format.record import parse_approval, parse_record
from gitrel.format.tag import parse_tag
from gitrel.format.tree import encode_tree, parse_tree
from gitrel.format.trust import encode_allowed_signers, encode_trust, parse_trust
from gitrel.ids import ObjectFormat, parse_ref
from gitrel.keys.public import PublicKey
from gitrel.keys.sshsig import normalise, parse_sshsig
from gitrel.store.delta import apply_delta
from gitrel.store.ingest import PackReceiver
from gitrel.store.limits import Limits
from gitrel.store.packfile import entry_header
from gitrel.store.packs import Pack
from gitrel.store.repository import Repository

Target = Callable[[bytes], bool]

GOLDEN = Path(__file__).parents[1] / "unit/golden"
SHA1 = ObjectFormat.SHA1
MOST = 4 * 1024 * 1024  # bytes that a pack may inflate to here

_LIMITS = Limits(objects=1000, object_bytes=MOST, metadata_bytes=MOST, total_bytes=4 * MOST, delta_depth=50)


def record(raw: bytes) -> bool:
    accepted = False
    for fmt in ObjectFormat:
        try:
            signed = parse_record(raw, fmt)
        except FormatError:
            continue
        assert signed.raw == raw
        assert raw.partition(b"\n\n")[2].decode() == signed.record.message
        assert parse_commit(raw, fmt).tree == signed.tree
        accepted = True
    return accepted


def approval(raw: bytes) -> bool:
    accepted = False
    for fmt in ObjectFormat:
        try:
            parse_approval(raw, fmt)
        except FormatError:
            continue
        parse_tag(raw, fmt)
        accepted = True
    return accepted


def tree(raw: bytes) -> bool:
    accepted = False
    for fmt in ObjectFormat:
        try:
            entries = parse_tree(raw, fmt)
        except FormatError:
            continue
        assert encode_tree(entries) == raw
        accepted = True
    return accepted


def sshsig(raw: bytes) -> bool:
    text = raw.decode("latin-1")
    _accepts(lambda: normalise(text))
    try:
        signature = parse_sshsig(text)
    except FormatError:
        return False
    assert signature.armor() == text
    _accepts(lambda: signature.verify(b"any payload"))
    return True


def public_key(raw: bytes) -> bool:
    try:
        key = PublicKey.parse_line(raw.decode("latin-1"))
    except FormatError:
        return False
    assert PublicKey.parse_line(key.line) == key
    return True


def trust(raw: bytes) -> bool:
    try:
        policy = parse_trust(raw)
    except FormatError:
        return False
    again = encode_trust(policy)
    assert encode_trust(parse_trust(again)) == again
    encode_allowed_signers(policy)
    return True


def manifest(raw: bytes) -> bool:
    return _accepts(lambda: parse_manifest(raw))


def procfile(raw: bytes) -> bool:
    try:
        commands = parse_procfile(raw)
    except FormatError:
        return False
    assert all(name and command and "\n" not in command and "\0" not in command for name, command in commands.items())
    return True


def provenance(raw: bytes) -> bool:
    return _accepts(lambda: parse_provenance(raw))


def ref(raw: bytes) -> bool:
    name = raw.decode("utf-8", "surrogateescape")
    try:
        parsed = parse_ref(name)
    except FormatError:
        return False
    assert str(parsed) == name
    return True


def delta(raw: bytes) -> bool:
    """The first half of the bytes is the base."""
    base, change = raw[: len(raw) // 2], raw[len(raw) // 2 :]
    return _accepts(lambda: apply_delta(base, change))


def pack(raw: bytes) -> bool:
    """As it comes, and with a trailer that fits, so that what is behind the checksum is reached."""
    accepted = False
    for data in (raw, raw[:-20] + hashlib.sha1(raw[:-20], usedforsecurity=False).digest()):
        receiver = PackReceiver(_folder(), _home(), _LIMITS)
        path, fd = receiver._path, receiver._fd  # its owner, the transfer child, ends with an error
        try:
            receiver.write(data)
            done = receiver.finish()
        except (FormatError, RemoteError):
            os.close(fd)
            path.unlink(missing_ok=True)
            continue
        for suffix in (".pack", ".idx"):
            (_folder() / f"{done.pack}{suffix}").unlink(missing_ok=True)
        assert list(_folder().iterdir()) == []
        accepted = True
    return accepted


def stream(raw: bytes) -> bool:
    """A fetch that broke, or never was one: something may come of it, an error never, and each object is what its id
    says."""
    path = _folder() / "incoming-0.tmp"
    path.write_bytes(raw)
    done = PackReceiver(_folder(), _home(), _LIMITS, stream=path).salvage()
    if done.pack is not None:
        made = Pack(_folder() / f"{done.pack}.pack", SHA1)
        for oid, offset in made.entries():
            assert SHA1.object_id(*made.read(offset)).raw == oid
        made.close()
        for suffix in (".pack", ".idx"):
            (_folder() / f"{done.pack}{suffix}").unlink()
    assert list(_folder().iterdir()) == []
    return done.objects > 0


def _accepts(read: Callable[[], object]) -> bool:
    try:
        read()
    except FormatError:
        return False
    return True


_OPENED: list[tuple[tempfile.TemporaryDirectory[str], Repository]] = []


def _open() -> tuple[Path, Repository]:
    if not _OPENED:
        folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        (Path(folder.name) / "incoming").mkdir()
        _OPENED.append((folder, Repository.init_bare(Path(folder.name) / "home.git", SHA1)))
    folder, home = _OPENED[0]
    return Path(folder.name) / "incoming", home


def _folder() -> Path:
    return _open()[0]


def _home() -> Repository:
    return _open()[1]


def close() -> None:
    """Remove what the pack target wrote."""
    while _OPENED:
        folder, home = _OPENED.pop()
        home.close()
        folder.cleanup()


TARGETS: dict[str, Target] = {
    "record": record,
    "approval": approval,
    "tree": tree,
    "sshsig": sshsig,
    "public_key": public_key,
    "trust": trust,
    "manifest": manifest,
    "procfile": procfile,
    "provenance": provenance,
    "ref": ref,
    "delta": delta,
    "pack": pack,
    "stream": stream,
}


def _golden(*kinds: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(GOLDEN.iterdir()) if path.name.startswith(kinds)]


def _signatures() -> list[bytes]:
    """Those in the golden records, as they stand in an armor."""
    found = []
    for raw in _golden("release", "trust", "build", "config"):
        armor = raw[raw.index(b"-----BEGIN SSH SIGNATURE-----") : raw.index(b"-----END SSH SIGNATURE-----") + 27]
        found.append(armor.replace(b"\n ", b"\n"))
    return found


_TOKEN = (
    b"sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIGImpfPR5+X898YnF3IbxSFkGa5HalJwvc6Q"
    b"JvFjaA0HAAAABHNzaDo="
)
_KEYS = [
    b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGImpfPR5+X898YnF3IbxSFkGa5HalJwvc6QJvFjaA0H carol@laptop",
    _TOKEN,
]

_TRUST = b"""\
format = 1
app = "shop"

[people.alice]
keys = ["%s"]

[roles.root]
people = ["alice"]
threshold = 1
[roles.build]
people = ["alice"]
threshold = 1

[deploys.production]
release = { people = ["alice"], threshold = 1 }
config = { people = ["alice"], threshold = 1 }
readers = ["age1xyz"]

[repudiated]
production = ["v97"]
""" % _KEYS[0]

_MANIFEST = b"""\
app = "shop"
[build]
command = "make"
output = "."
exclude = ["tests"]
pass_env = ["PIP_INDEX_URL"]
timeout = "30m"
allow_links = ["/usr/bin/python3*"]
[run.web]
health = { path = "/healthz", timeout = "60s" }
scale = 2
stop_timeout = "10s"
[run.web.env]
PYTHONPATH = "vendor"
"""


def _tree(fmt: ObjectFormat) -> bytes:
    oid = bytes(range(1, 1 + fmt.raw_length))
    entries = (b"100644 .gitignore", b"100755 Procfile", b"100644 a.b", b"40000 a", b"120000 link", b"100644 \xc3\xa9")
    return b"".join(entry + b"\0" + oid for entry in entries)


def _pack() -> bytes:
    """A blob, a delta on it by offset, one by id, a tree and a commit."""
    blob = b"some text that is long enough to copy from\n" * 4
    change = bytes([len(blob) & 0x7F | 0x80, len(blob) >> 7, 12]) + b"\x90\x08" + b"\x04more"
    entries = [entry_header(3, len(blob)) + zlib.compress(blob)]
    way = len(entries[0])
    back = bytes([way]) if way < 128 else bytes([0x80 | (way >> 7) - 1, way & 0x7F])
    entries.append(entry_header(6, len(change)) + back + zlib.compress(change))
    oid = SHA1.object_id("blob", blob).raw
    other = bytes([len(blob) & 0x7F | 0x80, len(blob) >> 7, 9]) + b"\x90\x09"
    entries.append(entry_header(7, len(other)) + oid + zlib.compress(other))
    listing = b"100644 a\0" + oid
    entries.append(entry_header(2, len(listing)) + zlib.compress(listing))
    commit = b"tree %s\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\nx\n" % SHA1.object_id("tree", listing).encode()
    entries.append(entry_header(1, len(commit)) + zlib.compress(commit))
    body = struct.pack(">4sII", b"PACK", 2, len(entries)) + b"".join(entries)
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def _provenance() -> bytes:
    source = {"digest": {"gitCommit": "0c" * 20}, "uri": "git+https://example.org/shop"}
    subject = {"name": "build", "digest": {"gitTree": "0a" * 20, "sha256": "0b" * 32}}
    definition = {"externalParameters": {"source": source}, "resolvedDependencies": [source]}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://slsa.dev/provenance/v1",
        "subject": [subject],
        "predicate": {"buildDefinition": definition},
    }
    return json.dumps(statement, indent=2).encode() + b"\n"


SEEDS: dict[str, list[bytes]] = {
    "record": _golden("release", "trust", "build", "config"),
    "approval": _golden("approval"),
    "tree": [_tree(fmt) for fmt in ObjectFormat],
    "sshsig": _signatures(),
    "public_key": _KEYS,
    "trust": [_TRUST],
    "manifest": [_MANIFEST],
    "procfile": [b"web: python3 app.py --port $PORT\n# a comment\n\nworker: sh -c 'exec work'\nrelease: ./migrate\n"],
    "provenance": [_provenance()],
    "ref": [b"refs/releases/v12", b"refs/config/staging/v1", b"refs/builds/" + b"0a" * 20, b"refs/trust/v1",
            b"refs/approvals/" + b"0a" * 20 + b"/" + b"0b" * 32],
    "delta": [b"a base to copy from, of 32 bytes" + b"\x20\x23\x90\x08\x1b" + b"m" * 27],
    "pack": [_pack()],
    "stream": [_pack()[:-30]],
}  # fmt: skip
