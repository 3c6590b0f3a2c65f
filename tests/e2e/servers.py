"""Real git servers on loopback, one folder of repositories behind all of them.

    from servers import TRANSPORTS, Servers, servers   # `servers` is a fixture of the session

    bare = servers.create("shop")                 # a bare repository, by stock git
    url = servers.url("ssh", "shop")
    env = servers.env(os.environ)                 # what gitrel and git need to reach them all

sshd with its own host key and one client key, `git daemon`, and nginx with fcgiwrap and `git http-backend`: http
with basic authentication, https with a CA of its own. They need nothing of HOME and end with the session. `Work` is the
other side: commits to push and a home to fetch into. The user's shell, which sshd starts, gets another HOME: bash would
read its .bashrc there. And the handshake is the quickest that there is.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import program

from gitrel.ids import ObjectId
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import Fetched, Limits, Remote
from gitrel.store.repository import Repository

TRANSPORTS = ("path", "file", "git", "ssh", "scp", "http", "https")
USER, PASSWORD = "deployer", "s3cret/p@ss"
_URL_PASSWORD = "s3cret%2Fp%40ss"
_HTTP_BACKEND = "/usr/lib/git-core/git-http-backend"
_PATIENCE = 20  # seconds for a server to come up

_PERSON = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Test"), ("EMAIL", "test@example.org"), ("DATE", "1700000000 +0000"))
}

_SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AcceptEnv GIT_PROTOCOL
SetEnv GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 HOME={folder}
KexAlgorithms curve25519-sha256
MaxStartups 100
LogLevel ERROR
"""

_SSH_CONFIG = """\
Host loopback 127.0.0.1
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/client_key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
    KexAlgorithms curve25519-sha256
"""

_NGINX_CONFIG = """\
daemon off;
{user}
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        ssl_certificate {folder}/tls.pem;
        ssl_certificate_key {folder}/tls.key;
        auth_basic git;
        auth_basic_user_file {folder}/htpasswd;
        location / {{
            include {folder}/backend;
            fastcgi_param GIT_PROTOCOL $http_git_protocol;
            fastcgi_param PATH_INFO $uri;
        }}
        location ~ ^/v0(/.*)$ {{
            include {folder}/backend;
            fastcgi_param GIT_PROTOCOL "";
            fastcgi_param PATH_INFO $1;
        }}
    }}
}}
"""

_BACKEND = """\
fastcgi_pass unix:{folder}/fcgi.sock;
fastcgi_param SCRIPT_FILENAME {backend};
fastcgi_param GIT_PROJECT_ROOT {root};
fastcgi_param GIT_HTTP_EXPORT_ALL "";
fastcgi_param GIT_CONFIG_GLOBAL /dev/null;
fastcgi_param QUERY_STRING $query_string;
fastcgi_param REQUEST_METHOD $request_method;
fastcgi_param CONTENT_TYPE $content_type;
fastcgi_param CONTENT_LENGTH $content_length;
fastcgi_param REMOTE_USER $remote_user;
fastcgi_param REMOTE_ADDR $remote_addr;
fastcgi_read_timeout 120s;
"""

# A git, and an ssh, that pass no GIT_PROTOCOL on: what they start speaks version 0, as before git 2.18.
_OLD_GIT = """\
#!/bin/sh
unset GIT_PROTOCOL GIT_EXEC_PATH
exec {git} "$@"
"""
_OLD_SSH = """\
#!/bin/sh
unset GIT_PROTOCOL
exec {ssh} -F {folder}/ssh_config "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The running servers. `root` has the repositories, `folder` the servers' own files."""

    root: Path
    folder: Path
    ports: Mapping[str, int]

    def create(self, name: str, *, object_format: str = "sha1") -> Path:
        """An empty bare repository `name`.git that may be written to by every transport."""
        path = self.root / f"{name}.git"
        _git(self.root, "init", "-q", "--bare", "-b", "main", f"--object-format={object_format}", str(path))
        return path

    def url(self, transport: str, name: str, version: int = 2) -> str:
        """`version` 0: of a server that speaks no newer protocol; `env` has to be told the same."""
        user = pwd.getpwuid(os.getuid()).pw_name
        path, web = f"{self.root}/{name}.git", f"{name}.git" if version else f"v0/{name}.git"
        daemon = self.ports["git" if version else "git-v0"]
        return {
            "path": path,
            "file": f"file://{path}",
            "git": f"git://127.0.0.1:{daemon}/{name}.git",
            "ssh": f"ssh://{user}@127.0.0.1:{self.ports['ssh']}{path}",
            "scp": f"loopback:{path}",
            "http": f"http://{USER}:{_URL_PASSWORD}@127.0.0.1:{self.ports['http']}/{web}",
            "https": f"https://{USER}:{_URL_PASSWORD}@127.0.0.1:{self.ports['https']}/{web}",
        }[transport]

    def env(self, base: Mapping[str, str], version: int = 2) -> dict[str, str]:
        """`base` with what ssh and TLS need; nothing of the host's own keys and hosts is used."""
        old = f"{self.folder}/old"
        ssh = (
            {"GIT_SSH": f"{old}/ssh", "PATH": f"{old}:{base['PATH']}"}
            if version == 0
            else {"GIT_SSH_COMMAND": f"ssh -F {self.folder}/ssh_config"}
        )
        return {**base, **ssh, "GIT_SSL_CAINFO": str(self.folder / "tls.pem"), "no_proxy": "127.0.0.1"}


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """All of them, started on first use."""
    folder = tmp_path_factory.mktemp("servers")
    with start_servers(folder) as running:
        yield running


@contextlib.contextmanager
def start_servers(folder: Path) -> Iterator[Servers]:
    """The same without pytest, in an empty folder."""
    root = folder / "repositories"
    root.mkdir()
    ports = {name: free_port() for name in ("ssh", "git", "git-v0", "http", "https")}
    running = Servers(root=root, folder=folder, ports=ports)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_process(_sshd(folder, ports["ssh"]), folder))
        stack.enter_context(_process(_git_daemon(root, ports["git"]), folder))
        _write_old_programs(folder)
        old_git = {"PATH": f"{folder}/old:{os.environ['PATH']}"}  # where the daemon finds the git that it starts
        stack.enter_context(_process(_git_daemon(root, ports["git-v0"]), folder, old_git))
        stack.enter_context(_process(_fcgiwrap(folder), folder))
        stack.enter_context(_process(_nginx(folder, root, ports), folder))
        for port in ports.values():
            _await_port(port)
        yield running


def _sshd(folder: Path, port: int) -> list[str]:
    for name in ("host_key", "client_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name))
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    user = pwd.getpwuid(os.getuid()).pw_name
    (folder / "ssh_config").write_text(_SSH_CONFIG.format(folder=folder, port=port, user=user))
    (folder / "sshd_config").write_text(_SSHD_CONFIG.format(folder=folder, port=port))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's empty folder, compiled in
    return [program("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")]


def _git_daemon(root: Path, port: int) -> list[str]:
    where = ["--listen=127.0.0.1", f"--port={port}", f"--base-path={root}"]
    daemon = f"{_git(root, '--exec-path').strip()}/git-daemon"
    return [daemon, "--export-all", "--enable=receive-pack", "--reuseaddr", *where]


def _write_old_programs(folder: Path) -> None:
    (folder / "old").mkdir()
    for name, text in (
        ("git", _OLD_GIT.format(git=program("git"))),
        ("ssh", _OLD_SSH.format(ssh=program("ssh"), folder=folder)),
    ):
        (folder / "old" / name).write_text(text)
        (folder / "old" / name).chmod(0o755)


def _fcgiwrap(folder: Path) -> list[str]:
    return [program("fcgiwrap"), "-c", "8", "-s", f"unix:{folder}/fcgi.sock"]


def _nginx(folder: Path, root: Path, ports: Mapping[str, int]) -> list[str]:
    days = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    out = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.pem")]
    _run("openssl", "req", "-x509", *key, *out, *days)
    (folder / "htpasswd").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    user = "user root;" if os.getuid() == 0 else ""
    http, https = ports["http"], ports["https"]
    text = _NGINX_CONFIG.format(folder=folder, user=user, http=http, https=https)
    (folder / "backend").write_text(_BACKEND.format(folder=folder, root=root, backend=_HTTP_BACKEND))
    (folder / "nginx.conf").write_text(text)
    return [program("nginx"), "-p", str(folder), "-e", str(folder / "nginx.log"), "-c", str(folder / "nginx.conf")]


@contextlib.contextmanager
def _process(argv: list[str], folder: Path, more: Mapping[str, str] | None = None) -> Iterator[None]:
    env = {
        "PATH": f"{os.environ['PATH']}:/usr/sbin",
        "HOME": str(folder),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **(more or {}),
    }
    with (folder / f"{Path(argv[0]).name}.out").open("wb") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, process_group=0)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # fcgiwrap leaves its workers behind


@contextlib.contextmanager
def serving(argv: list[str], folder: Path, port: int) -> Iterator[None]:
    """One more server, from when its port is open."""
    with _process(argv, folder):
        _await_port(port)
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # nothing tells when a port is open
        else:
            return


def _git(folder: Path, *args: str) -> str:
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, text=True, env=env).stdout


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


class Work:
    """A working repository with commits to push, and a home to fetch into."""

    def __init__(self, folder: Path, env: dict[str, str], object_format: str = "sha1") -> None:
        self.folder = folder
        self.env = env
        self.source = folder / "source"
        self.source.mkdir(parents=True)
        self.git("init", "-q", f"--object-format={object_format}")
        self.repo = Repository.open(self.source)
        self.home = Repository.init_bare(folder / "home.git", self.repo.format)

    def git(self, *args: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *args],
            cwd=folder or self.source,
            env={**self.env, **_PERSON},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, name: str, text: str, *, files: int = 0) -> ObjectId:
        """A commit that changes one file; the first one may make many."""
        for number in range(files):
            (self.source / f"file{number}").write_text(f"{number} of {name}\n" * 20)
        (self.source / "changed").write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", name)
        return ObjectId(self.git("rev-parse", "HEAD"))

    def remote(self, url: str, limits: Limits | None = None, **env: str) -> Remote:
        return Remote.resolve(None, url, env={**self.env, **env}, limits=limits)

    def pull(
        self,
        remote: Remote,
        wants: list[ObjectId],
        *,
        haves: tuple[ObjectId, ...] = (),
        shallow: tuple[ObjectId, ...] = (),
        depth: int | None = None,
        filter_spec: str | None = None,
    ) -> Fetched:
        with Quarantine(self.home, self.folder / "quarantine") as quarantine:
            done = remote.fetch(quarantine, wants, haves=haves, shallow=shallow, depth=depth, filter_spec=filter_spec)
            for want in wants:
                assert want in quarantine.repository
            assert haves or not any(want in self.home for want in wants), "nothing is in the home before adopt"
            quarantine.adopt()
        assert list((self.folder / "quarantine").iterdir()) == []
        return done

    def fsck(self, **refs: ObjectId) -> None:
        """Stock git finds the home in order, with a ref on what was fetched."""
        for name, oid in refs.items():
            self.home.refs.create(f"refs/releases/{name}", oid)
        assert self.git("fsck", "--strict", "--no-dangling", "--full", folder=self.home.path) == ""

    def close(self) -> None:
        self.repo.close()
        self.home.close()


@pytest.fixture
def work(tmp_path: Path, servers: Servers) -> Iterator[Callable[..., Work]]:
    made: list[Work] = []

    def make(object_format: str = "sha1", name: str = "work", version: int = 2) -> Work:
        made.append(Work(tmp_path / name, servers.env(os.environ, version), object_format))
        return made[-1]

    yield make
    for each in made:
        each.close()
