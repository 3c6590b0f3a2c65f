"""`gitrel demo`: everything once, for real, in a scratch folder, in under half a minute.

Every step runs the command that a person would type, as a process of its own, in a HOME of its own; what the
demo shows is what those commands print and what the app answers over HTTP.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.errors import GitrelError, NotFound, Unhealthy
from gitrel.keys.private import write_new_key
from gitrel.store.removal import remove_folder

_WAIT = 20.0  # seconds for the running app to answer as expected

_APP = '''\
"""A web app of the standard library. `assets.json` is made by the build."""
import http.server, json, os

assets = json.load(open("assets.json"))


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = f"{os.environ['GITREL_RELEASE']}: {os.environ.get('GREETING', 'hello')} from {assets['text']}\\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
'''

_MAKE = '''\
"""The build: makes what the app needs and the source does not have."""
import hashlib, json

text = open("text.txt").read().strip()
json.dump({"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}, open("assets.json", "w"))
print("assets.json made")
'''

_MANIFEST = """\
app = "demo"

[build]
command = "{python} make.py"

[run.web]
health = {{ path = "/", timeout = "15s" }}
stop_timeout = "3s"
"""


class _Interruption:
    """The first signal ends the demo; cleaning up after it is not interrupted by a second one.

    While it is held, a signal waits: nobody would stop a process, or remove a folder, whose maker is interrupted
    before it can tell. Signals are handled to the end and never ignored, which a process started then would inherit
    (execve(2)): it could not be told to stop.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._held = self._came = False
        for number in self._SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: object) -> None:
        first, self._came = not self._came, True
        if first and not self._held:
            raise KeyboardInterrupt

    def hold(self) -> None:
        self._held = True

    def let_go(self) -> None:
        """Raises `KeyboardInterrupt` if a signal came meanwhile."""
        held, self._held = self._held, False
        if held and self._came:
            raise KeyboardInterrupt


class Demo:
    """One run of it in `folder`."""

    def __init__(self, console: Console, folder: Path, interruption: _Interruption) -> None:
        self._console = console
        self._interruption = interruption
        self._folder = folder
        self._home = folder / "server"
        self._port = _free_port()
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder / "me"),
            "TMPDIR": str(folder / "tmp"),  # where builds happen: it goes away with the rest
            "LANG": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(folder / "me" / ".gitconfig"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self) -> None:
        pin = self._prepare()
        self._step("a release: the commit is built in a clean checkout, signed, and pushed as refs/releases/v1")
        self._gitrel("release", "-m", "First light")
        self._step("a server: it knows a URL and the pin, nothing else; it fetches, verifies and checks out")
        self._gitrel("join", str(self._remote), str(self._home), "--trust", pin)
        self._gitrel("pull", "--home", str(self._home))
        self._step("the app runs, supervised, and answers")
        with self._server():
            self._expect("v1: hello from the first text")
            self._step("new code and new config make v2; the running server moves to it by itself")
            (self._source / "text.txt").write_text("the second text\n")
            self._git("commit", "-qam", "Second text")
            self._gitrel("config", "set", "GREETING=good morning")
            self._gitrel("release", "-m", "Second text")
            self._expect("v2: good morning from the second text")
            self._step("a rollback is a release too: v3 is v1's build and config, signed today")
            self._gitrel("rollback", "v1")
            self._expect("v3: hello from the first text")
        self._audit(pin)

    def _prepare(self) -> str:
        self._step(f"an app in a git repository, an SSH key, a remote; all in {self._folder}")
        (self._folder / "tmp").mkdir()
        (self._folder / "me" / ".ssh").mkdir(parents=True, mode=0o700)
        write_new_key(self._folder / "me" / ".ssh" / "id_ed25519", comment="demo")
        self._source.mkdir()
        for name, text in (
            ("app.py", _APP),
            ("make.py", _MAKE),
            ("text.txt", "the first text\n"),
            ("Procfile", f"web: exec {shlex.quote(sys.executable)} app.py\n"),
            (
                "gitrel.toml",
                _MANIFEST.format(python=shlex.quote(sys.executable).replace("\\", "\\\\").replace('"', '\\"')),
            ),
        ):
            (self._source / name).write_text(text)
        for args in (
            ("user.name", "Demo"),
            ("user.email", "demo@example.com"),
            ("init.defaultBranch", "main"),
        ):
            self._git("config", "--global", *args)
        self._git("init", "-q", "--bare", str(self._remote))
        self._git("init", "-q", ".")
        self._git("add", "-A")
        self._git("commit", "-qm", "First text")
        self._git("remote", "add", "origin", str(self._remote))
        self._step("trust v1: you hold every role; its SHA-256 is the pin that servers start from")
        return self._gitrel("init").rpartition("pin: ")[2].strip()

    def _audit(self, pin: str) -> None:
        self._step("the whole ledger is verified, every byte of every release; then once more by stock git alone")
        self._gitrel("verify", "--all", "--trust", pin)
        self._gitrel("log")
        self._git("fsck", "--strict", "--no-progress", folder=self._remote)
        if shutil.which("ssh-keygen") is None:
            self._console.out("    (git verify-commit is left out: it needs ssh-keygen, which is not here)")
            return
        signers = self._folder / "allowed_signers"
        signers.write_text(self._git("show", "refs/trust/v1:allowed_signers", folder=self._remote))
        for entry in ("v1", "v2", "v3"):
            self._git(
                "-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", f"refs/releases/{entry}",
                folder=self._remote,
            )  # fmt: skip
            self._console.out(f"    git verify-commit refs/releases/{entry}: good")

    @property
    def _source(self) -> Path:
        return self._folder / "demo"

    @property
    def _remote(self) -> Path:
        return self._folder / "remote.git"

    def _step(self, text: str) -> None:
        self._console.out(f"\n{text}")

    def _gitrel(self, *args: str) -> str:
        self._console.out(f"  $ gitrel {shlex.join(args)}")
        done = self._process([sys.executable, "-m", "gitrel", *args], self._source)
        for line in done.splitlines():
            self._console.out(f"    {line}")
        return done

    def _git(self, *args: str, folder: Path | None = None) -> str:
        return self._process(["git", *args], folder or self._source)

    def _process(self, argv: list[str], folder: Path) -> str:
        with self._started(argv, folder, subprocess.PIPE, self._env) as process:
            output, errors = process.communicate()
        if process.returncode != 0:
            why = errors.decode(errors="replace").strip()[-2000:]
            raise GitrelError(f"the demo's step failed: {shlex.join(argv[:6])}", why=why)
        return output.decode(errors="replace")

    @contextmanager
    def _started(
        self, argv: list[str], folder: Path, output: int, env: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A program in a session of its own, so that Ctrl-C reaches the demo alone; it has ended after the block."""
        self._interruption.hold()
        try:
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise NotFound(f"no {argv[0]} on this machine", hint="install git, e.g. `apt-get install git`") from None
        with process:
            try:
                self._interruption.let_go()
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()

    @contextmanager
    def _server(self) -> Iterator[None]:
        argv = ["run", "--home", str(self._home), "--follow", "--interval", "0.5"]
        self._console.out(f"  $ PORT={self._port} gitrel {shlex.join(argv)} &")
        env = {**self._env, "PORT": str(self._port)}
        log = self._folder / "server.log"
        argv = [sys.executable, "-m", "gitrel", *argv]
        with log.open("wb") as output, self._started(argv, self._folder, output.fileno(), env):
            try:
                yield
            except Unhealthy as error:
                error.why += "\n" + log.read_text(errors="replace")[-2000:]
                raise

    def _expect(self, text: str) -> None:
        """Wait until the app answers `text`. Raises `Unhealthy`."""
        url = f"http://127.0.0.1:{self._port}/"
        limit = time.monotonic() + _WAIT
        answer = "nothing"
        with selectors.DefaultSelector() as pause:
            while time.monotonic() < limit:
                try:
                    with urllib.request.urlopen(url, timeout=5) as response:
                        answer = response.read().decode().strip()
                except (urllib.error.URLError, OSError) as error:
                    answer = str(error)
                if answer == text:
                    self._console.out(f"  $ curl {url}\n    {answer}")
                    return
                pause.select(0.05)
        raise Unhealthy("the demo's app does not answer as it should", where=url, why=f"got {answer!r}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def demo(console: Console, keep: bool) -> None:
    """Raises `GitrelError` of whatever step fails; the scratch folder goes away unless `keep`."""
    began = time.monotonic()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # `gitrel demo | head` must not leave a server behind
    interruption = _Interruption()
    interruption.hold()
    folder = Path(tempfile.mkdtemp(prefix="gitrel-demo-"))
    try:
        interruption.let_go()
        Demo(console, folder, interruption).run()
    except BrokenPipeError:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        _leave(console, folder, keep)
        os.kill(os.getpid(), signal.SIGPIPE)  # what would have happened without a handler
    except BaseException:
        _leave(console, folder, keep)
        raise
    else:
        _leave(console, folder, keep)
    console.out(f"\nall of it worked, in {time.monotonic() - began:.1f} s")


def _leave(console: Console, folder: Path, keep: bool) -> None:
    if keep:
        console.note(f"\nleft in {folder}")
    else:
        remove_folder(folder)  # checkouts are read-only
