"""What gitrel.build.checkout asks a repository: which commit, which remote, what is not committed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Repo
from test_build_checkout import make

from gitrel.build.checkout import dirty_paths, remote_url, resolve_commit
from gitrel.errors import BuildFailed, NotFound


@pytest.mark.parametrize("rev", ["HEAD", "main", "v1", "refs/heads/main", "HEAD^0", ":/first"])
def test_a_revision_in_any_spelling(repo: Repo, rev: str) -> None:
    repo.git("tag", "-m", "a tag is peeled", "v1")
    assert resolve_commit(repo.path, rev, env=os.environ) == repo.git("rev-parse", "HEAD")


@pytest.mark.parametrize(
    "rev", ["nope", "", "--all", "-h", "HEAD..HEAD", "HEAD^{tree}", "HEAD:app.py", "a\0b", "f" * 40]
)
def test_what_is_no_commit(repo: Repo, rev: str) -> None:
    with pytest.raises(NotFound, match="no commit"):
        resolve_commit(repo.path, rev, env=os.environ)


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no commit yet"):
        resolve_commit(make(tmp_path / "empty").path, "HEAD", env=os.environ)


@pytest.mark.parametrize("name", [".", "missing"])
def test_what_is_no_repository(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound, match="not a git repository") as caught:
        resolve_commit(tmp_path / name, "HEAD", env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)})
    assert "--repo" in caught.value.hint


def test_no_git_in_path(repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="git is not installed") as caught:
        resolve_commit(repo.path, "HEAD", env={"PATH": str(tmp_path)})
    assert "install git" in caught.value.hint


def test_dirty_paths(repo: Repo) -> None:
    assert dirty_paths(repo.path, env=os.environ) == []
    repo.write("app.py", "changed\n")
    repo.write("a new file", "new\n")
    repo.git("mv", "Procfile", "Procfile.old")
    assert sorted(dirty_paths(repo.path, env=os.environ)) == [
        "Procfile",
        "Procfile.old",
        "a new file",
        "app.py",
    ]
    assert len(dirty_paths(repo.path, env=os.environ, limit=2)) == 2


def test_dirty_paths_of_a_bare_repository(repo: Repo, tmp_path: Path) -> None:
    repo.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    assert dirty_paths(tmp_path / "bare.git", env=os.environ) == []


def test_the_remote_of_the_branch_then_origin_then_the_only_one(repo: Repo) -> None:
    assert remote_url(repo.path, env=os.environ) is None
    repo.git("remote", "add", "upstream", "https://example.org/up.git")
    assert remote_url(repo.path, env=os.environ) == "https://example.org/up.git"
    repo.git("remote", "add", "fork", "https://example.org/fork.git")
    assert remote_url(repo.path, env=os.environ) is None
    repo.git("remote", "add", "origin", "https://example.org/origin.git")
    assert remote_url(repo.path, env=os.environ) == "https://example.org/origin.git"
    repo.git("config", "branch.main.remote", "fork")
    assert remote_url(repo.path, env=os.environ) == "https://example.org/fork.git"
