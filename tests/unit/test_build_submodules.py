"""Submodules in gitrel.build.checkout: from the repository's own copies or their remotes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import Repo
from test_build_checkout import checked_out, files, make, with_lfs

from gitrel.build.checkout import check_out, resolve_url
from gitrel.errors import BuildFailed
from gitrel.ids import ObjectId


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "room"


def allow_file_urls(repo: Repo) -> None:
    """Submodules at local paths, which git forbids by default (CVE-2022-39253)."""
    repo.git("config", "--global", "protocol.file.allow", "always")


def with_submodules(tmp_path: Path) -> Repo:
    """A repository with `lib`, which has `lib/inner`; both by relative URL."""
    inner, lib, top = (make(tmp_path / name) for name in ("inner", "lib", "top"))
    allow_file_urls(top)
    inner.write("deep.txt", "deep\n")
    inner.commit("inner")
    lib.write("lib.txt", "lib\n")
    lib.git("submodule", "--quiet", "add", "../inner", "inner")
    lib.commit("lib")
    top.write("top.txt", "top\n")
    top.git("submodule", "--quiet", "add", "../lib", "vendor/lib")
    top.git("submodule", "--quiet", "update", "--init", "--recursive")
    top.commit("top")
    return top


SUBMODULE_FILES = {"top.txt": "top\n", "vendor/lib/lib.txt": "lib\n", "vendor/lib/inner/deep.txt": "deep\n"}


def without_gitmodules(folder: Path) -> dict[str, str]:
    return {name: text for name, text in files(folder).items() if Path(name).name != ".gitmodules"}


def test_submodules_come_from_the_repositorys_own_copies(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = with_submodules(tmp_path)
    for name in ("lib", "inner"):
        (tmp_path / name).rename(tmp_path / f"{name}-gone")  # their remotes are out of reach
    folder = checked_out(top, room)
    assert without_gitmodules(folder) == SUBMODULE_FILES


def test_submodules_without_a_work_tree_still_come_from_the_copies(tmp_path: Path, room: Path) -> None:
    top = with_submodules(tmp_path)
    top.git("submodule", "--quiet", "deinit", "--all", "--force")
    (tmp_path / "lib").rename(tmp_path / "lib-gone")
    assert without_gitmodules(checked_out(top, room)) == SUBMODULE_FILES


def test_submodules_of_a_plain_clone_are_fetched(tmp_path: Path, room: Path) -> None:
    """Relative URLs are relative to the clone's remote; nothing is written into the clone's configuration."""
    with_submodules(tmp_path)
    (tmp_path / "far").mkdir()
    top = Repo(tmp_path / "far/clone")
    subprocess.run(["git", "clone", "-q", tmp_path / "top", top.path], check=True)
    assert without_gitmodules(checked_out(top, room)) == SUBMODULE_FILES


def test_submodules_of_a_bare_clone_are_fetched(tmp_path: Path, room: Path) -> None:
    with_submodules(tmp_path)
    bare = Repo(tmp_path / "far.git")
    subprocess.run(["git", "clone", "-q", "--bare", tmp_path / "top", bare.path], check=True)
    assert without_gitmodules(checked_out(bare, room)) == SUBMODULE_FILES


def test_a_relative_submodule_url_of_a_repository_without_a_remote(tmp_path: Path, room: Path) -> None:
    """Git resolves it from the repository's own folder, which is not the one that the checkout is in."""
    top = with_submodules(tmp_path)
    (top.path / ".git/modules").rename(tmp_path / "aside")
    assert without_gitmodules(checked_out(top, room)) == SUBMODULE_FILES


def test_a_copy_without_the_commit_is_only_a_reference(tmp_path: Path, room: Path) -> None:
    top = with_submodules(tmp_path)
    clone = Repo(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", "--recurse-submodules", tmp_path / "top", clone.path], check=True)
    lib = Repo(tmp_path / "lib")
    lib.write("lib.txt", "newer\n")
    lib.commit("newer")
    top.git("-C", "vendor/lib", "pull", "-q")
    top.commit("newer lib")
    clone.git("pull", "-q", "--no-recurse-submodules")
    folder = checked_out(clone, room)
    assert without_gitmodules(folder) == SUBMODULE_FILES | {"vendor/lib/lib.txt": "newer\n"}


def test_a_commit_that_no_branch_leads_to_is_asked_for(tmp_path: Path, room: Path) -> None:
    top = with_submodules(tmp_path)
    lib = Repo(tmp_path / "lib")
    lib.git("checkout", "-q", "-b", "side")
    lib.write("lib.txt", "side\n")
    side = lib.commit("side")
    top.git("-C", "vendor/lib", "fetch", "-q")
    top.git("-C", "vendor/lib", "checkout", "-q", side)
    top.commit("side")
    lib.git("checkout", "-q", "main")
    lib.git("branch", "-D", "side", "-q")
    (top.path / ".git/modules").rename(tmp_path / "aside")
    lib.git("config", "uploadpack.allowAnySHA1InWant", "true")
    assert (checked_out(top, room) / "vendor/lib/lib.txt").read_text() == "side\n"


def test_a_submodule_commit_that_was_never_pushed(tmp_path: Path, room: Path) -> None:
    top = with_submodules(tmp_path)
    inside = Repo(top.path / "vendor/lib")
    inside.write("lib.txt", "mine\n")
    commit = inside.commit("mine")
    top.commit("mine")
    (top.path / ".git/modules").rename(tmp_path / "aside")
    with pytest.raises(BuildFailed, match=f"does not have commit {commit}") as caught:
        checked_out(top, room)
    assert "push" in caught.value.hint


def test_a_submodule_out_of_reach_fails_with_gits_words_and_without_the_password(tmp_path: Path, room: Path) -> None:
    top = with_submodules(tmp_path)
    url = "https://alice:hunter2@127.0.0.1:1/lib.git"
    top.git("config", "-f", ".gitmodules", "submodule.vendor/lib.url", url)
    top.git("config", "--unset", "submodule.vendor/lib.url")
    top.commit("moved")
    (top.path / ".git/modules").rename(tmp_path / "aside")
    with pytest.raises(BuildFailed, match="cannot be fetched") as caught:
        checked_out(top, room)
    assert "127.0.0.1" in caught.value.why
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


def test_local_submodule_urls_are_forbidden_as_git_forbids_them(tmp_path: Path, room: Path, home: Path) -> None:
    top = with_submodules(tmp_path)
    (top.path / ".git/modules").rename(tmp_path / "aside")
    subprocess.run(["git", "config", "--global", "--unset", "protocol.file.allow"], check=True)
    with pytest.raises(BuildFailed, match="transport 'file' not allowed"):
        checked_out(top, room)


def test_a_link_that_gitmodules_does_not_name(repo: Repo, room: Path) -> None:
    commit = repo.git("rev-parse", "HEAD")
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{commit},stray")
    repo.git("commit", "-q", "-m", "stray")
    with pytest.raises(BuildFailed, match="stray: a submodule without"):
        checked_out(repo, room)


def test_a_submodules_name_that_climbs_is_refused(repo: Repo, room: Path) -> None:
    commit = repo.git("rev-parse", "HEAD")
    repo.write(".gitmodules", '[submodule "../../x"]\n\tpath = sub\n\turl = ./sub\n')
    repo.git("add", ".gitmodules")
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    repo.git("commit", "-q", "-m", "climb")
    with pytest.raises(BuildFailed, match="name that git refuses"):
        checked_out(repo, room)


def test_a_submodule_with_update_none_is_skipped_and_said(tmp_path: Path, room: Path) -> None:
    top = with_submodules(tmp_path)
    top.git("config", "-f", ".gitmodules", "submodule.vendor/lib.update", "none")
    commit = ObjectId(top.commit("none"))
    room.mkdir()
    checkout = check_out(top.path, commit, room, env=os.environ, say=print)
    assert checkout.skipped == ("vendor/lib",)
    assert without_gitmodules(checkout.folder) == {"top.txt": "top\n"}


def test_lfs_in_a_submodule(tmp_path: Path, room: Path) -> None:
    with_lfs(tmp_path)
    top = make(tmp_path / "top")
    allow_file_urls(top)
    top.git("lfs", "install", "--skip-repo")
    top.git("submodule", "--quiet", "add", "../large", "sub")
    top.commit("sub")
    assert (checked_out(top, room) / "sub/data.bin").read_text() == "the content\n"


# URLs


@pytest.mark.parametrize(
    "base",
    [
        "https://example.org/group/top.git",
        "https://example.org/group/top/",
        "ssh://git@example.org:22/group/top.git",
        "git@example.org:group/top.git",
        "git@example.org:top.git",
        "/srv/git/group/top.git",
        "file:///srv/git/top.git",
    ],
)
@pytest.mark.parametrize(
    "url", ["../lib.git", "./lib.git", "../lib/", "./../lib", "https://other.example/x.git", "/abs"]
)
def test_relative_urls_resolve_as_git_resolves_them(repo: Repo, base: str, url: str) -> None:
    repo.git("remote", "add", "origin", base)
    repo.write(".gitmodules", f'[submodule "s"]\n\tpath = s\n\turl = {url}\n')
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{repo.git('rev-parse', 'HEAD')},s")
    repo.git("submodule", "--quiet", "init")
    assert resolve_url(base, url) == repo.git("config", "submodule.s.url")


def test_a_relative_url_that_leads_nowhere() -> None:
    with pytest.raises(BuildFailed, match="leads nowhere"):
        resolve_url("host:top", "../../../lib")
