"""`gitrel init`, `release`, `rollback` and `promote`: the commands that sign for a deploy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gitrel.cli.console import Console
from gitrel.cli.deploys import check_deploy, config_to_release
from gitrel.cli.developer import (
    Developer,
    default_app,
    known_apps_file,
    open_developer,
    parse_argument,
    parse_pin,
    slug,
)
from gitrel.cli.naming import named_entry
from gitrel.errors import BadInput, NotFound, Refused, UsageError
from gitrel.format.manifest import MANIFEST, parse_manifest
from gitrel.format.record import BuildRecord, ConfigRecord, Signed
from gitrel.format.text import check_text
from gitrel.format.trust import KeyLine
from gitrel.ids import TRUST, App, BuildRef, Deploy, Entry, Ledger, ObjectId, PersonName, Sha256
from gitrel.release.cut import Ingredients, Made, Standing, check_required, cut, publish, standing
from gitrel.release.genesis import sole_policy, write_genesis
from gitrel.release.promote import choose_promotion
from gitrel.store.known_apps import add_known_app
from gitrel.trust.chain import TrustChain
from gitrel.trust.content import read_config
from gitrel.trust.signers import require_role
from gitrel.trust.walk import VerifiedBuild, load_trust, walk_builds

_HEX = re.compile(r"[0-9a-f]{4,64}")


def init(
    console: Console,
    repo: Path | None,
    remote: str | None,
    app: str | None,
    person: str | None,
    key: Path | None,
    pin: str | None,
    first_use: bool,
    fetch: bool = False,
) -> None:
    from gitrel.cli.fetching import fetched_from, offer_refspecs

    with open_developer(console, repo=repo, remote=remote, trust=pin) as dev:
        fetched = fetched_from(dev, remote, fetch)
        dev.sync(first_use=first_use)
        if dev.repo.refs.get(str(TRUST[1])) is not None:
            chain = _accept(dev, parse_pin(pin), first_use, app)
            made = False
        else:
            chain = _found(dev, app, person, key, parse_pin(pin))
            made = True
        add_known_app(known_apps_file(dev.env), chain.pin, chain.app)
        if made:
            console.out(f"{chain.app}: trust v1 made; every role is yours")
        else:
            console.out(f"{chain.app}: trust {chain.newest.entry} accepted")
        console.out(f"pin: {chain.pin}")
        if fetched is not None:
            offer_refspecs(dev, fetched, fetch)
        fields = _first_files(dev, chain.app, made)
        console.result(app=chain.app, pin=chain.pin, trust=str(chain.newest.entry), made=made, **fields)


def _accept(dev: Developer, pin: Sha256 | None, first_use: bool, app: str | None) -> TrustChain:
    """An app that has its trust already: somebody else's, or our own from another machine."""
    if pin is None and not first_use:
        chain = dev.trust()
    else:
        chain = load_trust(dev.workspace.refs(), dev.repo, dev.repo.format, pin)
    if app is not None and app != chain.app:
        raise UsageError(
            f"the repository has a trust ledger already, of {chain.app}",
            where=str(TRUST[1]),
            why=f"--app says {app}",
            hint="leave --app out; another app needs a repository of its own",
        )
    if pin is None and first_use:
        dev.console.note(f"WARNING: trusting {chain.app} as it is now, unseen; its pin is {chain.pin}")
    return chain


def _found(dev: Developer, app: str | None, person: str | None, key: Path | None, pin: Sha256 | None) -> TrustChain:
    """A new app: trust v1."""
    if pin is not None:
        raise NotFound("no trust ledger to accept", where=str(TRUST[1]), hint="without --trust, `init` starts one")
    name = _app_name(dev, app)
    if key is not None:
        dev.use_key(key)
    who = dev.who()
    signer = dev.signer
    owner = parse_argument(
        "--person", PersonName, person or slug(who.email.partition("@")[0]) or slug(who.name) or "me"
    )
    policy = sole_policy(name, owner, KeyLine.parse(signer.public_key.line))
    signed = write_genesis(dev.repo, policy, who=who, sign=signer.sign)
    ref = str(TRUST[1])
    # walked before it is published, as everybody else will walk it
    chain = load_trust({ref: signed.id.oid}, dev.repo, dev.repo.format, signed.id.sha256)
    dev.workspace.publish({ref: signed.id.oid})
    return chain


def _first_files(dev: Developer, app: App, made: bool) -> dict[str, Any]:
    """For a new app, `gitrel.toml` and a Procfile where there are none; what `--json` says of them."""
    from gitrel.cli.first_files import FirstFiles, tell, write_first_files

    found = FirstFiles()
    if made and dev.repo.work_tree is not None:
        found = write_first_files(dev.repo.work_tree, app)
        tell(dev.console, found)
    return {"written": list(found.written), "kind": found.kind, "assumed": list(found.assumed), "next": found.next_step}


def _app_name(dev: Developer, given: str | None) -> App:
    folder = dev.repo.work_tree
    path = folder / MANIFEST if folder else None
    if path is not None and path.is_file():
        stated = parse_manifest(path.read_bytes(), str(path)).app
        if given is not None and given != stated:
            raise BadInput(f"app = {stated!r}", where=str(path), why=f"--app says {given}")
        return stated
    return parse_argument("--app", App, given) if given else default_app(folder or dev.repo.path)


def release(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    rev: str,
    build_id: str | None,
    config: str | None,
    message: str | None,
) -> None:
    from gitrel.cli.stage_build import resolve

    said = _message(message)
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        dev.sync(dev.interest(below=(_builds(build_id or ""),)))
        chain = dev.trust()
        check_deploy(dev, chain, new=True)
        may_release(dev, chain)
        taken = config_to_release(dev, chain, config)  # before anything is built
        if build_id is not None:
            built = counting(dev, named_build(dev, chain, build_id))
        else:
            built = _build_of(dev, chain, resolve(dev, rev), taken)
        subject, text = said or (f"Release {built.record.source[:12]}", "")
        fields = _publish(
            dev,
            lambda now: Ingredients(
                build=built, config=config_to_release(dev, now.trust, config), subject=subject, text=text
            ),
        )
        console.result(**fields)


def rollback(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    to: str | None,
    keep_config: bool,
    message: str | None,
) -> None:
    said = _message(message)
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        dev.sync(dev.interest())
        chain = dev.trust()
        check_deploy(dev, chain)
        may_release(dev, chain)
        start = dev.standing()
        entry = _before_newest(start) if to is None else named_entry(console, start, to)
        chosen = start.good(entry).release
        if chosen is None:
            raise NotFound(f"no release {entry}", hint="see `gitrel log`")
        subject, text = said or (f"Roll back to {entry}", "")

        def ingredients(now: Standing) -> Ingredients:
            config = config_to_release(dev, now.trust) if keep_config else chosen.config
            return Ingredients(build=chosen.build, config=config, subject=subject, text=text, rollback_to=entry)

        console.result(**_publish(dev, ingredients))


def promote(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    origin: str,
    entry: str | None,
    config: str | None,
    message: str | None,
) -> None:
    """Release what another deploy ran: that build, this deploy's config."""
    from gitrel.cli.stage_build import builds_of_source

    said = _message(message)
    source = parse_argument("--from", Deploy, origin)
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        dev.sync(dev.interest(source))
        chain = dev.trust()
        check_deploy(dev, chain, source)
        check_deploy(dev, chain, new=True)
        may_release(dev, chain)
        theirs = standing(dev.workspace, chain, source)
        asked = None if entry is None else named_entry(console, theirs, entry)
        built, cited = choose_promotion(theirs, asked, dev.deploy)
        for each in builds_of_source(dev, chain, built.record.source):
            if each.signed.id == built.id:
                counting(dev, each)  # what the other deploy carries vouches for nothing here
        subject, text = said or (f"Promote {source} {cited.entry}", "")
        fields = _publish(
            dev,
            lambda now: Ingredients(
                build=built,
                config=config_to_release(dev, now.trust, config),
                subject=subject,
                text=text,
                promoted_from=cited,
            ),
        )
        console.result(**fields)


def release_config(dev: Developer) -> dict[str, Any]:
    """The build of the newest release that may run, with the newest config. Raises `NotFound` without a release."""
    built = dev.standing().good().release
    if built is None:  # `good` raises for what may not run
        raise ValueError("a good verdict without a release")

    def ingredients(now: Standing) -> Ingredients:
        config = config_to_release(dev, now.trust)
        subject = f"Config {config.record.entry}: {config.record.subject}" if config else "No config"
        return Ingredients(build=built.build, config=config, subject=subject[:200])

    return _publish(dev, ingredients)


def _before_newest(now: Standing) -> Entry:
    runnable = list(itertools.islice((each.entry for each in reversed(now.verdicts) if each.release is not None), 2))
    if len(runnable) < 2:
        raise NotFound(
            "no earlier release to roll back to",
            where=f"{Ledger.releases(now.deploy).prefix}*",
            why=f"{len(runnable)} of {len(now.verdicts)} releases of {now.deploy} may run",
            hint="see `gitrel log`",
        )
    return runnable[1]


def _publish(dev: Developer, ingredients: Callable[[Standing], Ingredients]) -> dict[str, Any]:
    """Make, publish and show a release; its fields for `--json`."""

    def make(now: Standing) -> Made:
        return cut(dev.repo, now, ingredients(now), who=dev.who(), sign=dev.signer.sign)

    with dev.console.working("verifying the ledger, signing and publishing"):
        made = publish(dev.workspace, dev.standing, make)
    signed, record = made.signed, made.signed.record
    dev.console.out(f"{record.entry}  {signed.id.oid}  {record.subject}")
    if made.lack is not None:
        dev.console.note(f"note: {made.lack.what}; {made.lack.why}: {made.lack.hint}")
    origin = record.promoted_from
    return {
        "release": str(record.entry),
        "deploy": record.deploy,
        "id": signed.id.oid,
        "sha256": signed.id.sha256,
        "build": record.build.oid,
        "config": str(record.config.entry) if record.config else None,
        "rollback_to": str(record.rollback_to) if record.rollback_to else None,
        "promoted_from": f"{origin.deploy} {origin.entry}" if origin else None,
        "pending": made.lack is not None,
        "pushed": dev.workspace.remote is not None,
    }


def may_release(dev: Developer, chain: TrustChain) -> None:
    policy = chain.newest.policy
    key = dev.signer.public_key.id
    require_role(policy, policy.deploy(dev.deploy).release, key, f"release {dev.deploy}")


def _message(message: str | None) -> tuple[str, str] | None:
    """What `-m` says as a record's subject and text, looked at before anything is built. None for nothing."""
    plain = (message or "").replace("\r\n", "\n").expandtabs().strip()
    parse_argument("--message", lambda text: check_text(text, "the message"), plain)
    subject, _, text = plain.partition("\n")
    return (subject.strip(), text.strip("\n")) if plain else None


def _build_of(
    dev: Developer, chain: TrustChain, source: ObjectId, config: Signed[ConfigRecord] | None
) -> Signed[BuildRecord]:
    """The build of a commit that was made last, by the clock of who made it (for choosing, not for trusting), or a
    new one, unless the config lacks what that would need. Raises `Refused` (6) for one that waits for approvals.
    """
    from gitrel.cli.stage_build import builds_of_source, make_build

    found = builds_of_source(dev, chain, source)
    if not found:
        _check_before_building(dev, source, config)
        made = make_build(dev, chain, source)
        if chain.newest.policy.build.threshold == 1:
            return made
        dev.workspace.publish({str(BuildRef(made.id.oid)): made.id.oid})
        found = [each for each in builds_of_source(dev, chain, source) if each.signed.id == made.id]
    newest = max(found, key=lambda each: (each.lack is None, each.signed.committer.time, each.signed.id.oid))
    return counting(dev, newest)


def _check_before_building(dev: Developer, source: ObjectId, config: Signed[ConfigRecord] | None) -> None:
    """Raises `BadInput` for a config without what the build will require, if the source tells that already."""
    from gitrel.build.stage import read_manifest

    try:
        manifest = read_manifest(dev.source, source, env=dev.env)
    except BadInput:
        return  # the build says what is wrong with it
    if manifest.build.output == ".":  # another folder may have a gitrel.toml of its own
        files = read_config(config, dev.repo, str(config.record.ref))[0] if config else {}
        check_required(manifest, files, dev.deploy)


def counting(dev: Developer, build: VerifiedBuild) -> Signed[BuildRecord]:
    """The record, if a release can carry it: approved by enough people, or released before. Raises `Refused` (6)."""
    if build.lack is not None:
        good = [verdict.release for verdict in dev.standing().verdicts if verdict.release is not None]
        if build.signed.id not in {release.build.id for release in good}:
            name = f"build {build.signed.id.oid[:12]} is {build.lack.what}"
            raise Refused(
                name, check=build.lack.check, where=build.lack.where, why=build.lack.why, hint=build.lack.hint
            )
    return build.signed


def _builds(name: str) -> str:
    """What the refs of the builds begin with that a name may mean."""
    return f"refs/builds/{name if _HEX.fullmatch(name) else ''}"


def named_build(dev: Developer, chain: TrustChain, name: str) -> VerifiedBuild:
    """The build whose id begins like that, pending or not. Raises `NotFound`, `UsageError`."""
    if len(name) < 4:
        raise UsageError(f"not a build's id: {name!r}", where="--build", hint="give at least its first 4 digits")
    refs = dev.workspace.refs()
    found = list(walk_builds(refs, dev.repo, chain, among=refs.below(_builds(name)) if _HEX.fullmatch(name) else {}))
    if len(found) != 1:
        why = f"{len(found)} builds begin with that" if found else "or nobody with the build role signed it"
        raise NotFound("no such build", where=f"refs/builds/{name}*", why=why, hint="`git for-each-ref refs/builds`")
    return found[0]
