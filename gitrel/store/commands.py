"""What the transfer child does: list, fetch, push, and what a bundle needs. Arguments and results are JSON; errors are
raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gitrel.errors import Conflict, FormatError, RemoteError
from gitrel.ids import ObjectId, names_record
from gitrel.store import bundle
from gitrel.store.connect import open_line
from gitrel.store.conversation import fetch_pack, list_refs, read_advertisement, told
from gitrel.store.ingest import PackReceiver
from gitrel.store.limits import Limits
from gitrel.store.location import GitConfig, Location
from gitrel.store.outgoing import HAVE_PREFIXES, objects_to_send, write_pack
from gitrel.store.pushing import Rejected, send_refs
from gitrel.store.records import misnamed
from gitrel.store.repository import Repository
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
            return _fetch(line, message)
        case "offers":
            return _offers(line, message["service"])
        case _:
            return _push(line, message)


def _fetch(line: Line, message: Mapping[str, Any]) -> dict[str, Any]:

    def receive(quarantine: Repository, sink: Sink, wants: Sequence[ObjectId]) -> None:
        fetch_pack(
            line,
            sink,
            quarantine.format,
            wants,
            haves=[ObjectId(text) for text in message["haves"]],
            shallow=[ObjectId(text) for text in message["shallow"]],
            depth=message["depth"],
            filter_spec=message["filter"],
        )

    return _into_quarantine(receive, line.where, line.meter, message)


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

    def receive(quarantine: Repository, sink: Sink, wants: Sequence[ObjectId]) -> None:
        bundle.feed(path, quarantine, sink, meter, wants, depth=message["depth"], files=message["filter"] is None)

    match message["do"]:
        case "fetch":
            return _into_quarantine(receive, where, meter, message)
        case "push" | "offers":
            raise RemoteError("it is a bundle, which is only read", where=where, hint="`gitrel bundle` makes another")
    with _blamed(where):
        head = bundle.look(path, limits, message.get("prefixes", ()))
    return dict(sorted(head.refs.items())) if message["do"] == "list" else head.needs


def _into_quarantine(
    receive: Callable[[Repository, Sink, Sequence[ObjectId]], None],
    where: str,
    meter: Meter,
    message: Mapping[str, Any],
) -> dict[str, Any]:
    """Take a pack into the quarantine's folder, then hold it against what was asked for."""
    wants = [ObjectId(text) for text in message["wants"]]
    with Repository.open(Path(message["quarantine"])) as quarantine:
        folder = quarantine.objects / "pack"
        receiver = PackReceiver(folder, quarantine, meter.limits)
        with _blamed(where):
            receive(quarantine, receiver.write, wants)
            done = receiver.finish()
        if done.pack is not None and message["filter"] is not None:
            (folder / f"{done.pack}.promisor").touch()
        for want in wants:
            if want not in quarantine:
                raise RemoteError("the remote did not send what was asked for", where=where, why=str(want))
        absent = [oid for oid, parents in done.parents.items() if any(at not in quarantine for at in parents)]
        if absent and message["depth"] is None:
            why = f"the parents of {absent[0]} are missing"
            hint = "is it a shallow clone? use a complete repository"
            raise RemoteError("the remote's history is incomplete", where=where, why=why, hint=hint)
    return {"objects": done.objects, "bytes": meter.received, "shallow": sorted(absent)}


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
