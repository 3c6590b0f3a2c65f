"""`gitrel exec`: one process, its exact environment, and a checkout that is what was signed, whatever befell it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from apps import PYTHON, Host, Shop, farm, host, shop

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

_SHOW = """\
import json, os, signal, sys

print(json.dumps({
    "pid": os.getpid(),
    "args": sys.argv[1:],
    "env": dict(os.environ),
    "cwd": os.getcwd(),
    "umask": os.umask(0),
    "ignored": sorted(int(each) for each in signal.valid_signals() if signal.getsignal(each) is signal.SIG_IGN),
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
}))
"""


@pytest.fixture
def server(shop: Shops, host: Hosts) -> Host:
    """v1 of an app that shows what it was given."""
    dev = shop(0)
    desk = dev.desk
    desk.write("show.py", _SHOW)
    desk.write("tools/run.sh", "#!/bin/sh\necho tool\n", 0o755)
    desk.write(
        "Procfile",
        f"web: {PYTHON} show.py --one 'two words'\nself: exec {PYTHON} show.py\nnext: A=1 {PYTHON} show.py | cat\n"
        "worker: cat text tools/run.sh && tools/run.sh\n",
    )
    desk.manifest(
        '[run.web.env]\nPYTHONPATH = "vendor"\nLANG = "C.UTF8"\nCOLOUR = "red"\n[run.self.health]\nnotify = true\n'
    )
    desk.gitrel("config", "set", "COLOUR=green", "HOME=/nowhere", "PORT=1")
    dev.release()
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    shutil.rmtree(dev.url)  # from here on everything works without the remote
    return server


def test_it_becomes_the_process_with_exactly_this_environment(server: Host) -> None:
    noise = {
        "AWS_SECRET_ACCESS_KEY": "x",
        "SSH_AUTH_SOCK": "/x",
        "PYTHONSTARTUP": "/x",
        "LD_PRELOAD": "",
        "LC_ALL": "C",
    }
    child = subprocess.Popen(
        server.argv("exec", "web", "--home", str(server.path), "--port", "7000", "--", "--three", "$HOME; 'x"),
        env={**server.env, **noise},
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    output, _ = child.communicate(timeout=60)
    shown = json.loads(output)
    assert shown["pid"] == child.pid
    assert shown["args"] == ["--one", "two words", "--three", "$HOME; 'x"]
    assert shown["cwd"] == str(server.checkout("v1"))
    assert shown["open"] == [0, 1, 2]
    user = pwd.getpwuid(os.getuid()).pw_name
    source = shown["env"].pop("GITREL_SOURCE")
    assert len(source) == 40
    shell = {name: shown["env"].pop(name) for name in ("PWD", "OLDPWD", "SHLVL", "_") if name in shown["env"]}
    assert shell.get("PWD", shown["cwd"]) == shown["cwd"]
    assert shown["env"] == {
        # the base
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        "TMPDIR": "/tmp",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # what the manifest adds
        "PYTHONPATH": "vendor",
        "LANG": "C.UTF8",
        # the release's config, which is stronger
        "COLOUR": "green",
        "HOME": "/nowhere",
        # the platform, which is strongest
        "PORT": "7000",
        "GITREL_APP": "shop",
        "GITREL_DEPLOY": "production",
        "GITREL_RELEASE": "v1",
        "GITREL_PROCESS": "web.1",
        "GITREL_MARK": f"{server.path}:v1:web.1",
    }


@pytest.mark.parametrize(("kind", "port"), [("self", "5100"), ("next", "5200")])
def test_shell_words_before_the_program(kind: str, port: str, server: Host) -> None:
    shown = json.loads(server.gitrel("exec", kind).out)
    assert (shown["env"]["PORT"], shown["env"].get("A")) == (port, "1" if kind == "next" else None)


def test_one_of_several(server: Host) -> None:
    env = {"NOTIFY_SOCKET": "/nobody/asked"}
    shown = json.loads(server.gitrel("exec", "web.3", "--port", "7000", env=env).out)["env"]
    assert (shown["GITREL_PROCESS"], shown["PORT"], shown.get("NOTIFY_SOCKET")) == ("web.3", "7002", None)
    shown = json.loads(server.gitrel("exec", "self.2", env=env).out)["env"]
    assert (shown["GITREL_PROCESS"], shown["PORT"], shown["NOTIFY_SOCKET"]) == ("self.2", "5101", "/nobody/asked")
    for word in ("web.0", "web.", "web.01", "web.x"):
        assert server.gitrel("exec", word, code=2).message["what"] == "not a process such as web.2"


def test_what_is_not_there(server: Host) -> None:
    assert "web, self, next, worker" in server.gitrel("exec", "nothing", code=11).message["why"]
    shutil.move(server.path / "repo.git", server.path / "away")
    assert "repo.git" in server.gitrel("exec", "worker", code=11).message["where"]


def changed(folder: Path) -> None:
    (folder / "text").write_text("other\n")


def changed_in_place(folder: Path) -> None:
    """Same size, and the times set back."""
    before = (folder / "text").stat()
    (folder / "text").write_text("2\n")
    os.utime(folder / "text", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "text").chmod(0o444)


def added(folder: Path) -> None:
    (folder / "tools/sitecustomize.py").write_text("import evil\n")


def removed(folder: Path) -> None:
    (folder / "show.py").unlink()


def executable(folder: Path) -> None:
    (folder / "text").chmod(0o555)


def writable(folder: Path) -> None:
    (folder / "text").chmod(0o666)


def open_folder(folder: Path) -> None:
    (folder / "tools").chmod(0o777)


def linked(folder: Path) -> None:
    shutil.copy2(folder / "text", folder.parent / "outside")
    (folder / "text").unlink()
    (folder / "text").symlink_to(folder.parent / "outside")


def swapped(folder: Path) -> None:
    folder.rename(folder.with_name("mine"))
    folder.symlink_to("mine")


def fifo(folder: Path) -> None:
    (folder / "text").unlink()
    os.mkfifo(folder / "text")


def replaced_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def resealed(folder: Path) -> None:
    """Somebody who knows the seal cannot write a new one for other files: ids are compared with the signed ones."""
    seal = folder.with_name(f"{folder.name}.json")
    changed(folder)
    seal.unlink()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def test_a_checkout_that_was_tampered_with_is_repaired_before_anything_starts(server: Host) -> None:
    folder = server.checkout("v1")
    good = server.gitrel("exec", "worker").out
    assert good == "1\n#!/bin/sh\necho tool\ntool\n"
    clean = listing(folder)
    tampers = (
        changed, changed_in_place, added, removed, executable, writable, open_folder, linked, swapped, fifo,
        replaced_by_a_file, resealed, gone,
    )  # fmt: skip
    for tamper in tampers:
        tamper(folder)
        assert tamper in (resealed, gone) or listing(folder) != clean or tamper is swapped
        assert server.gitrel("exec", "worker").out == good, tamper.__name__
        assert listing(folder) == clean, tamper.__name__
        assert not folder.is_symlink()
    assert server.gitrel("exec", "worker").err == ""
    left = [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
    assert left == []


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    if not folder.is_dir():
        return {}
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        info = path.lstat()
        plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(folder))] = (info.st_mode, path.read_bytes() if plain else b"")
    return found


def test_without_objects_to_repair_it_from_nothing_starts(server: Host) -> None:
    folder = server.checkout("v1")
    (folder / "text").write_text("other\n")
    shutil.rmtree(server.path / "repo.git/objects/pack")
    failed = server.gitrel("exec", "worker", code=10)
    assert failed.out == ""
    assert (folder / "text").read_text() == "other\n", "evidence, and nothing half done"
