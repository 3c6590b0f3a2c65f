"""`gitrel config set`, `unset`, `import`, `edit` and `reencrypt`: what makes config records.

A change is made again on top of whatever others changed meanwhile, unless it is the same variable: then the second
one is told, and nothing is written. Values come from arguments, standard input, files or an editor, never out again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitrel.cli.config_input import STDIN, edited, from_file, from_stdin, read_file
from gitrel.cli.console import Console
from gitrel.cli.deploys import approved_config, check_deploy, config_head, config_ledger, pending_config
from gitrel.cli.developer import Developer, open_developer
from gitrel.cli.stage_release import may_release, release_config
from gitrel.dataclass import dataclass
from gitrel.errors import BadInput, Conflict, FormatError, NoUsableKey, UsageError
from gitrel.format.dotenv import parse_dotenv
from gitrel.format.envdir import SECRET_SUFFIX, Differences, compare, plain_values, secret_names
from gitrel.ids import PersonName
from gitrel.release.config import (
    Change,
    Decrypt,
    Encrypt,
    changed,
    current_files,
    looks_secret,
    outdated,
    parse_assignments,
    readers_of,
    reencrypted,
    warnings,
    write_config,
)
from gitrel.trust.chain import TrustChain
from gitrel.trust.signers import require_role
from gitrel.trust.walk import VerifiedConfig

if TYPE_CHECKING:
    from gitrel.keys.secrets import Identity

_UNCHANGED = "(secret: leave this as it is to keep it)"

Make = Callable[[TrustChain, Sequence[VerifiedConfig], dict[str, bytes]], dict[str, bytes] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which deploy of which repository, and with which key its secrets can be read (None: the usual ones).

    `instead`: a change is made without what a pending one changes.
    """

    console: Console
    repo: Path | None
    remote: str | None
    deploy: str
    pin: str | None
    identity: Path | None = None
    release: bool = False
    instead: bool = False

    @contextmanager
    def open(self) -> Iterator[Developer]:
        with open_developer(
            self.console, repo=self.repo, remote=self.remote, deploy=self.deploy, trust=self.pin
        ) as dev:
            yield dev


def set_config(place: Place, words: list[str], files: list[str], secret: bool | None) -> None:
    """`NAME=value`, `NAME=-` (standard input), and `NAME=PATH` of `--from-file`."""
    if not words and not files:
        hint = "`gitrel config set --help` says where values can come from"
        raise UsageError("nothing to set: no NAME=VALUE", hint=hint)
    values = parse_assignments([word for word in words if not word.endswith(f"={STDIN}")])
    for name, value in [*from_stdin(words), *(from_file(word) for word in files)]:
        if values.setdefault(name, value) != value:
            raise FormatError(f"{name} is given twice, with two values")
    change = Change(set_=values, secret={} if secret is None else dict.fromkeys(values, secret))
    with place.open() as dev:
        _apply(dev, place, change)


def unset_config(place: Place, names: list[str]) -> None:
    with place.open() as dev:
        _apply(dev, place, Change(unset=names))


def import_config(place: Place, file: str, secret: bool | None) -> None:
    """All variables of a dotenv file; those that look like secrets are encrypted unless `secret` says otherwise."""
    where = "standard input" if file == STDIN else file
    values = parse_dotenv(sys.stdin.buffer.read() if file == STDIN else read_file(Path(file)), where)
    with place.open() as dev:
        if secret is None:
            hidden = {name: True for name, value in values.items() if looks_secret(name, value)}
            if hidden:
                dev.console.note(f"note: encrypted, since they look like secrets: {', '.join(sorted(hidden))}")
        else:
            hidden = dict.fromkeys(values, secret)
        _apply(dev, place, Change(set_=values, secret=hidden))


def edit_config(place: Place) -> None:
    """The variables in an editor. Only what was changed there is changed, on top of what others did meanwhile."""
    with place.open() as dev:
        dev.sync(dev.interest())
        chain = dev.trust()
        check_deploy(dev, chain, new=True)
        ledger, _ = _ground(dev, place, config_ledger(dev, chain), _may_configure(dev, chain))
        base = current_files(ledger[-1] if ledger else None, dev.repo)
        shown = {name: value.encode() for name, value in plain_values(base).items()}
        shown |= dict.fromkeys(secret_names(base), _UNCHANGED.encode())
        wanted = edited(dev, dict(sorted(shown.items())))
        if not wanted and shown:
            raise UsageError(
                "the editor left no variable at all", why="nothing was changed", hint="gitrel config unset"
            )
        change = Change(
            set_={name: value for name, value in wanted.items() if shown.get(name) != value},
            unset=sorted(shown.keys() - wanted.keys()),
        )
        _apply(dev, place, change, base)


def reencrypt(place: Place, everything: bool) -> None:
    """Encrypt to today's readers what is encrypted to others, and say what that does not mend."""
    with place.open() as dev:

        def make(chain: TrustChain, ledger: Sequence[VerifiedConfig], files: dict[str, bytes]) -> dict[str, bytes]:
            names = secret_names(files) if everything else list(outdated(ledger, dev.repo, chain, dev.deploy))
            read = reading_loudly(dev, place.identity, chain, ledger)
            return reencrypted(files, names, encrypt=_encrypt_to(dev, chain), decrypt=read)

        _commit(dev, place, make, Change(), subject="Encrypt {} anew")
        _tell_old_readers(dev, dev.trust())


def _tell_old_readers(dev: Developer, chain: TrustChain) -> None:
    """Taking somebody's key away does not take away what they have read, or can read in the ledger."""
    from gitrel.keys.secrets import describe_reader

    today = set(chain.newest.policy.deploy(dev.deploy).readers)
    ledger = config_ledger(dev, chain)
    gone: dict[str, set[str]] = {}
    for entry, before in zip(ledger, [None, *ledger], strict=False):
        fresh = compare(current_files(before, dev.repo), files := current_files(entry, dev.repo))
        for reader in set(readers_of(entry, chain)) - today:
            names = {name for name in fresh.names if name + SECRET_SUFFIX in files}
            gone.setdefault(describe_reader(reader), set()).update(names)
    for reader, names in sorted(gone.items()):
        if names:
            dev.console.note(
                f"WARNING: {reader} is no reader any more, and can still read the values in the ledger that were"
                f" encrypted for it: {', '.join(sorted(names))}. Where that matters, change them:"
                " the password itself where it is used, then `gitrel config set`"
            )


def _may_configure(dev: Developer, chain: TrustChain) -> PersonName:
    policy = chain.newest.policy
    role = policy.deploy(dev.deploy).config
    return require_role(policy, role, dev.signer.public_key.id, f"set the config of {dev.deploy}")


def _ground(
    dev: Developer, place: Place, whole: Sequence[VerifiedConfig], person: PersonName
) -> tuple[Sequence[VerifiedConfig], VerifiedConfig | None]:
    """The ledger up to the entry that the next one is made from, the newest; and the pending one that it replaces.

    A pending one only if this person signed it too; whoever goes on from it signs all that it says. Raises `Conflict`.
    """
    head = config_head(dev, whole)
    newest = head[-1] if head else None
    if newest is None or newest.lack is None or (person in newest.people and not place.instead):
        return head, None
    if place.instead:
        return approved_config(head), newest
    raise Conflict(
        f"config {newest.entry} is pending: {newest.signed.record.subject}",
        where=newest.lack.where,
        why=newest.lack.why,
        hint=f"{newest.lack.hint}, then make yours on top of it; or --instead: without what it changes",
    )


def _encrypt_to(dev: Developer, chain: TrustChain) -> Encrypt:
    from gitrel.keys.secrets import encrypt_secret

    def encrypt(value: bytes) -> bytes:
        try:
            return encrypt_secret(value, chain.newest.policy.deploy(dev.deploy).readers)
        except BadInput as error:
            error.where = error.where or f"the readers of {dev.deploy}"
            if error.hint == "gitrel trust add-reader":
                error.hint = f"`gitrel trust add-reader --deploy {dev.deploy} KEY`; `gitrel join` prints a server's"
            raise

    return encrypt


def identities(dev: Developer, path: Path | None) -> list[Identity]:
    """The key that was named, or those of the usual places that can be used without asking. Raises `NoUsableKey`."""
    from gitrel.keys.secrets import load_identity

    if path is not None:
        return [load_identity(path)]
    found = []
    for name in ("id_ed25519", "id_rsa"):
        try:
            found.append(load_identity(Path(dev.env.get("HOME", "/")) / ".ssh" / name))
        except NoUsableKey:
            continue  # nobody named it
    return found


def _reading_quietly(dev: Developer, path: Path | None) -> Decrypt:
    """For finding out whether a secret has a value already; who cannot read it writes it anew."""
    from gitrel.keys.secrets import decrypt_secret

    keys = identities(dev, path)

    def decrypt(blob: bytes) -> bytes | None:
        try:
            return decrypt_secret(blob, keys)
        except (FormatError, NoUsableKey):
            return None

    return decrypt


def reading_loudly(
    dev: Developer, path: Path | None, chain: TrustChain, ledger: Sequence[VerifiedConfig]
) -> Callable[[bytes], bytes]:
    """A secret's value. Raises `NoUsableKey`, which names whom it is encrypted to, or `FormatError`."""
    from gitrel.keys.secrets import decrypt_secret, describe_reader

    keys = identities(dev, path)

    def decrypt(blob: bytes) -> bytes:
        try:
            return decrypt_secret(blob, keys)
        except NoUsableKey as error:
            made = next((entry for entry in ledger if blob in current_files(entry, dev.repo).values()), None)
            readers = ", ".join(map(describe_reader, readers_of(made, chain))) if made else ""
            mine = ", ".join(describe_reader(key.reader) for key in keys) or "no key that age can use"
            error.what = "no key here reads that secret"
            error.why = f"it is encrypted to {readers or 'others'}; here: {mine}"
            error.hint = "--identity PATH names another key; or ask one of the readers"
            raise

    return decrypt


def _apply(dev: Developer, place: Place, change: Change, base: dict[str, bytes] | None = None) -> None:
    decrypt = _reading_quietly(dev, place.identity)

    def make(chain: TrustChain, _: Sequence[VerifiedConfig], files: dict[str, bytes]) -> dict[str, bytes] | None:
        return changed(files, change, encrypt=_encrypt_to(dev, chain), decrypt=decrypt)

    _commit(dev, place, make, change, base)


def _commit(
    dev: Developer,
    place: Place,
    make: Make,
    change: Change,
    base: dict[str, bytes] | None = None,
    *,
    subject: str = "",
) -> None:
    """Make the next config record and publish it, again if somebody else was first. `base`: what `change` is about."""
    dev.sync(dev.interest())
    check_deploy(dev, dev.trust(), new=True)
    while True:
        chain = dev.trust()
        person = _may_configure(dev, chain)
        if place.release:
            _may_release_it(dev, chain)
        whole = config_ledger(dev, chain)
        ledger, dropped = _ground(dev, place, whole, person)
        newest = ledger[-1] if ledger else None
        files = current_files(newest, dev.repo)
        base = files if base is None else base
        _check_clash(base, files, change, newest)
        made = make(chain, ledger, dict(files))
        after = files if made is None else made
        if after == files and dropped is None:
            _finish(dev, place, newest, None)
            return
        different = compare(files, after)
        said = subject.format(", ".join(different.changed)) if subject else _sentence(different)
        if dropped is not None:
            said = f"{said or 'Nothing'} instead of {dropped.entry}"
        for warning in warnings(after, different.names - set(different.removed)):
            dev.console.note(f"WARNING: {warning}")
        signed = write_config(
            dev.repo, chain.newest, dev.deploy, after, whole[-1] if whole else None,
            subject=said[:200], who=dev.who(), sign=dev.signer.sign,
        )  # fmt: skip
        try:
            dev.workspace.publish({str(signed.record.ref): signed.id.oid})
        except Conflict:
            dev.sync(dev.interest())
            continue
        whole = config_ledger(dev, chain)
        stale = outdated(whole, dev.repo, chain, dev.deploy)
        if stale:
            dev.console.note(f"note: {', '.join(stale)}: encrypted for other readers; `gitrel config reencrypt`")
        _finish(dev, place, whole[-1], said)
        return


def _may_release_it(dev: Developer, chain: TrustChain) -> None:
    """Raises what `--release` would end with, before anything is signed."""
    may_release(dev, chain)
    role = chain.newest.policy.deploy(dev.deploy).config
    if role.threshold > 1:
        raise UsageError(
            f"the config of {dev.deploy} needs {role.threshold} people: it cannot be released at once",
            where="--release",
            hint="without it; then somebody else approves the change, and `gitrel release`",
        )
    dev.standing().good()  # there has to be a build


def _sentence(different: Differences) -> str:
    verbs = (("Set", sorted({*different.added, *different.changed})), ("Unset", different.removed))
    return " and ".join(f"{verb} {', '.join(names)}" for verb, names in verbs if names)


def _check_clash(
    base: Mapping[str, bytes], files: Mapping[str, bytes], change: Change, newest: VerifiedConfig | None
) -> None:
    theirs = compare(base, files).names & change.names
    clash = sorted(name for name in theirs if name not in change.set_ or files.get(name) != change.set_[name])
    if clash and newest is not None:
        raise Conflict(
            f"{newest.maker} changed {', '.join(clash)} meanwhile",
            where=str(newest.signed.record.ref),
            why=newest.signed.record.subject,
            hint="see `gitrel config log`, then run the command again if yours is to hold",
        )


def _finish(dev: Developer, place: Place, entry: VerifiedConfig | None, said: str | None) -> None:
    """Say what happened, and release it if that was asked for."""
    console, name = dev.console, str(entry.entry) if entry else None
    fields: dict[str, Any] = {"changed": said is not None, "config": name}
    if said is not None and entry is not None:
        console.out(f"config {name}: {said}{'' if place.release or entry.lack else '; the next release carries it'}")
        if entry.lack is not None:
            console.note(f"note: {entry.lack.what}; {entry.lack.why}: {entry.lack.hint}")
        fields |= {"id": entry.id.oid, "pending": entry.pending}
    elif not place.release or pending_config(dev, dev.standing()) is None:
        console.out("nothing changes")
        console.result(**fields)
        return
    if place.release:
        console.result(**fields, release=release_config(dev))
    else:
        console.result(**fields)
