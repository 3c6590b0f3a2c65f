"""A server that lies, stalls and floods: bounded time and memory, one clear error, the home byte for byte as before.

The server is a few lines of smart HTTP on loopback; each row is what it does instead of its duty.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.server
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_store_remote_pack import BAD, BASE, COSTLY, GOOD, blob_id, pack, whole

from gitrel.errors import RemoteError
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import Limits, Remote
from gitrel.store.repository import Repository

WANT = ObjectId(blob_id(BASE).hex())
V1 = b"refs/releases/v1"
CAPS = b"side-band-64k ofs-delta shallow object-format=sha1"


def pkt(data: bytes) -> bytes:
    return b"%04x" % (len(data) + 4) + data


def band(channel: int, data: bytes) -> bytes:
    return b"".join(pkt(bytes([channel]) + data[at : at + 60_000]) for at in range(0, len(data), 60_000))


def refs(*lines: bytes) -> bytes:
    """A version 0 advertisement of these lines."""
    first, *rest = lines
    service = pkt(b"# service=git-upload-pack\n") + b"0000"
    return service + pkt(first + b"\0" + CAPS) + b"".join(map(pkt, rest)) + b"0000"


HONEST = refs(WANT.encode() + b" " + V1)
VERSION_2 = pkt(b"version 2\n") + pkt(b"fetch=shallow filter\n") + pkt(b"object-format=sha1\n") + b"0000"
NAK = pkt(b"NAK\n")


class Server(http.server.ThreadingHTTPServer):
    """`advertise` and `answer` write the whole response; `seen` is every request's path and Authorization."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.advertise: Callable[[Handler], None] = lambda to: to.reply(HONEST)
        self.answer: Callable[[Handler], None] = lambda to: to.reply(NAK + band(1, GOOD) + b"0000")
        self.seen: list[tuple[str, str | None]] = []
        self.stop = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/repo.git"

    def handle_error(self, request: object, client_address: object) -> None:
        """The client hanging up is what these tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        self.server.advertise(self)

    def do_POST(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answer(self)

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.begin(status, **headers)
        self.wfile.write(body)

    def begin(self, status: int = 200, **headers: str) -> None:
        kind = "advertisement" if self.command == "GET" else "result"
        self.send_response(status)
        sent = {"Content_Type": f"application/x-git-upload-pack-{kind}", **headers}
        for name, value in sent.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def flood(self, data: bytes) -> None:
        self.begin()
        while not self.server.stop.is_set():
            self.wfile.write(data * (60_000 // len(data) + 1))

    def drip(self, data: bytes, pause: float) -> None:
        self.begin()
        for byte in data:
            self.wfile.write(bytes([byte]))
            if self.server.stop.wait(pause):
                break

    def log_message(self, *args: object) -> None:
        """Silent."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.stop.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def lasting() -> Iterator[tuple[Server, Remote]]:
    """One server and one child that talks to it, for many rows: what was bad does not spoil what follows."""
    with serving() as running, open_remote(running) as remote:
        yield running, remote


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "home.git", ObjectFormat.SHA1) as repo:
        repo.write("blob", b"what was there before")
        yield repo


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


LIMITS = Limits(
    wire_bytes=3_000_000,
    refs=1000,
    objects=1000,
    object_bytes=5_000_000,
    metadata_bytes=1_000_000,
    total_bytes=20_000_000,
    delta_depth=200,
    connect_seconds=2,
    idle_seconds=2,
    wall_seconds=5,
    memory_bytes=700_000_000,
)


def open_remote(server: Server, limits: Limits = LIMITS, url: str = "") -> Remote:
    return Remote.resolve(None, url or server.url, env={"PATH": os.environ["PATH"]}, limits=limits)


def refused_list(server: Server, limits: Limits = LIMITS, url: str = "") -> RemoteError:
    with open_remote(server, limits, url) as remote:
        return refuses_to_list(remote)


def refuses_to_list(remote: Remote) -> RemoteError:
    started = time.monotonic()
    with pytest.raises(RemoteError) as caught:
        remote.list(["refs/"])
    assert time.monotonic() - started < 12
    assert str(caught.value).isprintable()
    assert caught.value.where
    return caught.value


def refused_fetch(
    server: Server, store: Repository, limits: Limits = LIMITS, *, depth: int | None = None
) -> RemoteError:
    with open_remote(server, limits) as remote:
        return refuses_to_fetch(remote, store, depth=depth)


def refuses_to_fetch(remote: Remote, store: Repository, *, depth: int | None = None) -> RemoteError:
    before, started = contents(store.path), time.monotonic()
    folder = store.path.parent / "quarantine"
    with pytest.raises(RemoteError) as caught, Quarantine(store, folder) as quarantine:
        remote.fetch(quarantine, [WANT], depth=depth)
    assert time.monotonic() - started < 12
    assert contents(store.path) == before
    assert list(folder.iterdir()) == []
    assert str(caught.value).isprintable()
    assert caught.value.where
    return caught.value


def test_control_an_honest_server(server: Server, store: Repository) -> None:
    with open_remote(server) as remote:
        assert remote.list(["refs/releases/"]) == {V1.decode(): WANT}
        with Quarantine(store, store.path.parent / "quarantine") as quarantine:
            assert remote.fetch(quarantine, [WANT]).objects == 2
            quarantine.adopt()
    assert WANT in store


ADVERTISEMENTS = {
    "ESC in a name": (refs(WANT.encode() + b" refs/releases/\x1b[31mv1"), "malformed ref name"),
    "path out of refs": (refs(WANT.encode() + b" refs/releases/../../config"), "malformed ref name"),
    "NUL in a name": (HONEST[:-4] + pkt(WANT.encode() + b" refs/releases/v\0002") + b"0000", "malformed ref name"),
    "name of 3 kB": (refs(WANT.encode() + b" refs/releases/" + b"v" * 3000), "malformed ref name"),
    "not UTF-8": (refs(WANT.encode() + b" refs/releases/\xff\xfe"), "malformed ref name"),
    "a newline inside": (
        HONEST[:-4] + pkt(WANT.encode() + b" refs/releases/v2\nrefs/x") + b"0000",
        "malformed ref name",
    ),
    "one name twice": (refs(WANT.encode() + b" " + V1, b"1" * 40 + b" " + V1), "a ref twice"),
    "an id that is not hex": (refs(b"g" * 40 + b" " + V1), "without an object id"),
    "a short id": (refs(b"1" * 39 + b" " + V1), "without an object id"),
    "an upper-case id": (refs(b"A" * 40 + b" " + V1), "without an object id"),
    "ids of two lengths": (refs(WANT.encode() + b" " + V1, b"1" * 64 + b" refs/x"), "wrong length"),
    "ERR with escapes": (pkt(b"ERR \x1b]0;owned\x07 no"), "x1b"),
    "more refs than the limit": (refs(*(WANT.encode() + b" refs/x/%d" % at for at in range(1001))), "limit refs"),
    "another service": (pkt(b"# service=git-receive-pack\n") + b"0000", "another service"),
    "a negative pkt-line": (HONEST[:-4] + b"-001" + b"0000", "length prefix"),
    "cut": (HONEST[:-10], "Length of pkt|ended early"),
    "nothing": (b"", "ended early"),
    "no flush": (HONEST[:-4], "ended early"),
    "html": (b"<html>", "length prefix"),
    "unknown object format": (HONEST.replace(b"format=sha1", b"format=md55"), "unknown object format"),
}


@pytest.mark.parametrize("row", ADVERTISEMENTS)
def test_advertisements(lasting: tuple[Server, Remote], row: str) -> None:
    server, remote = lasting
    body, what = ADVERTISEMENTS[row]
    server.advertise = lambda to: to.reply(body)
    error = refuses_to_list(remote)
    assert re.search(what, str(error)), error


class TestHttp:
    def test_dumb_protocol(self, server: Server) -> None:
        server.advertise = lambda to: to.reply(WANT.encode() + b"\t" + V1, Content_Type="text/plain")
        assert "not a git repository" in refused_list(server).what

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 429, 500, 503])
    def test_status(self, server: Server, status: int) -> None:
        server.advertise = lambda to: to.reply(b"", status=status)
        assert refused_list(server).hint

    def test_gzip_that_nobody_asked_for(self, server: Server) -> None:
        bomb = gzip.compress(bytes(10**8))
        server.advertise = lambda to: to.reply(bomb, Content_Encoding="gzip")
        assert "encodes" in refused_list(server).what

    def test_redirect_to_another_host(self, server: Server) -> None:
        """Neither the request nor the credentials go there."""
        with Server() as other:
            thread = threading.Thread(target=other.serve_forever, args=(0.02,))
            thread.start()
            server.advertise = lambda to: to.reply(
                b"", status=302, Location=f"{other.url}/info/refs?service=git-upload-pack"
            )
            url = server.url.replace("http://", "http://me:secret@")
            assert "redirects elsewhere" in refused_list(server, url=url).what
            assert other.seen == []
            other.shutdown()
            thread.join()
        assert server.seen[0][1] == "Basic " + base64.b64encode(b"me:secret").decode()

    def test_redirect_loop(self, server: Server) -> None:
        server.advertise = lambda to: to.reply(b"", status=301, Location=to.path)
        refused_list(server)
        assert len(server.seen) <= 4

    def test_redirect_on_the_same_server(self, server: Server) -> None:
        """GitLab's way of saying `.git`; what follows goes to the new place."""

        def advertise(to: Handler) -> None:
            if to.path.startswith("/repo.git/"):
                to.reply(b"", status=301, Location="/moved.git/info/refs?service=git-upload-pack")
            else:
                to.reply(HONEST)

        server.advertise = advertise
        with open_remote(server) as remote:
            assert remote.list(["refs/"]) == {V1.decode(): WANT}

    def test_silence(self, server: Server) -> None:

        def advertise(to: Handler) -> None:
            to.server.stop.wait(20)

        server.advertise = advertise
        assert "does not answer" in refused_list(server, replace(LIMITS, idle_seconds=1)).what

    def test_silence_inside_the_advertisement(self, server: Server) -> None:
        def advertise(to: Handler) -> None:
            to.begin()
            to.wfile.write(HONEST[:50])
            to.server.stop.wait(20)

        server.advertise = advertise
        assert "does not answer" in refused_list(server, replace(LIMITS, idle_seconds=1)).what

    def test_a_byte_at_a_time(self, server: Server) -> None:
        server.advertise = lambda to: to.drip(HONEST, 0.5)
        assert "limit wall_seconds" in str(refused_list(server, replace(LIMITS, wall_seconds=3)))

    @pytest.mark.parametrize("data", [pkt(WANT.encode() + b" refs/tags/x"), b"0004" * 1000, b"fff0" + b"x" * 65516])
    def test_endless_advertisement(self, server: Server, data: bytes) -> None:
        server.advertise = lambda to: to.flood(refs(WANT.encode() + b" " + V1)[:-4] + data)
        refused_list(server)


@pytest.mark.parametrize("row", [row for row in BAD if not row.startswith("P01")])
def test_bad_packs(lasting: tuple[Server, Remote], store: Repository, row: str) -> None:
    server, remote = lasting
    server.advertise = lambda to: to.reply(HONEST)
    server.answer = lambda to: to.reply(NAK + band(1, BAD[row]) + b"0000")
    assert "damaged pack" in refuses_to_fetch(remote, store).what


@pytest.mark.parametrize("row", COSTLY)
def test_costly_packs(server: Server, store: Repository, row: str) -> None:
    data, limits, name = COSTLY[row]
    server.answer = lambda to: to.reply(NAK + band(1, data) + b"0000")
    tight = Limits(**{"connect_seconds": 2, "idle_seconds": 2, "wall_seconds": 10, **limits})
    assert f"limit {name}" in str(refused_fetch(server, store, tight))


ANSWERS = {
    "no answer": (b"", "ended early"),
    "only NAK": (NAK, "ended early"),
    "an empty stream": (NAK + b"0000", "damaged pack"),
    "an empty pack": (NAK + band(1, pack()) + b"0000", "did not send"),
    "another object": (NAK + band(1, pack(whole(3, b"other"))) + b"0000", "did not send"),
    "channel 3 with escapes": (NAK + band(3, b"\x1b[2Jgone") + b"0000", "x1b"),
    "channel 9": (NAK + band(9, b"hello") + b"0000", "side-band channel"),
    "an empty packet": (NAK + b"0004" + b"0000", "side-band channel"),
    "a negative pkt-line": (NAK + b"-004", "length prefix"),
    "no side-band": (NAK + GOOD, "length prefix"),
    "cut then flush": (NAK + band(1, GOOD[:50]) + b"0000", "damaged pack"),
    "cut": (NAK + band(1, GOOD)[:50], "Length of pkt|ended early"),
    "ERR": (pkt(b"ERR \x1b[31mno"), "x1b"),
}


@pytest.mark.parametrize("row", ANSWERS)
def test_answers(lasting: tuple[Server, Remote], store: Repository, row: str) -> None:
    server, remote = lasting
    body, what = ANSWERS[row]
    server.advertise = lambda to: to.reply(HONEST)
    server.answer = lambda to: to.reply(body)
    error = refuses_to_fetch(remote, store)
    assert re.search(what, str(error)), error


@pytest.mark.parametrize("data", [pkt(b"ACK " + b"1" * 40 + b" common\n"), NAK, NAK + band(2, b"x" * 60_000)])
def test_endless_answers(server: Server, store: Repository, data: bytes) -> None:
    server.answer = lambda to: to.flood(data)
    refused_fetch(server, store)


def test_endless_pack(server: Server, store: Repository) -> None:
    def answer(to: Handler) -> None:
        to.begin()
        to.wfile.write(NAK)
        while not to.server.stop.is_set():
            to.wfile.write(band(1, b"PACK\0\0\0\2\0\0\0\1" + os.urandom(50_000)))

    server.answer = answer
    assert "limit wire_bytes" in str(refused_fetch(server, store))


def test_parents_left_out(server: Server, store: Repository) -> None:
    """Without a depth a commit comes with its parents, or not at all."""
    global_tree = ObjectFormat.SHA1.object_id("tree", b"")
    commit = f"tree {global_tree}\nparent {'1' * 40}\nauthor a <a> 0 +0000\ncommitter a <a> 0 +0000\n\nx".encode()
    server.answer = lambda to: to.reply(NAK + band(1, pack(whole(1, commit), whole(3, BASE))) + b"0000")
    assert "history is incomplete" in refused_fetch(server, store).what


class TestVersion2:
    @pytest.fixture(autouse=True)
    def speaks_version_2(self, server: Server) -> None:
        server.advertise = lambda to: to.reply(VERSION_2)

    def test_control(self, server: Server, store: Repository) -> None:
        server.answer = lambda to: to.reply(pkt(b"packfile\n") + band(1, GOOD) + b"0000")
        with open_remote(server) as remote, Quarantine(store, store.path.parent / "q") as quarantine:
            assert remote.fetch(quarantine, [WANT]).objects == 2

    def test_shallow_info_that_nobody_asked_for(self, server: Server, store: Repository) -> None:
        """It is read and dropped; no file says shallow because a server did."""
        info = pkt(b"shallow-info\n") + pkt(b"shallow " + b"1" * 40) + b"0001"
        server.answer = lambda to: to.reply(info + pkt(b"packfile\n") + band(1, GOOD) + b"0000")
        with open_remote(server) as remote, Quarantine(store, store.path.parent / "q") as quarantine:
            remote.fetch(quarantine, [WANT])
            assert quarantine.shallow == set()
            quarantine.adopt()
        assert not (store.path / "shallow").exists()

    @pytest.mark.parametrize("header", [b"packfile-uris\n", b"bundle-uri\n", b"wanted-refs\n", b"acknowledgments\n"])
    def test_other_sections(self, server: Server, store: Repository, header: bytes) -> None:
        elsewhere = pkt(b"1" * 40 + b" https://elsewhere.example/pack")
        server.answer = lambda to: to.reply(pkt(header) + elsewhere + b"0001" + pkt(b"packfile\n") + b"0000")
        assert "something else than a pack" in refused_fetch(server, store).what

    def test_refs_that_were_not_asked_for(self, server: Server) -> None:
        line = WANT.encode() + b" "
        server.answer = lambda to: to.reply(pkt(line + b"refs/heads/x\n") + pkt(line + V1 + b"\n") + b"0000")
        with open_remote(server) as remote:
            assert remote.list(["refs/releases/"]) == {V1.decode(): WANT}

    def test_one_name_twice(self, server: Server) -> None:
        line = pkt(WANT.encode() + b" " + V1)
        server.answer = lambda to: to.reply(line + line + b"0000")
        assert "a ref twice" in refused_list(server).what
