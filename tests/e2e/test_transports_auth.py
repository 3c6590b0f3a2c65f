"""Who we are to a host, and what stands between: keys, agents, headers, helpers, proxies, certificates, against real
servers. What fails is said without a password, and what is for one host goes to no other one.
"""

from __future__ import annotations

import base64
import http.server
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import program
from servers import PASSWORD, USER, Servers, Work, servers, work

from gitrel.errors import RemoteError
from gitrel.ids import ObjectId
from gitrel.store.remote import Remote

__all__ = ["servers", "work"]  # fixtures

Make = Callable[..., Work]
V1 = "refs/releases/v1"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def gets_in(at: Work, url: str) -> None:
    """List, push, list and fetch, by a remote's name in git's configuration."""
    at.git("remote", "add", "origin", url)
    one = at.commit("one", "1")
    with Remote.resolve(at.repo, "origin", env=at.env) as remote:
        assert remote.list(["refs/"]) == {}
        remote.push(at.repo, {V1: one})
        assert remote.list(["refs/"]) == {V1: one}
        assert at.pull(remote, [one]).objects == 3


def refused(at: Work, url: str, what: str) -> str:
    """All that is said."""
    with Remote.resolve(at.repo, url, env=at.env) as remote, pytest.raises(RemoteError, match=what) as caught:
        remote.list(["refs/"])
    assert caught.value.where == remote.safe_url
    assert caught.value.hint
    return f"{caught.value} {caught.value.hint}"


class TestSsh:
    def config(self, servers: Servers, at: Work, *changes: tuple[str, str]) -> None:
        """An ssh_config of this test's own, in place of the servers'."""
        text = (servers.folder / "ssh_config").read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (at.folder / "ssh_config").write_text(text)
        at.env["GIT_SSH_COMMAND"] = f"ssh -F {at.folder}/ssh_config"

    def test_an_agent(self, servers: Servers, work: Make, tmp_path: Path) -> None:
        """No file has the key: the agent does, and without it there is no way in."""
        at = work()
        servers.create("agent")
        none = ("IdentityFile " + str(servers.folder / "client_key"), "IdentityFile /nonexistent")
        self.config(servers, at, none, ("IdentitiesOnly yes", "IdentitiesOnly no"), ("IdentityAgent none", ""))
        at.env.pop("SSH_AUTH_SOCK", None)
        refused(at, servers.url("ssh", "agent"), "does not let us in")
        sock = tmp_path / "agent"
        argv = [program("ssh-agent"), "-D", "-a", str(sock)]
        agent = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            at.env["SSH_AUTH_SOCK"] = str(sock)
            add = [program("ssh-add"), "-q", str(servers.folder / "client_key")]
            while subprocess.run(add, env=at.env, capture_output=True, check=False).returncode:
                assert agent.poll() is None  # it comes up
            gets_in(at, servers.url("ssh", "agent"))
        finally:
            agent.terminate()
            agent.wait()

    def test_an_identity_file(self, servers: Servers, work: Make, tmp_path: Path) -> None:
        """Of ssh's configuration, or of the command that git's names; another key is not let in."""
        at = work()
        servers.create("identity")
        subprocess.run(
            [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True
        )
        key = servers.folder / "client_key"
        self.config(servers, at, (f"IdentityFile {key}", f"IdentityFile {tmp_path}/other"))
        refused(at, servers.url("scp", "identity"), "does not let us in")
        del at.env["GIT_SSH_COMMAND"]
        at.git("config", "core.sshCommand", f"ssh -F {at.folder}/ssh_config -i {key}")
        gets_in(at, servers.url("scp", "identity"))

    def test_another_host_key_than_was_known(self, servers: Servers, work: Make, tmp_path: Path) -> None:
        at = work()
        servers.create("changed")
        key = (servers.folder / "client_key.pub").read_text()
        (tmp_path / "known").write_text(f"[127.0.0.1]:{servers.ports['ssh']} {key}")
        self.config(servers, at, (f"{servers.folder}/known_hosts", f"{tmp_path}/known"))
        refused(at, servers.url("ssh", "changed"), "host key is not known, or another")


class TestHeaders:
    @pytest.mark.parametrize("transport", ["http", "https"])
    def test_an_extra_header(self, servers: Servers, work: Make, transport: str) -> None:
        """As CI systems do it: for one URL, in the environment, and nothing of it in a message."""
        at = work()
        name = f"header-{transport}"
        servers.create(name)
        base = f"{transport}://127.0.0.1:{servers.ports[transport]}"
        at.git("config", f"http.{base}/other.extraHeader", f"Authorization: {BASIC}")
        refused(at, f"{base}/{name}.git", "wants a user and a password")
        wrong = base64.b64encode(b"deployer:hunter2").decode()
        at.git("config", f"http.{base}/.extraHeader", f"Authorization: Basic {wrong}")
        said = refused(at, f"{base}/{name}.git", "wants a user and a password")
        assert wrong not in said
        at.git("config", "--unset", f"http.{base}/.extraHeader")
        count = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{base}/.extraHeader"}
        at.env |= {**count, "GIT_CONFIG_VALUE_0": f"Authorization: {BASIC}"}
        gets_in(at, f"{base}/{name}.git")


class TestCertificates:
    def test_a_private_authority(self, servers: Servers, work: Make) -> None:
        """By `http.sslCAInfo`, for all URLs or for one; not trusted without it."""
        at = work()
        servers.create("ca")
        url = servers.url("https", "ca")
        del at.env["GIT_SSL_CAINFO"]
        ca = str(servers.folder / "tls.pem")
        assert PASSWORD not in refused(at, url, "certificate")
        at.git("config", "http.https://127.0.0.1:1/.sslCAInfo", ca)
        refused(at, url, "certificate")
        at.git("config", f"http.https://127.0.0.1:{servers.ports['https']}/.sslCAInfo", ca)
        gets_in(at, url)
        at.git("config", "--remove-section", f"http.https://127.0.0.1:{servers.ports['https']}/")
        at.git("config", "http.sslVerify", "false")
        with Remote.resolve(at.repo, url, env=at.env) as remote:
            assert list(remote.list(["refs/"])) == [V1]


class Proxy(http.server.ThreadingHTTPServer):
    """CONNECT and plain forwarding for whoever says the password; `seen` is what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Forward)
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up ends its connection, and nothing else."""


class Forward(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self.server.seen.append(f"{self.command} {self.path}")
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.headers.get("Proxy-Authorization") == "Basic " + base64.b64encode(b"me:s3cret@").decode():
            return True
        self.send_error(407)
        return False

    def do_CONNECT(self) -> None:
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as far:
            self.send_response(200)
            self.end_headers()
            self.relay(far)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        with socket.create_connection((url.hostname or "", url.port or 80)) as far:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = [f"{name}: {value}" for name, value in self.headers.items() if not name.lower().startswith("proxy")]
            kept = [line for line in kept if not line.lower().startswith("connection")]
            lines = [f"{self.command} {url.path}?{url.query} HTTP/1.0", *kept, "Connection: close"]
            far.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            while data := far.recv(65536):
                self.wfile.write(data)
        self.close_connection = True

    def do_POST(self) -> None:
        self.do_GET()

    def relay(self, far: socket.socket) -> None:
        ways = {self.connection: far, far: self.connection}
        while True:
            for reader in select.select([*ways], [], [])[0]:
                if not (data := reader.recv(65536)):
                    return
                ways[reader].sendall(data)

    def log_message(self, *args: object) -> None:
        """Silent."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("where", ["http.proxy", "environment"])
@pytest.mark.parametrize("transport", ["http", "https"])
class TestProxies:
    def configure(self, at: Work, where: str, transport: str, url: str) -> None:
        at.env["no_proxy"] = ""
        if where == "environment":
            at.env[f"{transport}_proxy"] = url
        else:
            at.git("config", "http.proxy", url)
            at.env[f"{transport}_proxy"] = "http://127.0.0.1:1"  # which git's configuration overrules

    def test_through_it(self, servers: Servers, work: Make, proxy: Proxy, transport: str, where: str) -> None:
        """With a password of its own; a host's credentials are inside of the tunnel, where there is one."""
        at = work()
        name = f"proxy-{transport}-{where.partition('.')[0]}"
        servers.create(name)
        self.configure(at, where, transport, f"http://me:s3cret%40@127.0.0.1:{proxy.port}")
        gets_in(at, servers.url(transport, name))
        host = f"127.0.0.1:{servers.ports[transport]}"
        if transport == "https":
            assert set(proxy.seen) == {f"CONNECT {host}"}
            assert all("authorization" not in headers for headers in proxy.headers)
        else:
            assert {line.split(" ")[1].partition("/info/")[0] for line in proxy.seen} >= {f"http://{host}/{name}.git"}
            assert all(headers["authorization"] == BASIC for headers in proxy.headers)

    def test_it_refuses_us(self, servers: Servers, work: Make, proxy: Proxy, transport: str, where: str) -> None:
        at = work()
        servers.create("unproxied")
        self.configure(at, where, transport, f"http://me:hunter2@127.0.0.1:{proxy.port}")
        said = refused(at, servers.url(transport, "unproxied"), "proxy")
        assert "hunter2" not in said
        assert PASSWORD not in said
        assert len(proxy.seen) >= 1
        at.env["no_proxy"] = "127.0.0.0/8"
        before = len(proxy.seen)
        with Remote.resolve(at.repo, servers.url(transport, "unproxied"), env=at.env) as remote:
            assert remote.list(["refs/"]) == {}
        assert len(proxy.seen) == before, "no_proxy is for both"

    def test_nobody_there(self, servers: Servers, work: Make, transport: str, where: str) -> None:
        at = work()
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            port = server.getsockname()[1]
        self.configure(at, where, transport, f"http://me:hunter2@127.0.0.1:{port}")
        assert "hunter2" not in refused(at, servers.url(transport, "unproxied"), "through the proxy")


class Liar(http.server.BaseHTTPRequestHandler):
    """An honest list, and for whatever is asked then another host's address."""

    elsewhere = ""

    def do_GET(self) -> None:
        oid, caps = b"1" * 40, b"side-band-64k report-status object-format=sha1"
        service = urlsplit(self.path).query.partition("=")[2].encode()
        first, line = b"# service=" + service + b"\n", oid + b" refs/releases/v9\0" + caps
        self.send_response(200)
        self.send_header("Content-Type", f"application/x-{service.decode()}-advertisement")
        self.end_headers()
        self.wfile.write(b"%04x%s0000%04x%s0000" % (len(first) + 4, first, len(line) + 4, line))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(307)
        self.send_header("Location", self.elsewhere)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Silent."""


def test_nothing_is_sent_to_where_a_host_redirects_a_push_or_a_fetch(work: Make, tmp_path: Path) -> None:
    """Neither the password of the URL, nor a header, nor the pack: nobody even knocks there."""
    at = work()
    one = at.commit("one", "1")
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        handler = type("Handler", (Liar,), {"elsewhere": f"http://127.0.0.1:{other.getsockname()[1]}/x.git"})
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            at.git("config", "http.extraHeader", "X-Secret: hunter2")
            url = f"http://me:hunter2@127.0.0.1:{server.server_address[1]}/repo.git"
            with Remote.resolve(at.repo, url, env=at.env) as remote:
                assert list(remote.list(["refs/"])) == ["refs/releases/v9"]
                for operation in (
                    lambda: remote.push(at.repo, {V1: one}),
                    lambda: at.pull(remote, [ObjectId("1" * 40)]),
                ):
                    with pytest.raises(RemoteError, match="307") as caught:
                        operation()
                    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
            server.shutdown()
            thread.join()
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.accept()
