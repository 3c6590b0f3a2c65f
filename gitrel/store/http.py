"""git's smart HTTP protocol (gitprotocol-http(5)) over urllib3. Runs in the transfer child only.

Proxies, a private CA, `http.extraHeader` and `http.sslVerify` come from git's configuration (`http_pool`), a user and
a password from the URL, or from git's credential helpers. The dumb protocol, content encodings and redirects to
another origin are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import urllib3
from dulwich.protocol import Protocol as PktLines

from gitrel.errors import RemoteError
from gitrel.store.credentials import Credentials
from gitrel.store.http_pool import open_pool
from gitrel.store.location import GitConfig, Location
from gitrel.store.wire import Meter, escaped

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_HOPS = 3
_ADVICE = {
    401: ("the remote wants a user and a password", "a credential helper of git's gives them; or use ssh"),
    403: ("the remote does not allow this", "check the account's rights on the repository"),
    404: (
        "the remote has no such repository",
        "check the URL; some servers say this to whoever may not read it",
    ),
    407: ("the proxy wants a user and a password", "check http.proxy"),
    413: ("the remote refuses a body of this size", "raise the server's limit (nginx: client_max_body_size)"),
    429: ("the remote asks us to slow down", "try again later"),
}


class HttpLine:
    """One repository on an HTTP server; a GET, then POSTs."""

    def __init__(
        self, location: Location, meter: Meter, config: GitConfig, env: Mapping[str, str], known: Credentials
    ) -> None:
        self.where = location.safe
        self.meter = meter
        self._base = location.safe.rstrip("/") + "/"
        self._origin = urlsplit(self._base)[:2]
        self._known = known
        self._service = ""
        self._answer: urllib3.BaseHTTPResponse | None = None
        limits = meter.limits
        timeout = urllib3.Timeout(connect=limits.connect_seconds, read=limits.idle_seconds)
        self._pool = open_pool(location, config, env, timeout)
        self._headers = {**self._pool.headers, "Accept-Encoding": "identity", "Pragma": "no-cache"}
        # http.extraHeader has the last word, as in git; two such headers are an error to servers
        self._settled = any(name.lower() == "authorization" for name in self._headers)
        if location.user is not None and not self._settled:
            self._use(location.user, location.password or "")

    def _use(self, user: str, password: str) -> None:
        self._headers.update(urllib3.make_headers(basic_auth=f"{user}:{password}"))

    def advertisement(self, service: str) -> PktLines:
        self.close()
        self._service = service
        tail = f"info/refs?service={service}"
        url = urljoin(self._base, tail)
        answer = self._send("GET", url, {"Accept": "*/*"})
        for _ in range(_MAX_HOPS):
            if answer.status in _REDIRECTS:
                url = self._next_hop(url, answer, tail)
            elif answer.status == 401 and not self._settled and (found := self._known.fill()) is not None:
                self._use(*found)
            else:
                break
            answer = self._send("GET", url, {"Accept": "*/*"})
        self._known.settle(answer.status != 401)
        self._expect(answer, f"application/x-{service}-advertisement")
        self._base = url.removesuffix(tail)
        return self._lines(answer)

    def request(self, body: BinaryIO) -> PktLines:
        size = body.seek(0, os.SEEK_END)
        body.seek(0)
        kind = f"application/x-{self._service}"
        headers = {"Content-Type": f"{kind}-request", "Accept": f"{kind}-result", "Content-Length": str(size)}
        answer = self._send("POST", urljoin(self._base, self._service), headers, body)
        self._expect(answer, f"{kind}-result")
        return self._lines(answer)

    def goodbye(self) -> None:
        self.close()

    def complaint(self) -> str:
        return ""

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._answer = None

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: BinaryIO | None = None
    ) -> urllib3.BaseHTTPResponse:
        self.close()
        if self._service == "git-upload-pack":
            headers["Git-Protocol"] = "version=2"
        try:
            self._answer = self._pool.request(
                method,
                url,
                headers={**self._headers, **headers},
                body=_chunks(body) if body is not None else None,
                redirect=False,
                retries=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _broken(error) from error
        return self._answer

    def _next_hop(self, url: str, answer: urllib3.BaseHTTPResponse, tail: str) -> str:
        target = urljoin(url, answer.headers.get("Location", ""))
        if urlsplit(target)[:2] != self._origin or not target.endswith("/" + tail):
            host = urlsplit(target).hostname
            raise RemoteError(
                "the remote redirects elsewhere",
                why=f"to {str(host)[:200]!r}",
                hint="if that is right, use the other place's URL",
            )
        return target

    def _expect(self, answer: urllib3.BaseHTTPResponse, kind: str) -> None:
        if answer.status != 200:
            what, hint = _ADVICE.get(
                answer.status, (f"the remote answers with status {answer.status}", "try again later")
            )
            raise RemoteError(what, hint=hint)
        found = answer.headers.get("Content-Type", "").split(";")[0].strip()
        if found != kind:
            raise RemoteError(
                "not a git repository behind this URL",
                why=f"the content type is {found[:80]!r}",
                hint="check the URL; the dumb HTTP protocol is not supported",
            )
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise RemoteError("the remote encodes its answer although it was told not to")

    def _lines(self, answer: urllib3.BaseHTTPResponse) -> PktLines:
        def read(size: int) -> bytes:
            try:
                data = answer.read(size, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _broken(error) from error
            self.meter.count(len(data))
            return data

        return PktLines(read, len)  # nothing is written: requests are bodies


def _chunks(body: BinaryIO) -> Iterator[bytes]:
    while chunk := body.read(65536):
        yield chunk


def _broken(error: Exception) -> RemoteError:
    """urllib3's errors carry the URL, never its credentials: those are in a header."""
    why = escaped(re.sub(r"^HTTPS?Connection\S*(, port=\d+\))?: ", "", str(error)))
    hint = "check the URL, the network, and that the server is up"
    match error:
        case urllib3.exceptions.SSLError():
            what, hint = "cannot trust the remote's certificate", "http.sslCAInfo names the file of a private CA"
        case urllib3.exceptions.ReadTimeoutError():
            what = "the remote does not answer"
        case urllib3.exceptions.NewConnectionError() | urllib3.exceptions.ConnectTimeoutError():
            what = "cannot reach the remote"
        case urllib3.exceptions.ProxyError():
            what, hint = "cannot reach the remote through the proxy", "check http.proxy and no_proxy"
        case _:
            what = "the connection broke"
    return RemoteError(what, why=why, hint=hint)
