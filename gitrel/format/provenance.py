"""`provenance.json`: where a build comes from, for tools other than gitrel (docs/spec/provenance.md).

An in-toto Statement v1 with an SLSA Provenance v1 predicate (https://in-toto.io/Statement/v1,
https://slsa.dev/spec/v1.0/provenance). It is not signed by itself: it lies in the tree of the signed build
record. The subject is the tree beside it, `build/`, named by two digests:

- `gitTree`: the tree's id in the repository's own object format (in-toto's digest set);
- `sha256`: the id of the same tree in a SHA-256 git repository, that is SHA-256 over `tree <length>\\0` and
  the tree object whose entries are named by *their* SHA-256 ids. It is not a digest of an archive.

Encoding is canonical: keys sorted, two spaces of indent, UTF-8, one final newline. Parsing is laxer: a
statement by another builder may say more than gitrel writes; what is read here has to be there, once, in its
shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.ids import ObjectFormat, ObjectId, Sha256

PROVENANCE = "provenance.json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:gitrel:build:v1"
BUILDER_ID = "urn:gitrel:builder:v1"
SUBJECT_NAME = "build"
MAX_PROVENANCE = 1024 * 1024  # bytes

_MAX_TIME = 253402300799  # 9999-12-31T23:59:59Z, the last second that RFC 3339 can name
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:([^/\s'\"]*)@)?")
_HELPER = re.compile(r"[A-Za-z0-9]+::")  # gitremote-helpers(7)
_USERINFO = re.compile(r"://[^/\s'\"]*@")  # begins with a literal: linear in lines of any length
_SSH_SCHEMES = ("ssh", "git+ssh", "ssh+git")
_SCP = re.compile(r"(?:(?P<user>[^/@]*(?:@[^/@]*)*)@)?(?P<host>\[[^]/]+\]|[^:/@\[]+):(?P<path>.*)", re.DOTALL)
_REMOTE_SCHEMES = ("https", "http", "git", *_SSH_SCHEMES)
_URI_SAFE = "/:@!$&'()*+,;=~-._%[]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What gitrel states of a build. Times are whole seconds since 1970.

    `source_uri` is a `source_uri()`, `pass_env` names only. `tree_sha256` is explained in the module's
    docstring.
    """

    tree: ObjectId
    tree_sha256: Sha256
    source: ObjectId
    source_uri: str | None = None
    command: str | None = None
    output: str = "."
    exclude: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    started: int
    finished: int
    gitrel_version: str
    python_version: str
    builder_id: str = BUILDER_ID
    invocation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedOrigin:
    """What a statement claims: of this tree, made from this commit. Nothing is verified."""

    tree: ObjectId
    tree_sha256: Sha256
    source: ObjectId
    source_uri: str | None


def encode_provenance(provenance: Provenance) -> bytes:
    """The file's bytes, the same for the same values. Raises `FormatError` for what UTF-8 cannot hold."""
    metadata = {
        "startedOn": _timestamp(provenance.started),
        "finishedOn": _timestamp(provenance.finished),
    }
    if provenance.invocation_id is not None:
        metadata["invocationId"] = provenance.invocation_id
    source = _source(provenance)
    parameters: dict[str, object] = {
        "source": source,
        "output": provenance.output,
        "exclude": list(provenance.exclude),
        "pass_env": list(provenance.pass_env),
    }
    if provenance.command is not None:
        parameters["command"] = provenance.command
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {
                "name": SUBJECT_NAME,
                "digest": {"gitTree": provenance.tree, "sha256": provenance.tree_sha256},
            }
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": parameters,
                "internalParameters": {},
                "resolvedDependencies": [source],
            },
            "runDetails": {
                "builder": {
                    "id": provenance.builder_id,
                    "version": {"gitrel": provenance.gitrel_version, "python": provenance.python_version},
                },
                "metadata": metadata,
            },
        },
    }
    return _encode(statement)


def _source(provenance: Provenance) -> dict[str, object]:
    source: dict[str, object] = {"digest": {"gitCommit": provenance.source}}
    if provenance.source_uri is not None:
        source["uri"] = provenance.source_uri
    return source


def _encode(statement: object) -> bytes:
    text = json.dumps(statement, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError as error:
        raise FormatError("text that UTF-8 cannot hold", where=PROVENANCE, why=f"at {error.start}") from None


def _timestamp(seconds: int) -> str:
    """RFC 3339 in UTC, whole seconds."""
    if not 0 <= seconds <= _MAX_TIME:
        raise FormatError(f"not a time: {seconds}", where=PROVENANCE, why=f"0 to {_MAX_TIME} seconds")
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_provenance(raw: bytes) -> StatedOrigin:
    """Subject and source of a statement.

    Raises `FormatError`, and nothing else: not JSON, a key twice, another kind of statement, not exactly one
    subject, ids of unlike formats, or a source that `externalParameters` and `resolvedDependencies` tell
    apart.
    """
    statement = _decode(raw)
    _expect(statement, "_type", STATEMENT_TYPE)
    _expect(statement, "predicateType", PREDICATE_TYPE)
    subjects = _list(statement, "subject", "subject")
    if len(subjects) != 1:
        raise _error("subject", f"expected exactly one, found {len(subjects)}")
    subject = _mapping(subjects[0], "subject[0]")
    _expect(subject, "name", SUBJECT_NAME, "subject[0].")
    digest = _mapping(subject.get("digest"), "subject[0].digest")
    tree = ObjectId(_text(digest, "gitTree", "subject[0].digest."))
    definition = _mapping(_mapping(statement.get("predicate"), "predicate").get("buildDefinition"), "buildDefinition")
    parameters = _mapping(definition.get("externalParameters"), "externalParameters")
    source = _mapping(parameters.get("source"), "externalParameters.source")
    commit = ObjectId(
        _text(
            _mapping(source.get("digest"), "externalParameters.source.digest"),
            "gitCommit",
            "externalParameters.source.digest.",
        )
    )
    if source not in _list(definition, "resolvedDependencies", "resolvedDependencies"):
        raise _error("resolvedDependencies", "does not hold the source of externalParameters")
    if ObjectFormat.of(tree) is not ObjectFormat.of(commit):
        raise _error("source", "its id and the tree's are of two object formats")
    return StatedOrigin(
        tree=tree,
        tree_sha256=Sha256(_text(digest, "sha256", "subject[0].digest.")),
        source=commit,
        source_uri=_text(source, "uri", "externalParameters.source.") if "uri" in source else None,
    )


def _error(path: str, what: str) -> FormatError:
    return FormatError(f"{path}: {what}", where=PROVENANCE)


def _decode(raw: bytes) -> Mapping[str, Any]:
    if len(raw) > MAX_PROVENANCE:
        raise FormatError("file too large", where=PROVENANCE, why=f"{len(raw)} bytes, at most {MAX_PROVENANCE}")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except FormatError:
        raise
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", where=PROVENANCE, why=f"byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError("not JSON", where=PROVENANCE, why=str(error)) from None
    return _mapping(value, "statement")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise FormatError("a key stands twice in one object", where=PROVENANCE)
    return values


def _no_constant(name: str) -> Any:
    raise FormatError(f"{name} is no JSON", where=PROVENANCE)


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _error(path, "expected an object")
    return value


def _list(table: Mapping[str, Any], key: str, path: str) -> list[Any]:
    if not isinstance(value := table.get(key), list):
        raise _error(path, "expected an array")
    return value


def _text(table: Mapping[str, Any], key: str, path: str) -> str:
    if not isinstance(value := table.get(key), str):
        raise _error(f"{path}{key}", "expected text")
    return value


def _expect(table: Mapping[str, Any], key: str, value: str, path: str = "") -> None:
    if _text(table, key, path) != value:
        raise _error(f"{path}{key}", f"expected {value!r}")


def strip_credentials(url: str) -> str:
    """A remote's URL without anything that could let somebody in.

    User, password, query and fragment go; the user of an ssh URL stays, being part of the address
    (git-clone(1), "GIT URLS"). Text that is no URL comes back as it is. A transport helper's prefix
    (`helper::`) is kept.
    """
    if helper := _HELPER.match(url):
        return f"{helper[0]}{strip_credentials(url[helper.end() :])}"
    match = _SCHEME.match(url)
    if match is None:
        scp = _SCP.fullmatch(url)
        if scp is None or scp["user"] is None:
            return url
        user = scp["user"].partition(":")[0]
        return f"{user}@{scp['host']}:{scp['path']}"
    scheme, userinfo = match[1].lower(), match[2] or ""
    user = userinfo.partition(":")[0] if scheme in _SSH_SCHEMES else ""
    rest = re.split(r"[?#]", url[match.end() :], maxsplit=1)[0]
    return f"{match[1]}://{user}@{rest}" if user else f"{match[1]}://{rest}"


def redact_urls(text: str) -> str:
    """Free text, such as a program's output, in which no URL has a user and password any more."""
    return _USERINFO.sub("://***@", text)


def source_uri(url: str | None) -> str | None:
    """A remote's URL as SLSA writes sources (`git+https://host/path`), without credentials.

    None where there is no remote, or one that means nothing elsewhere: a path, a `file:` URL, a transport
    helper.
    """
    if url is None or _HELPER.match(url):
        return None
    bare = strip_credentials(url)
    match = _SCHEME.match(bare)
    if match is None:
        scp = _SCP.fullmatch(bare)
        if scp is None:
            return None
        user = f"{scp['user']}@" if scp["user"] else ""
        bare = f"ssh://{user}{scp['host']}/{scp['path'].lstrip('/')}"
    elif match[1].lower() not in _REMOTE_SCHEMES:
        return None
    from urllib.parse import quote  # 2 ms, and to read a provenance needs none

    return f"git+{quote(bare, safe=_URI_SAFE, errors='surrogateescape')}"
