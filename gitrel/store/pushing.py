"""Creating refs on a remote: the client's side of git-receive-pack (gitprotocol-pack(5), Reference Update Request).

Every ref is sent with the old value zero, so the server creates it or refuses: that is the compare-and-swap
that hands out a ledger's numbers. dulwich 1.2.21 would send a pack of SHA-1 whatever the format.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import BinaryIO

from dulwich.protocol import Protocol as PktLines

from gitrel.errors import GitrelError, RemoteError
from gitrel.ids import ObjectId
from gitrel.store.conversation import Advertisement, Body, read_sideband, section
from gitrel.store.wire import Line, escaped

_REPORT = 1024 * 1024  # bytes of a push's report


class Rejected(GitrelError):
    """Inside this package: the server took the push and refused some refs, `reasons` by name."""

    def __init__(self, reasons: Mapping[str, str], said: str) -> None:
        super().__init__(
            "the remote refused the push", why="; ".join(f"{name}: {why}" for name, why in reasons.items())
        )
        self.reasons = reasons
        self.said = said


def send_refs(
    line: Line,
    offer: Advertisement,
    refs: Mapping[str, ObjectId],
    write_pack: Callable[[BinaryIO], None],
    *,
    atomic: bool,
) -> None:
    """Create `refs` in one request on a line whose receive-pack has just given `offer`. Raises `Rejected`."""
    if b"report-status" not in offer.capabilities:
        raise RemoteError("the remote does not report what became of a push", hint="use a git server of this decade")
    wished = [b"report-status", b"side-band-64k", *([b"atomic"] if atomic else [])]
    chosen = [name.decode() for name in wished if name in offer.capabilities]
    if b"object-format" in offer.capabilities:
        chosen.append(f"object-format={offer.format.value}")
    body = Body()
    zero = "0" * 2 * offer.format.raw_length
    for at, (name, oid) in enumerate(refs.items()):
        body.line(f"{zero} {oid} {name}" + ("" if at else f"\0 {' '.join(chosen)}"))
    body.mark(b"0000")
    write_pack(body.file)
    lines = body.send(line)
    said = ""
    if b"side-band-64k" in offer.capabilities:
        report = io.BytesIO()

        def keep(data: bytes) -> None:
            if report.tell() + len(data) > _REPORT:
                raise RemoteError("the remote's report on the push has no end")
            report.write(data)

        said = read_sideband(lines, keep)
        lines = PktLines(io.BytesIO(report.getvalue()).read, len)
    _read_report(lines, refs, said)


def _read_report(lines: PktLines, refs: Mapping[str, ObjectId], said: str) -> None:
    words = list(section(lines))
    done = {word[3:].decode("utf-8", "replace") for word in words if word.startswith(b"ok ")}
    if words[:1] == [b"unpack ok"] and done == set(refs):
        return
    reasons = {}
    for word in words:
        if word.startswith(b"ng "):
            refused, _, why = word[3:].partition(b" ")
            reasons[escaped(refused)] = escaped(why)
    if words[:1] != [b"unpack ok"]:
        reasons.setdefault("unpack", escaped(words[0].removeprefix(b"unpack ")) if words else "no report")
    for name in set(refs) - done - set(reasons):
        reasons[name] = "not reported"
    raise Rejected(reasons, said)
