"""The client's side of git's protocol, versions 0 and 2 (gitprotocol-pack(5), gitprotocol-v2(5)).

Written here, over dulwich's pkt-lines, because dulwich's client takes the last of two refs of one name, follows
`packfile-uris` and redirects, falls back to the dumb protocol, ignores an unsupported filter, asks for no
`ofs-delta` in version 2, lists all refs again before every fetch, and writes SHA-1 trailers whatever the format
(1.2.21). What the server says about shallow commits is read and dropped: the pack itself tells.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from dulwich.errors import GitProtocolError, HangupException
from dulwich.protocol import Protocol as PktLines
from dulwich.protocol import pkt_line
from dulwich.refs import check_ref_format

from gitrel.errors import RemoteError
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.limits import FilterUnsupported, over_limit
from gitrel.store.wire import Line, escaped

_OID = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_PLAIN = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) (refs(?:/[A-Za-z0-9][A-Za-z0-9_-]*)+)\n?")  # without fault
_HAVES = 256  # in one request: enough for a common commit, below what any server or proxy takes for a body
_WORDS = 1000  # characters of the server's that are shown
SPOOL = 1024 * 1024  # bytes of a push's report


class Advertisement:
    """What a service says first: its capabilities and, in version 0, its refs below the given prefixes."""

    def __init__(self, version: int, capabilities: Mapping[bytes, bytes], refs: dict[str, ObjectId]) -> None:
        self.version = version
        self.capabilities = capabilities
        self.refs = refs
        text = capabilities.get(b"object-format", b"sha1")
        try:
            self.format = ObjectFormat(text.decode("ascii", "replace"))
        except ValueError:
            raise RemoteError("the remote uses an unknown object format", why=escaped(text)) from None

    def fetch_offers(self, feature: bytes) -> bool:
        if self.version == 2:
            return feature in self.capabilities.get(b"fetch", b"").split()
        return feature in self.capabilities

    def check_format(self, fmt: ObjectFormat) -> None:
        # an empty repository of an old server's says nothing at all
        if self.format is not fmt and (self.version == 2 or self.refs or b"object-format" in self.capabilities):
            raise RemoteError(
                "the remote's object format is another",
                why=f"it has {self.format.value} ids, this repository {fmt.value}",
                hint="a repository and its remote share one format for life",
            )


@contextmanager
def told(line: Line) -> Iterator[None]:
    """Whatever breaks inside becomes a `RemoteError` that says where and, if the other side complained, why."""
    try:
        yield
    except (HangupException, EOFError, OSError, GitProtocolError, ValueError) as error:
        said = escaped(line.complaint())
        if isinstance(error, (HangupException, EOFError)) and not said:
            said = "the connection ended early"
        elif isinstance(error, OSError) and not said:
            said = error.strerror or str(error)
        raise _explained(said or escaped(str(error)), line.where) from error
    except RemoteError as error:
        error.where = error.where or line.where
        if not error.why and not error.hint:
            error.hint = "check the URL and try again"
        raise
    finally:
        line.close()


def _explained(said: str, where: str) -> RemoteError:
    """The usual complaints of ssh and git, with the next step."""
    for pattern, what, hint in (
        (
            r"Permission denied|publickey",
            "the remote does not let us in",
            "check the key: `ssh -v` to that host tells more",
        ),
        (
            r"Host key verification failed",
            "the remote's host key is not known, or another",
            "check known_hosts",
        ),
        (r"Could not resolve|Name or service not known", "no such host", "check the URL"),
        (
            r"Connection refused|timed out|No route|unreachable",
            "cannot reach the remote",
            "check that the server is up",
        ),
        (
            r"not.{0,20}(a git )?repository|not exported|access denied|does not exist",
            "no such repository",
            "check the URL",
        ),
        (
            r"dubious ownership",
            "git refuses another user's repository",
            "see safe.directory in git-config(1)",
        ),
    ):
        if re.search(pattern, said, re.IGNORECASE):
            return RemoteError(what, where=where, why=said, hint=hint)
    return RemoteError(
        "the remote broke off", where=where, why=said, hint="try again; if it stays so, look at the server"
    )


def read_advertisement(line: Line, service: str, prefixes: Sequence[str]) -> Advertisement:
    lines = line.advertisement(service)
    first = lines.read_pkt_line()
    if first is not None and first.startswith(b"# service="):
        if first.rstrip(b"\n") != b"# service=" + service.encode():
            raise RemoteError("the remote answers for another service", why=escaped(first))
        if lines.read_pkt_line() is not None:
            raise RemoteError("the remote does not speak git's protocol", why=escaped(first))
        first = lines.read_pkt_line()
    if first is not None and first.rstrip(b"\n") == b"version 2":
        return Advertisement(2, _capabilities(list(section(lines))), {})
    return _read_version_0(line, lines, first, prefixes)


def _read_version_0(line: Line, lines: PktLines, first: bytes | None, prefixes: Sequence[str]) -> Advertisement:
    head, _, rest = (first or b"").partition(b"\0")
    capabilities = _capabilities(rest.split())
    refs = RefReader(line.meter.limits.refs, prefixes)
    if first is not None:
        if not head.startswith(b"0" * 40 + b" ") and not head.startswith(b"shallow "):
            refs.add(head)
        for pkt in section(lines):
            if not pkt.startswith(b"shallow "):
                refs.add(pkt)
    if b"object-format" not in capabilities and any(len(oid) == 64 for oid in refs.found.values()):
        raise RemoteError("the remote names objects by SHA-256 and does not say so")
    return Advertisement(0, capabilities, refs.found)


def section(lines: PktLines) -> Iterator[bytes]:
    """The packets up to a flush; the server's own errors raised."""
    while (pkt := lines.read_pkt_line()) is not None:
        if pkt.startswith(b"ERR "):
            raise _server_error(pkt)
        yield pkt.rstrip(b"\n")


def _server_error(pkt: bytes) -> RemoteError:
    return _explained(escaped(pkt[4:]), "")


def _capabilities(words: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(word.partition(b"=")[::2] for word in words)


class RefReader:
    """Lines `<id> <name>`, validated; those below the prefixes are kept."""

    def __init__(self, limit: int, prefixes: Sequence[str]) -> None:
        self.found: dict[str, ObjectId] = {}
        self._limit = limit
        self._count = 0
        self._prefixes = tuple(prefix.encode() for prefix in prefixes)

    def add(self, pkt: bytes) -> None:
        self._count += 1
        if self._count > self._limit:
            raise over_limit("refs", self._limit, "refs advertised")
        if len(pkt) < 1000 and (plain := _PLAIN.fullmatch(pkt)):
            if plain[2].startswith(self._prefixes):
                self._keep(plain[2].decode("ascii"), plain[1])
            return
        if pkt.startswith(b"ERR "):
            raise _server_error(pkt)
        oid, _, name = pkt.rstrip(b"\n").partition(b" ")
        name = name.split(b" ")[0]  # version 2 has attributes after it
        if not _OID.fullmatch(oid):
            raise RemoteError("the remote advertises a ref without an object id", why=escaped(pkt[:200]))
        if not name.startswith(self._prefixes) or name.endswith(b"^{}"):
            return
        text = name.decode("utf-8", "replace")
        if text.encode() != name or not text.isprintable() or len(name) > 1000 or not check_ref_format(name):  # type: ignore[arg-type]
            raise RemoteError("the remote advertises a malformed ref name", why=escaped(name[:200]))
        self._keep(text, oid)

    def _keep(self, name: str, oid: bytes) -> None:
        if name in self.found:
            raise RemoteError("the remote advertises a ref twice", why=escaped(name))
        self.found[name] = ObjectId.from_hex(oid)


class Body:
    """A request, on disk when it is large."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(SPOOL)  # noqa: SIM115  (closed by send)

    def line(self, text: str) -> None:
        self._file.write(pkt_line(text.encode() + b"\n"))

    def mark(self, marker: bytes) -> None:
        self._file.write(marker)

    def send(self, line: Line) -> PktLines:
        self._file.seek(0)
        with self._file:
            return line.request(self._file)  # type: ignore[arg-type]

    @property
    def file(self) -> BinaryIO:
        return self._file  # type: ignore[return-value]


def list_refs(line: Line, prefixes: Sequence[str]) -> dict[str, ObjectId]:
    """The refs whose names begin with one of `prefixes`, validated, sorted."""
    with told(line):
        offer = read_advertisement(line, "git-upload-pack", prefixes)
        found = offer.refs if offer.version == 0 else _ls_refs(line, offer, prefixes)
        if any(not offer.format.holds(oid) for oid in found.values()):
            raise RemoteError("the remote advertises ids of the wrong length")
        if offer.version == 0:
            line.goodbye()
        return dict(sorted(found.items()))


def _ls_refs(line: Line, offer: Advertisement, prefixes: Sequence[str]) -> dict[str, ObjectId]:
    body = Body()
    body.line("command=ls-refs")
    body.line(f"object-format={offer.format.value}")
    body.mark(b"0001")
    for prefix in prefixes:
        body.line(f"ref-prefix {prefix}")
    body.mark(b"0000")
    refs = RefReader(line.meter.limits.refs, prefixes)
    for pkt in section(body.send(line)):
        refs.add(pkt)
    return refs.found


def fetch_pack(
    line: Line,
    sink: Callable[[bytes], None],
    fmt: ObjectFormat,
    wants: Sequence[ObjectId],
    *,
    haves: Sequence[ObjectId] = (),
    shallow: Collection[ObjectId] = (),
    depth: int | None = None,
    filter_spec: str | None = None,
) -> None:
    """Feed `sink` the pack that the server makes for `wants`; one round, then the pack."""
    with told(line):
        offer = read_advertisement(line, "git-upload-pack", ())
        offer.check_format(fmt)
        if filter_spec is not None and not offer.fetch_offers(b"filter"):
            raise FilterUnsupported("the remote offers no partial clone", hint="uploadpack.allowFilter turns it on")
        if (depth is not None or shallow) and not offer.fetch_offers(b"shallow"):
            raise RemoteError("the remote offers no shallow fetch", hint="use a git server of this decade")
        arguments = [f"shallow {oid}" for oid in shallow]
        arguments += [f"deepen {depth}"] if depth is not None else []
        arguments += [f"filter {filter_spec}"] if filter_spec is not None else []
        asked = list(dict.fromkeys(haves))[:_HAVES]
        if offer.version == 2:
            lines = _ask_version_2(line, offer, wants, asked, arguments)
        else:
            lines = _ask_version_0(line, offer, wants, asked, arguments)
        read_sideband(lines, sink)


def _ask_version_2(
    line: Line,
    offer: Advertisement,
    wants: Sequence[ObjectId],
    haves: Sequence[ObjectId],
    arguments: Sequence[str],
) -> PktLines:
    body = Body()
    body.line("command=fetch")
    body.line(f"object-format={offer.format.value}")
    body.mark(b"0001")
    for text in ("thin-pack", "no-progress", "ofs-delta", *arguments):
        body.line(text)
    for text in (*(f"want {oid}" for oid in wants), *(f"have {oid}" for oid in haves), "done"):
        body.line(text)
    body.mark(b"0000")
    lines = body.send(line)
    header = _header(lines)
    if header == b"shallow-info":
        for _ in section(lines):
            pass
        header = _header(lines)
    if header != b"packfile":
        raise RemoteError("the remote answers with something else than a pack", why=escaped(header[:200]))
    return lines


def _header(lines: PktLines) -> bytes:
    pkt = lines.read_pkt_line()
    if pkt is not None and pkt.startswith(b"ERR "):
        raise _server_error(pkt)
    return (pkt or b"").rstrip(b"\n")


def _ask_version_0(
    line: Line,
    offer: Advertisement,
    wants: Sequence[ObjectId],
    haves: Sequence[ObjectId],
    arguments: Sequence[str],
) -> PktLines:
    if b"side-band-64k" not in offer.capabilities:
        raise RemoteError("the remote's git is too old", why="it has no side-band-64k")
    wished = [
        b"multi_ack_detailed",
        b"side-band-64k",
        b"ofs-delta",
        b"no-progress",
        b"thin-pack",
    ]
    chosen = [name.decode() for name in wished if name in offer.capabilities]
    if b"object-format" in offer.capabilities:
        chosen.append(f"object-format={offer.format.value}")
    if any(text.startswith("filter ") for text in arguments):
        chosen.append("filter")
    body = Body()
    body.line(f"want {wants[0]} {' '.join(chosen)}")
    for text in (*(f"want {oid}" for oid in wants[1:]), *arguments):
        body.line(text)
    body.mark(b"0000")
    for text in (*(f"have {oid}" for oid in haves), "done"):
        body.line(text)
    lines = body.send(line)
    if any(text.startswith("deepen ") for text in arguments):
        for _ in section(lines):
            pass
    while (pkt := lines.read_pkt_line()) is not None and pkt.startswith((b"ACK ", b"NAK")):
        pass
    if pkt is not None and pkt.startswith(b"ERR "):
        raise _server_error(pkt)
    lines.unread_pkt_line(pkt)
    return lines


def read_sideband(lines: PktLines, sink: Callable[[bytes], None]) -> str:
    """Channel 1 to `sink`; returns the end of what channel 2 said. Raises for channel 3 and every other."""
    said = b""
    while (pkt := lines.read_pkt_line()) is not None:
        channel, data = pkt[:1], pkt[1:]
        if channel == b"\1":
            sink(data)
        elif channel == b"\2":
            said = (said + data)[-_WORDS:]
        elif channel == b"\3":
            raise RemoteError("the remote gave up", why=escaped(data), hint="look at the server's log")
        else:
            raise RemoteError("the remote does not speak git's protocol", why=f"side-band channel {escaped(channel)!r}")
    return escaped(said)
