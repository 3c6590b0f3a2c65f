"""What the transfer child does: list, fetch, go on with a fetch that broke, push, and what a bundle needs. Arguments
and results are JSON; errors are raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from gitrel.errors import Conflict, FormatError, RemoteError
from gitrel.ids import ObjectId, names_record
from gitrel.store import bundle
from gitrel.store.connect import open_line
from gitrel.store.conversation import fetch_pack, list_refs, read_advertisement, told
from gitrel.store.ingest import Ingested, PackReceiver
from gitrel.store.limits import Limits
from gitrel.store.location import GitConfig, Location
from gitrel.store.outgoing import HAVE_PREFIXES, objects_to_send, write_pack
from gitrel.store.pushing import Rejected, send_refs
from gitrel.store.records import misnamed
from gitrel.store.repository import Repository
from gitrel.store.resume import Bring, Resumption
from gitrel.store.wire import Line, Meter

Sink = Callable[[bytes], None]


def run(message: Mapping[str, Any], env: Mapping[str, str], limits: Limits, *, interactive: bool) -> Any:
    """Do one command; `env` is what git and ssh get."""
    location = Location(**message["location"])
    if location.scheme == "bundle":
        return _of_bundle(Path(location.path), message, limits)
    config = GitConfig(Path(message["config"]) if message["config"] else None, env)
    line = open_line(location, Meter(limits), config, env, interactive=interactive)
    match message["do"]:
        case "list":
            return list_refs(line, message["prefixes"])
        case "fetch":
            return _fetch(partial(_by_line, line, message), line.meter, message)
        case "salvage":
            return _salvage(message, limits)
        case "resume":
            return _resume(line, message)
        case "offers":
            return _offers(line, message["service"])
        case _:
            return _push(line, message)


def _fetch(bring: Callable[[Repository], Bring], meter: Meter, message: Mapping[str, Any]) -> dict[str, Any]:
    with Repository.open(Path(message["quarantine"])) as quarantine:
        done = bring(quarantine)(_wants(message), depth=message["depth"], filter_spec=message["filter"])
        if done.pack is not None and message["filter"] is not None:
            (quarantine.objects / "pack" / f"{done.pack}.promisor").touch()
        return _report(done.objects, meter, _absent(quarantine, done))


def _by_line(line: Line, message: Mapping[str, Any], repo: Repository) -> Bring:
    """How things come from a remote, on top of what the message says that is here."""

    def bring(wants: Sequence[ObjectId], *, depth: int | None, filter_spec: str | None = None) -> Ingested:
        haves = [ObjectId(text) for text in message["haves"]]
        shallow = [ObjectId(text) for text in message["shallow"]]

        def receive(sink: Sink) -> None:
            fetch_pack(
                line, sink, repo.format, wants, haves=haves, shallow=shallow, depth=depth, filter_spec=filter_spec
            )

        return _take_in(receive, repo, line.where, line.meter, wants, depth)

    return bring


def _salvage(message: Mapping[str, Any], limits: Limits) -> int:
    with Repository.open(Path(message["quarantine"])) as quarantine:
        return _resumption(message, quarantine, limits).begin()


def _resume(line: Line, message: Mapping[str, Any]) -> dict[str, Any]:
    """The rest, if `_salvage` found some of it; all of it, if that cannot be."""
    with Repository.open(Path(message["quarantine"])) as quarantine:
        at = _resumption(message, quarantine, line.meter.limits)
        bring = _by_line(line, message, at.repo)
        if message["resuming"] and (shallow := at.go_on(bring)) is not None:
            return {**_report(at.brought, line.meter, shallow), "anew": False}
        done = at.anew(bring)
        return {**_report(at.brought, line.meter, _absent(quarantine, done)), "anew": message["resuming"]}


def _resumption(message: Mapping[str, Any], quarantine: Repository, limits: Limits) -> Resumption:
    return Resumption(Path(message["salvage"]), quarantine, limits, _wants(message), sure=message["sure"])


def _wants(message: Mapping[str, Any]) -> list[ObjectId]:
    return [ObjectId(text) for text in message["wants"]]


def _absent(repo: Repository, done: Ingested) -> list[ObjectId]:
    """The commits that are here and whose parents are not."""
    return [
        oid for oid, parents in done.parents.items() if oid in repo and any(parent not in repo for parent in parents)
    ]


def _report(objects: int, meter: Meter, shallow: Sequence[ObjectId]) -> dict[str, Any]:
    return {"objects": objects, "bytes": meter.received, "shallow": sorted(shallow)}


def _offers(line: Line, service: str) -> dict[str, Any]:
    with told(line):
        offer = read_advertisement(line, service, ())
        line.goodbye()
        fetching = service == "git-upload-pack"
        able = [name for name in (b"filter", b"shallow") if fetching and offer.fetch_offers(name)]
        able += [name for name in (b"atomic", b"report-status") if not fetching and name in offer.capabilities]
        return {"version": offer.version, "format": offer.format.value, "able": [name.decode() for name in able]}


def _of_bundle(path: Path, message: Mapping[str, Any], limits: Limits) -> Any:
    """The same for a file: it is only read. A filter leaves all files out, whichever it is."""
    meter, where = Meter(limits), str(path)

    def by_file(repo: Repository) -> Bring:
        def bring(wants: Sequence[ObjectId], *, depth: int | None, filter_spec: str | None = None) -> Ingested:
            def receive(sink: Sink) -> None:
                bundle.feed(path, repo, sink, meter, wants, depth=depth, files=filter_spec is None)

            return _take_in(receive, repo, where, meter, wants, depth)

        return bring

    match message["do"]:
        case "fetch":
            return _fetch(by_file, meter, message)
        case "push" | "offers":
            raise RemoteError("it is a bundle, which is only read", where=where, hint="`gitrel bundle` makes another")
    with _blamed(where):
        head = bundle.look(path, limits, message.get("prefixes", ()))
    return dict(sorted(head.refs.items())) if message["do"] == "list" else head.needs


def _take_in(
    receive: Callable[[Sink], None],
    repo: Repository,
    where: str,
    meter: Meter,
    wants: Sequence[ObjectId],
    depth: int | None,
) -> Ingested:
    """Take a pack into the repository's folder, then hold it against what was asked for.

    A stream that breaks stays in there, but for one that brought nothing.
    """
    receiver = PackReceiver(repo.objects / "pack", repo, meter.limits)
    with _blamed(where):
        try:
            receive(receiver.write)
        finally:
            if receiver.size == 0:
                receiver.discard()
        done = receiver.finish()
    for want in wants:
        if want not in repo:
            raise RemoteError("the remote did not send what was asked for", where=where, why=str(want))
    if depth is None and (absent := _absent(repo, done)):
        why = f"the parents of {absent[0]} are missing"
        hint = "is it a shallow clone? use a complete repository"
        raise RemoteError("the remote's history is incomplete", where=where, why=why, hint=hint)
    return done


@contextmanager
def _blamed(where: str) -> Iterator[None]:
    """What is wrong with a pack is the remote's doing."""
    try:
        yield
    except FormatError as error:
        why = f"{error.what} {error.where}".strip()
        raise RemoteError("the remote sent a damaged pack", where=where, why=why, hint="try again") from error
    except RemoteError as error:
        error.where = error.where or where
        raise


def _push(line: Line, message: Mapping[str, Any]) -> dict[str, Any]:
    """One receive-pack. Gives the reasons for what was refused, by ref; empty when all of it is there.

    A server lists all its refs to whoever pushes. So here, and at no cost, what this repository has `also` is held
    against them: what the remote lacks is sent, too, and one that differs is told, with nothing sent.
    """
    refs = {name: ObjectId(text) for name, text in message["refs"].items()}
    with Repository.open(Path(message["repository"])) as repo, told(line):
        offer = read_advertisement(line, "git-receive-pack", [*HAVE_PREFIXES, *refs])
        offer.check_format(repo.format)
        also = _differing(repo, message["also"], offer.refs)
        for name, oid in also.items():
            if (there := offer.refs.get(name)) is not None:
                line.goodbye()
                return {"rewritten": {"name": name, "here": oid, "there": there}}
        for name, oid in refs.items():
            if offer.refs.get(name, oid) != oid:
                line.goodbye()
                raise Conflict("the remote has this ref already", where=name, why=f"it points at {offer.refs[name]}")
        refs = {**{name: oid for name, oid in also.items() if not misnamed(name, oid, repo)}, **refs}
        missing = {name: oid for name, oid in refs.items() if name not in offer.refs}
        atomic = b"atomic" in offer.capabilities
        if not missing:
            line.goodbye()
            return {}
        if len(missing) > 1 and not atomic:
            # sent one by one, the last named last: it appears when all it needs is there
            line.goodbye()
            return _one_by_one(line, message, missing)
        objects = objects_to_send(repo, list(missing.values()), offer.refs)

        def pack(out: BinaryIO) -> None:
            write_pack(repo, objects, out.write)

        try:
            send_refs(line, offer, missing, pack, atomic=atomic)
        except Rejected as error:
            return {**error.reasons, "": error.said}
    return {}


def _differing(repo: Repository, namespaces: Sequence[str], theirs: Mapping[str, ObjectId]) -> dict[str, ObjectId]:
    """Our refs of records of which the remote has none, or another one, by that name."""
    ours = {name: oid for namespace in namespaces for name, oid in repo.refs.list(namespace).items()}
    return {name: oid for name, oid in ours.items() if theirs.get(name) != oid and names_record(name)}


def _one_by_one(line: Line, message: Mapping[str, Any], refs: Mapping[str, ObjectId]) -> dict[str, Any]:
    for name, oid in refs.items():
        line.close()
        reasons = _push(line, {**message, "refs": {name: oid}, "also": []})
        if reasons:
            return reasons
    return {}
