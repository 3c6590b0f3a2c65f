"""gitrel.build.checkout against real git: what a checkout holds, and that its repository never notices."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import Repo

from gitrel.build.checkout import LFS_POINTER, check_out, resolve_commit
from gitrel.errors import BuildFailed


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below `folder`, with its mode and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() or path.is_symlink():
            content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


def files(folder: Path) -> dict[str, str]:
    return {name: raw.decode() for name, (_, raw) in snapshot(folder).items() if Path(name).name != ".git"}


def make(path: Path, *options: str) -> Repo:
    path.mkdir(parents=True)
    repo = Repo(path)
    repo.git("init", "-q", *options)
    return repo


def checked_out(repo: Repo, room: Path, rev: str = "HEAD", **extra: str) -> Path:
    """The checkout's folder; fails if the repository's git folder is not byte for byte as before."""
    env = {**os.environ, **extra}
    common = Path(repo.git("rev-parse", "--path-format=absolute", "--git-common-dir"))
    commit = resolve_commit(repo.path, rev, env=env)
    before = snapshot(common)
    room.mkdir()
    try:
        return check_out(repo.path, commit, room, env=env, say=print).folder
    finally:
        after = {name: file for name, file in snapshot(common).items() if not name.startswith("lfs/")}
        assert after == {name: file for name, file in before.items() if not name.startswith("lfs/")}


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "room"


def test_a_checkout_holds_the_commit_and_not_the_work_tree(repo: Repo, room: Path) -> None:
    repo.write("app.py", "changed\n")
    repo.write("untracked", "new\n")
    repo.write("staged", "staged\n")
    repo.git("add", "staged")
    assert files(checked_out(repo, room)) == {
        "Procfile": "web: python3 app.py\n",
        "app.py": "print('hello')\n",
    }


def test_modes_links_and_attributes_come_out_as_git_writes_them(repo: Repo, room: Path) -> None:
    repo.write(".gitattributes", "*.bat eol=crlf\n")
    repo.write("go.bat", "one\ntwo\n")
    repo.write("run.sh", "#!/bin/sh\n").chmod(0o755)
    (repo.path / "link").symlink_to("run.sh")
    repo.commit("more")
    folder = checked_out(repo, room)
    assert (folder / "go.bat").read_bytes() == b"one\r\ntwo\r\n"
    assert (folder / "run.sh").stat().st_mode & 0o777 == 0o755
    assert os.readlink(folder / "link") == "run.sh"


def test_a_repositorys_own_filter_applies(repo: Repo, room: Path) -> None:
    repo.git("config", "filter.shout.smudge", "tr a-z A-Z")
    repo.write(".gitattributes", "*.txt filter=shout\n")
    repo.write("a.txt", "quiet\n")
    repo.commit("filtered")
    assert (checked_out(repo, room) / "a.txt").read_text() == "QUIET\n"


@pytest.mark.parametrize("setting", ["core.autocrlf=true", "core.eol=crlf", "core.symlinks=false"])
def test_the_builders_own_settings_do_not_change_what_comes_out(repo: Repo, room: Path, setting: str) -> None:
    repo.write(".gitattributes", "*.py text\n")
    (repo.path / "link").symlink_to("app.py")
    repo.commit("text")
    repo.git("config", "--global", *setting.split("="))
    folder = checked_out(repo, room)
    assert (folder / "app.py").read_bytes() == b"print('hello')\n"
    assert (folder / "link").is_symlink()


def test_a_sparse_work_tree_still_gives_the_whole_commit(repo: Repo, room: Path) -> None:
    repo.write("kept/a", "a\n")
    repo.write("left/b", "b\n")
    repo.commit("two folders")
    repo.git("sparse-checkout", "set", "--cone", "kept")
    assert not (repo.path / "left").exists()
    assert (checked_out(repo, room) / "left/b").read_text() == "b\n"


def test_hooks_do_not_run(repo: Repo, room: Path, tmp_path: Path) -> None:
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        hook = repo.path / ".git/hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        hook.chmod(0o755)
    checked_out(repo, room)
    assert not (tmp_path / "ran").exists()


def test_variables_that_redirect_git_are_dropped(repo: Repo, room: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    other.write("wrong", "wrong\n")
    other.commit("wrong")
    folder = checked_out(
        repo,
        room,
        GIT_DIR=str(other.path / ".git"),
        GIT_WORK_TREE=str(other.path),
        GIT_INDEX_FILE=str(tmp_path / "index"),
        GIT_OBJECT_DIRECTORY=str(other.path / ".git/objects"),
        GIT_COMMON_DIR=str(other.path / ".git"),
        GIT_NAMESPACE="elsewhere",
    )
    assert sorted(files(folder)) == ["Procfile", "app.py"]
    assert not (tmp_path / "index").exists()


def test_a_replaced_object_is_not_what_is_checked_out(repo: Repo, room: Path) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.write("app.py", "replaced\n")
    second = repo.commit("second")
    repo.git("replace", first, second)
    assert (checked_out(repo, room, first) / "app.py").read_text() == "print('hello')\n"


def test_the_command_may_ask_git_about_the_source(repo: Repo, room: Path) -> None:
    """setuptools-scm and many Makefiles run `git describe`."""
    repo.git("tag", "-m", "one", "1.0")
    folder = checked_out(repo, room)
    described = subprocess.run(["git", "describe"], cwd=folder, capture_output=True, text=True, check=True)
    assert described.stdout == "1.0\n"


def test_from_a_linked_work_tree(repo: Repo, room: Path, tmp_path: Path) -> None:
    repo.git("worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    side = Repo(tmp_path / "side")
    side.write("side.txt", "side\n")
    side.commit("side")
    assert (checked_out(side, room) / "side.txt").read_text() == "side\n"


def test_from_a_bare_repository(repo: Repo, room: Path, tmp_path: Path) -> None:
    repo.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    assert (checked_out(Repo(tmp_path / "bare.git"), room) / "Procfile").exists()


def test_from_a_sha256_repository(room: Path, tmp_path: Path) -> None:
    repo = make(tmp_path / "wide", "--object-format=sha256")
    repo.write("a", "a\n")
    assert len(repo.commit("wide")) == 64
    assert files(checked_out(repo, room)) == {"a": "a\n"}


def test_from_a_folder_inside_the_repository(repo: Repo, room: Path) -> None:
    repo.write("deep/er/file", "x\n")
    repo.commit("deep")
    assert (checked_out(Repo(repo.path / "deep"), room) / "Procfile").exists()


def test_from_a_shallow_clone(repo: Repo, room: Path, tmp_path: Path) -> None:
    repo.write("b", "b\n")
    repo.commit("second")
    repo.git("clone", "-q", "--depth", "1", f"file://{repo.path}", str(tmp_path / "shallow"))
    assert (checked_out(Repo(tmp_path / "shallow"), room) / "b").exists()


def test_odd_names_and_spaces_in_paths(room: Path, tmp_path: Path) -> None:
    repo = make(tmp_path / "a folder\nof two lines: é")
    repo.write('na"me\n.txt', "odd\n")
    repo.commit("odd")
    assert files(checked_out(repo, tmp_path / "a room é")) == {'na"me\n.txt': "odd\n"}


def test_a_missing_object_fails_with_gits_own_words(repo: Repo, room: Path) -> None:
    blob = repo.git("rev-parse", "HEAD:app.py")
    (repo.path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(BuildFailed, match="cannot check out") as caught:
        checked_out(repo, room)
    assert blob in caught.value.why


# Large files


def with_lfs(tmp_path: Path, name: str = "large") -> Repo:
    repo = make(tmp_path / name)
    repo.git("lfs", "install", "--local", "--skip-repo")
    repo.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    repo.write("data.bin", "the content\n")
    repo.commit("large")
    assert repo.git("cat-file", "blob", "HEAD:data.bin").startswith(LFS_POINTER.decode())
    return repo


def test_lfs_files_come_out_with_their_content(tmp_path: Path, room: Path) -> None:
    assert (checked_out(with_lfs(tmp_path), room) / "data.bin").read_text() == "the content\n"


def test_lfs_content_is_not_skipped_because_the_caller_skips_it(tmp_path: Path, room: Path) -> None:
    repo = with_lfs(tmp_path)
    repo.git("config", "lfs.fetchexclude", "*.bin")
    folder = checked_out(repo, room, GIT_LFS_SKIP_SMUDGE="1")
    assert (folder / "data.bin").read_text() == "the content\n"


def test_an_lfs_pointer_is_refused_by_name(tmp_path: Path, room: Path) -> None:
    repo = with_lfs(tmp_path)
    repo.git("lfs", "uninstall", "--local", "--skip-repo")
    with pytest.raises(BuildFailed, match=r"data\.bin: an LFS file") as caught:
        checked_out(repo, room)
    assert "git lfs install" in caught.value.hint


def test_a_filter_that_is_configured_but_not_installed(tmp_path: Path, room: Path) -> None:
    repo = with_lfs(tmp_path)
    repo.git("config", "filter.lfs.process", "no-such-git-lfs filter-process")
    with pytest.raises(BuildFailed, match="no-such-git-lfs"):
        checked_out(repo, room)


def test_a_small_file_under_lfs_rules_that_is_no_pointer(tmp_path: Path, room: Path) -> None:
    repo = make(tmp_path / "plain")
    repo.write(".gitattributes", "*.bin filter=lfs\n")
    repo.write("data.bin", "never was a pointer\n")
    repo.commit("plain")
    assert (checked_out(repo, room) / "data.bin").read_text() == "never was a pointer\n"
