"""The config ledger of a deploy: each change of its variables is a record; the next release carries it.

A secret's file changes when its value does, or when somebody asks for it to be encrypted anew, never otherwise.
Whose keys can read it: the readers in the trust that the record cites which brought this very file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError, GitrelError, NotFound
from gitrel.format.envdir import SECRET_SUFFIX, check_value, check_variable, parse_envdir, secret_names
from gitrel.format.record import ConfigRecord, Signed, Stamp
from gitrel.ids import Deploy, Entry
from gitrel.store.records import Sign, write_record
from gitrel.store.repository import Repository
from gitrel.store.snapshot import store_tree
from gitrel.trust.chain import TrustChain, VerifiedTrust
from gitrel.trust.content import read_config
from gitrel.trust.walk import VerifiedConfig

Encrypt = Callable[[bytes], bytes]
Decrypt = Callable[[bytes], bytes | None]
"""A secret's value, or None if it cannot be read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is asked for. `secret` decides whether a variable is one; others stay what they are; a new one is plain."""

    set_: Mapping[str, bytes] = field(default_factory=dict)
    unset: Collection[str] = ()
    secret: Mapping[str, bool] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        return frozenset((*self.set_, *self.unset))


def current_files(entry: VerifiedConfig | None, repo: Repository) -> dict[str, bytes]:
    """The envdir of a config record; without one there is no variable."""
    return dict(read_config(entry.signed, repo, str(entry.signed.record.ref))[0]) if entry else {}


def parse_assignments(words: Collection[str]) -> dict[str, bytes]:
    """`NAME=value` words as variables. Raises `FormatError`, which says which word it is and never shows a value."""
    values: dict[str, bytes] = {}
    for number, word in enumerate(words, 1):
        name, equals, value = word.partition("=")
        raw = value.encode("utf-8", "surrogateescape")
        try:
            if not equals:
                raise FormatError("not NAME=value", hint="put the value after an equals sign")
            check_value(check_variable(name), raw)
        except FormatError as error:
            error.where = f"argument {number}"
            raise
        if values.setdefault(name, raw) != raw:
            raise FormatError(f"{name} is given twice, with two values", where=f"argument {number}")
    return values


def changed(
    files: Mapping[str, bytes], change: Change, *, encrypt: Encrypt, decrypt: Decrypt
) -> dict[str, bytes] | None:
    """The envdir after a change, or None if nothing changes.

    A secret that is set to the value which it has keeps its file, if that can be read here. Raises `NotFound` for
    an unknown name to unset, and what `encrypt` raises.
    """
    after = dict(files)
    for name in change.unset:
        _remove(after, name)
    for name, value in change.set_.items():
        check_value(check_variable(name), value)
        file = name + SECRET_SUFFIX
        if not change.secret.get(name, file in after):
            after.pop(file, None)
            after[name] = value
            continue
        after.pop(name, None)
        blob = after.get(file)
        if blob is None or decrypt(blob) != value:
            after[file] = encrypt(value)
    after = parse_envdir(after)
    return None if after == files else after


def _remove(files: dict[str, bytes], name: str) -> None:
    try:
        check_variable(name)
    except FormatError as error:
        error.where = "the names to unset"
        raise
    if files.pop(name, None) is None and files.pop(name + SECRET_SUFFIX, None) is None:
        raise no_variable(name, files)


def no_variable(name: str, files: Mapping[str, bytes]) -> NotFound:
    known = sorted(file.removesuffix(SECRET_SUFFIX) for file in files)
    close = difflib.get_close_matches(name, known, 1)
    why = f"did you mean {close[0]}?" if close else ""
    return NotFound("no such variable", where=name[:80], why=why, hint="see `gitrel config list`")


def outdated(
    ledger: Sequence[VerifiedConfig], repo: Repository, trust: TrustChain, deploy: Deploy
) -> dict[str, VerifiedConfig]:
    """The secrets that others can read than today's readers, and the entry that brought each file.

    An entry's readers are those in the trust that it cites: they are whom gitrel encrypts to when it makes one.
    """
    today = key_set(trust.newest.policy.deploy(deploy).readers)
    then = {entry.entry: key_set(readers_of(entry, trust)) for entry in ledger}
    if all(readers == today for readers in then.values()):
        return {}
    files = current_files(ledger[-1], repo)
    brought: dict[str, VerifiedConfig] = {}
    left = set(secret_names(files))
    for entry in ledger:  # no two encryptions are alike: the first that has the file made it
        earlier = current_files(entry, repo) if left else {}
        found = {name for name in left if earlier.get(name + SECRET_SUFFIX) == files[name + SECRET_SUFFIX]}
        brought |= dict.fromkeys(found, entry)
        left -= found
    return {name: entry for name, entry in sorted(brought.items()) if then[entry.entry] != today}


def readers_of(entry: VerifiedConfig, trust: TrustChain) -> Sequence[str]:
    """Whom an entry's new secrets are encrypted to."""
    record = entry.signed.record
    return trust.cited(record.trust, str(record.ref)).policy.deploy(record.deploy).readers


def key_set(readers: Collection[str]) -> frozenset[str]:
    """The readers' keys, without what their comments say."""
    return frozenset(" ".join(line.split(" ")[:2]) for line in readers)


def reencrypted(
    files: Mapping[str, bytes], names: Collection[str], *, encrypt: Encrypt, decrypt: Callable[[bytes], bytes]
) -> dict[str, bytes]:
    """The envdir with some secrets encrypted anew. Raises what `decrypt` and `encrypt` do, naming the variable."""
    after = dict(files)
    for name in names:
        try:
            after[name + SECRET_SUFFIX] = encrypt(decrypt(files[name + SECRET_SUFFIX]))
        except GitrelError as error:
            error.where = error.where or name
            raise
    return parse_envdir(after)


_SECRET_NAME = re.compile(
    r".*(?:_KEY|_TOKEN|_DSN)|(?:.*_)?TOKEN|.*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|APIKEY|API_KEY).*",
    re.IGNORECASE,
)
_PUBLIC_NAME = re.compile(r".*(?:PUBLIC|PUBLISHABLE).*", re.IGNORECASE)
_URL_PASSWORD = re.compile(rb"(?<=[A-Za-z0-9+.-])://[^/?#\s:@]*:[^/?#\s@]+@")
_LOADER = re.compile(
    r"(?:LD_|PYTHON|GIT_|DYLD_|PERL5|RUBY).*|PATH|IFS|ENV|BASH_ENV|SHELLOPTS|GCONV_PATH|NODE_OPTIONS|MALLOC_.*"
)
_PLATFORM = re.compile(r"PORT|GITREL_(?:APP|DEPLOY|RELEASE|SOURCE|PROCESS|MARK)")


def looks_secret(name: str, value: bytes) -> bool:
    """Whether a variable is probably one that not everybody who can read the repository should read."""
    if _URL_PASSWORD.search(value):
        return True
    return _SECRET_NAME.fullmatch(name) is not None and _PUBLIC_NAME.fullmatch(name) is None


def warnings(files: Mapping[str, bytes], names: Collection[str]) -> list[str]:
    """What people should know about variables that they have just set; values are not in it."""
    found = []
    for name in sorted(names):
        if name in files and looks_secret(name, files[name]):
            found.append(f"{name} looks like a secret, and whoever can read the repository can read it")
        if _PLATFORM.fullmatch(name):
            found.append(f"{name} is gitrel's to set: no process will see this value")
        elif _LOADER.fullmatch(name):
            found.append(f"{name} changes how the app's programs load and run; gitrel itself never sees it")
    return found


def write_config(
    repo: Repository,
    trust: VerifiedTrust,
    deploy: Deploy,
    files: Mapping[str, bytes],
    previous: VerifiedConfig | None,
    *,
    subject: str,
    who: Stamp,
    sign: Sign,
) -> Signed[ConfigRecord]:
    """The next config record of a deploy, signed and stored; no ref is made."""
    tree = store_tree(repo, dict(files))
    record = ConfigRecord(
        app=trust.policy.app,
        subject=subject,
        deploy=deploy,
        entry=previous.entry.next if previous else Entry(1),
        previous=previous.id if previous else None,
        trust=trust.cited,
        tree_sha256=tree.sha256,
    )
    return write_record(repo, record, tree, who=who, sign=sign)
