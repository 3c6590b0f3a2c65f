"""The sealed room: a test has its own HOME and git configuration, fixed keys, and nothing else of the host.

In CI (the variable `CI` is set) a skipped test is a failed test: what a test needs is installed by `.ci/run`.
"""

from __future__ import annotations

import base64
import compileall
import errno
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

IN_CI = bool(os.environ.get("CI"))

# What a test keeps of the host's environment: where programs are, and how pip reaches its index.
KEPT = ("PATH", "CI", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "TMPDIR", "VIRTUAL_ENV")
KEPT_PREFIXES = ("COVERAGE_", "HYPOTHESIS_", "PIP_", "PYTEST_")
KEPT_PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # in either case

FIXED_DATE = "1700000000 +0000"
GIT_CONFIG = """\
[user]
	name = Test Person
	email = test@example.org
[init]
	defaultBranch = main
[gc]
	auto = 0
[maintenance]
	auto = false
[advice]
	detachedHead = false
"""


# What a machine with only Python and git may lack; `.ci/run` installs all of it.
_OPTIONAL = """
    ab age age-keygen buildah chromium curl fcgiwrap fish git-lfs gitolite go groff kubectl ldd mount nginx node npm
    nsenter openssl ostree pkill setpriv skopeo ssh ssh-add ssh-agent ssh-keygen sshd strace systemctl
    systemd-analyze systemd-escape umoci umount unshare zsh
"""
OPTIONAL = frozenset(_OPTIONAL.split())


_NOT_FOUND = re.compile(
    r"cannot run ([\w-]+): No such file|\b([\w-]+): (?:command )?not found|git: '(lfs)' is not a git command"
)


def pytest_configure(config: pytest.Config) -> None:
    """A job in the background of a script ignores Ctrl-C, and what is ignored stays so in every child of it.

    The package is compiled once here: the many processes of a run would each do it again for themselves.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(__file__).parents[1] / "gitrel", quiet=2)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`: a third of a run is waiting, for servers, signals and clocks."""
    processors = len(os.sched_getaffinity(0))
    return processors + (processors + 1) // 2


def find_program(name: str) -> str | None:
    """Its path; sbin is not on every PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def program(name: str) -> str:
    """Its full path. A test that asks for one that is not there is skipped, but not in CI."""
    found = find_program(name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "not installed", name)
    return found


def missing_program(error: BaseException) -> str | None:
    """The program for want of which a test could not run; None if it failed for any other reason."""
    names = [Path(str(error.filename)).name] if isinstance(error, FileNotFoundError) else []
    names += [found[1] or found[2] or "git-lfs" for found in _NOT_FOUND.finditer(str(error))]
    return next((name for name in names if name in OPTIONAL and find_program(name) is None), None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    lacking = missing_program(call.excinfo.value) if call.excinfo is not None else None
    if lacking is not None and not IN_CI:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"needs {lacking}, which is not installed")
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):  # xfail_strict looks after those
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing is skipped in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module can skip itself, by importorskip for one."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing is skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test's HOME, with a `.gitconfig`; outside `tmp_path`, which stays empty for the test."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".gitconfig").write_text(GIT_CONFIG)
    for name in list(os.environ):
        if not (name in KEPT or name.startswith(KEPT_PREFIXES) or name.lower() in KEPT_PROXIES):
            monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(folder),
        "GIT_CONFIG_GLOBAL": str(folder / ".gitconfig"),
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "TZ": "UTC",
        "USER": "tester",
    }.items():
        monkeypatch.setenv(name, value)
    time.tzset()
    umask = os.umask(0o022)
    yield folder
    os.umask(umask)
    monkeypatch.undo()
    time.tzset()
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with an Ed25519 key, the same in every run. `path` is a file that ssh-keygen and git take."""

    name: str
    path: Path
    private: Ed25519PrivateKey
    blob: bytes
    """The public key as RFC 4253 (section 6.6) and RFC 8709 write it."""

    @property
    def public(self) -> str:
        """The line of an authorized_keys file, with the person's name as the comment."""
        return f"ssh-ed25519 {base64.b64encode(self.blob).decode()} {self.name}"


def ssh_string(data: bytes) -> bytes:
    """RFC 4251, section 5."""
    return len(data).to_bytes(4, "big") + data


def make_person(name: str, folder: Path) -> Person:
    """A key whose seed is the name.

    The file is written here because every other writer puts random bytes in it. Format: PROTOCOL.key in
    OpenSSH's sources.
    """
    seed = name.encode().ljust(32, b".")
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    blob = ssh_string(b"ssh-ed25519") + ssh_string(public)
    inner = b"same" + b"same" + blob + ssh_string(seed + public) + ssh_string(name.encode())
    inner += bytes(range(1, 1 + -len(inner) % 8))
    none = ssh_string(b"none") + ssh_string(b"none") + ssh_string(b"")
    text = base64.b64encode(b"openssh-key-v1\0" + none + b"\0\0\0\1" + ssh_string(blob) + ssh_string(inner)).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    path = folder / f"{name}_ed25519"
    path.write_text("\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""]))
    path.chmod(0o600)
    person = Person(name=name, path=path, private=private, blob=blob)
    path.with_name(f"{path.name}.pub").write_text(f"{person.public}\n")
    return person


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Person]:
    """alice, bob and ci, who are trusted in most tests, and mallory, who never is."""
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_person(name, folder) for name in ("alice", "bob", "ci", "mallory")}


@pytest.fixture
def keys(home: Path, people: dict[str, Person]) -> dict[str, Person]:
    """The same people, with alice at this machine: her key is `~/.ssh/id_ed25519`."""
    folder = home / ".ssh"
    folder.mkdir(mode=0o700)
    shutil.copy2(people["alice"].path, folder / "id_ed25519")
    shutil.copy2(f"{people['alice'].path}.pub", folder / "id_ed25519.pub")
    return people


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is made once, for many tests to copy."""
    return tmp_path_factory.mktemp("shelf")


class Git(Protocol):
    def __call__(self, folder: Path, *args: str, stdin: bytes = b"", date: str = FIXED_DATE) -> bytes: ...


def run_git(folder: Path, *args: str, stdin: bytes = b"", date: str = FIXED_DATE) -> bytes:
    """What stock git prints; its failure is the test's. Dates are fixed, so ids are too."""
    dated = {**os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    done = subprocess.run(["git", *args], cwd=folder, input=stdin, capture_output=True, env=dated, check=False)
    if done.returncode:
        raise AssertionError(f"git {' '.join(args)}: status {done.returncode}\n{done.stderr.decode()}")
    return done.stdout


@pytest.fixture
def git(home: Path) -> Git:
    """Stock git, in a folder."""
    return run_git


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository and stock git in it."""

    path: Path

    def git(self, *args: str, stdin: bytes = b"") -> str:
        return run_git(self.path, *args, stdin=stdin).decode().removesuffix("\n")

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit(self, message: str) -> str:
        """Everything in the folder as a commit; its id."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path: Path, keys: dict[str, Person]) -> Repo:
    """A source repository with one commit, the same id in every run, and alice's key to sign with."""
    folder = tmp_path / "source"
    folder.mkdir()
    repo = Repo(folder)
    repo.git("init", "-q")
    repo.write("Procfile", "web: python3 app.py\n")
    repo.write("app.py", "print('hello')\n")
    repo.commit("first")
    return repo
