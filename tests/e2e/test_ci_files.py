"""The CI files of docs/ci, run as their hosts run them, command by command, against a git server with accounts; people
set trust up and approve with the commands of docs/ci.md. All of it is one ledger's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from apps import sealed
from conftest import Person, program
from room import ROOT, Desk, Room, run
from servers import Servers, servers

from gitrel import __version__

__all__ = ["servers"]  # a fixture

DOCS = Path(__file__).parents[2] / "docs"
TOKEN = "t0ken"
INSTALLING = re.compile(rf"apt-get update .*|pip install (-q )?gitrel=={re.escape(__version__)}")  # it is there already


def read(name: str) -> dict[Any, Any]:
    found = yaml.safe_load((DOCS / "ci" / name).read_text())
    assert isinstance(found, dict)
    return found


class Setting:
    """alice with the app, bob, and a host, which takes pushes to its `ci-files.git` from who has the token."""

    name = "ci-files"

    def __init__(self, room: Room, servers: Servers) -> None:
        self.room, self.servers = room, servers
        self.remote = servers.create(self.name)
        with (servers.folder / "htpasswd").open("a") as accounts:
            accounts.write(f"x-access-token:{{PLAIN}}{TOKEN}\ngitrel:{{PLAIN}}{TOKEN}\n")
        alice = room.desk(remote=False)
        alice.git("remote", "add", "origin", str(self.remote))
        self.alice = Desk(path=alice.path, env={**alice.env, "PATH": self._path()}, remote=self.remote)
        self.pin = str(self.alice.gitrel("init", "--person", "alice", "--json").json["pin"])
        self.alice.gitrel("trust", "add", "bob", f"{room.people['bob'].path}.pub", "--yes")
        once, self.each_time = re.findall(r"^```sh\n(.*?)^```$", (DOCS / "ci.md").read_text(), re.M | re.S)
        self.shell(once, self.alice.path, self.alice.env)
        self.key = (self.alice.path / "ci").read_text()
        (self.alice.path / "ci").unlink()
        (self.alice.path / "ci.pub").unlink()
        self.releases = 0

    def commit(self) -> str:
        """A new one, on the host's main branch."""
        self.releases += 1
        self.alice.write("text", f"{self.releases}\n")
        made = self.alice.commit()
        self.alice.git("push", "-q", "origin", "HEAD:main")
        return made

    def _path(self) -> str:
        folder = self.room.folder / "bin"
        folder.mkdir()
        (folder / "gitrel").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m gitrel "$@"\n')
        (folder / "python").symlink_to(sys.executable)
        (folder / "gitrel").chmod(0o755)
        return f"{folder}:{self.room.env['PATH']}"

    def shell(self, script: str, cwd: Path, env: Mapping[str, str]) -> str:
        done = run([program("bash"), "--noprofile", "--norc", "-eo", "pipefail", "-c", script], cwd, env)
        assert done.code == 0, f"{script}\n{done.out}{done.err}"
        for secret in (TOKEN, self.key if hasattr(self, "key") else "BEGIN OPENSSH"):
            assert secret not in done.out + done.err
        return done.out

    def machine(self, folder: str) -> tuple[Path, dict[str, str]]:
        """A job's: a new HOME, a fresh clone, nobody's key."""
        env = self.servers.env({**self.room.machine("mallory"), "PATH": self.alice.env["PATH"]})
        for path in (Path(env["HOME"]) / ".ssh").iterdir():
            path.unlink()
        env["GIT_CONFIG_GLOBAL"] = str(Path(env["HOME"]) / ".gitconfig")
        path = self.room.folder / folder
        assert run(["git", "clone", "-q", str(self.remote), str(path)], self.room.folder, env).code == 0
        return path, env

    @property
    def site(self) -> str:
        return f"https://127.0.0.1:{self.servers.ports['https']}"

    def approved(self, commit: str) -> None:
        """The newest release is of that commit, waits for a person, and runs once one has signed it."""
        name, before = f"v{self.releases}", f"v{self.releases - 1}"
        path = self.room.folder / f"bob-{name}"
        bob = {**self.room.machine("bob"), "PATH": self.alice.env["PATH"]}
        assert run(["git", "clone", "-q", str(self.remote), str(path)], self.room.folder, bob).code == 0
        desk = Desk(path=path, env=bob, remote=self.remote)
        desk.gitrel("init", "--trust", self.pin)
        assert f"{name}  pending  " in desk.gitrel("verify", name).out
        # In a shell that people type into: `show` ends with 10 where what it shows is pending.
        typed = "set +e\n" + self.each_time.replace("v7", name).replace("v6", before)
        self.shell(typed if self.releases > 1 else re.sub("gitrel diff .*", "", typed), path, bob)
        assert f"{name}  good  " in desk.gitrel("verify", name).out
        assert f"Promoted-From: staging {name} " in desk.git("log", "-1", "--format=%B", f"refs/releases/{name}")
        build = f"refs/releases/{name}^{2 if self.releases > 1 else 1}"
        assert f"Source: {commit}" in desk.git("log", "-1", "--format=%B", build)


@pytest.fixture(scope="module")
def setting(people: dict[str, Person], servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("ci")
    env = {**sealed(folder), "PYTHONPATH": str(ROOT)}
    return Setting(Room(folder=folder, env=env, people=people), servers)


def expression(text: str, known: Mapping[str, str]) -> str:
    """GitHub's `${{ … }}`; one that is not known fails."""
    return re.sub(r"\$\{\{ ([a-z_A-Z.]+) \}\}", lambda match: known[match[1]], text)


def test_github_actions(setting: Setting) -> None:
    file, commit = read("github-actions.yml"), setting.commit()
    assert (file["permissions"], file[True]) == ({}, {"push": {"branches": ["main"]}}), "`on` is true in YAML 1.1"
    known = {"secrets.GITREL_KEY": setting.key.rstrip("\n"), "github.token": TOKEN, "vars.GITREL_PIN": setting.pin}
    for name, job in file["jobs"].items():
        assert job["permissions"] == {"contents": "write"}
        assert job["environment"] == name, "its secret is the environment's"
        path, env = setting.machine(f"github-{name}")
        (path.parent / f"{name}-temp").mkdir()
        env |= {
            "GITHUB_SHA": commit,
            "GITHUB_REF_NAME": "main",
            "GITHUB_RUN_ID": "77",
            "GITHUB_SERVER_URL": setting.site,
            "GITHUB_REPOSITORY": setting.name,
            "RUNNER_TEMP": str(path.parent / f"{name}-temp"),
            "GITHUB_OUTPUT": str(path.parent / f"{name}-output"),
        }
        outer = {**file["env"], **job.get("env", {})}
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/(checkout|setup-python)@[0-9a-f]{40}", step["uses"])
                continue
            own = {key: expression(value, known) for key, value in {**outer, **step.get("env", {})}.items()}
            if not INSTALLING.fullmatch(step["run"]):
                assert "${{" not in step["run"], "what comes from outside comes as a variable, not as a script"
                setting.shell(step["run"], path, {**env, **own})
        key = path.parent / f"{name}-temp/gitrel-key"
        assert key.stat().st_mode & 0o777 == 0o600
        outputs = Path(env["GITHUB_OUTPUT"])
        if "outputs" in job:
            steps = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
            known |= {f"steps.release.outputs.{key}": value for key, value in steps.items()}
            made = {key: expression(value, known) for key, value in job["outputs"].items()}
            known |= {f"needs.{name}.outputs.{key}": value for key, value in made.items()}
    setting.approved(commit)


def test_gitlab_ci(setting: Setting) -> None:
    file, commit = read("gitlab-ci.yml"), setting.commit()
    key = setting.room.folder / "GITREL_KEY"
    key.write_text(setting.key)
    key.chmod(0o666)  # as a variable of type File is
    handed: dict[str, str] = {}
    for name in file["stages"]:
        path, env = setting.machine(f"gitlab-{name}")
        env |= {
            "CI_COMMIT_SHA": commit,
            "CI_COMMIT_REF_NAME": "main",
            "CI_PIPELINE_ID": "78",
            "CI_SERVER_HOST": "gitlab.example.com",
            "CI_PROJECT_URL": f"{setting.site}/{setting.name}",
            "GITREL_PIN": setting.pin,
            "GITREL_KEY": str(key),
            "GITREL_TOKEN": TOKEN,
            **handed,
        }
        lines = [*file["default"]["before_script"], *file[name]["script"]]
        kept = [line for line in lines if not INSTALLING.fullmatch(line)]
        assert len(lines) - len(kept) == 2
        setting.shell("\n".join(["trap 'ssh-agent -k >&2' EXIT", *kept]), path, env)
        if "artifacts" in file[name]:
            report = path / file[name]["artifacts"]["reports"]["dotenv"]
            handed |= dict(line.split("=", 1) for line in report.read_text().splitlines())
    assert file["production"]["when"] == "manual"
    setting.approved(commit)
