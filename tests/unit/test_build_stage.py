"""gitrel.build.stage: from a commit to the folder to be stored, and nothing left behind on any way out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FIXED_DATE, Repo

from gitrel.build.stage import Staged, read_manifest, stage
from gitrel.errors import BadInput, BuildFailed, FormatError, LocalStateError
from gitrel.format.manifest import BuildSpec
from gitrel.ids import ObjectId

MANIFEST = 'app = "shop"\n'


@pytest.fixture
def source(repo: Repo) -> Repo:
    repo.write("gitrel.toml", MANIFEST)
    repo.write(".gitignore", "dist/\nvendor/\n")
    repo.commit("manifest")
    return repo


@pytest.fixture
def tmp(tmp_path: Path) -> Iterator[Path]:
    """Where builds happen; whatever a test does, nothing may be left in it."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@contextlib.contextmanager
def staged(source: Repo, tmp: Path, **spec: object) -> Iterator[Staged]:
    commit = ObjectId(source.git("rev-parse", "HEAD"))
    git_files = sorted((source.path / ".git").rglob("*"))
    build = BuildSpec(**spec)  # type: ignore[arg-type]
    with stage(source.path, commit, build, env=os.environ, on_output=print, tmp=tmp) as result:
        yield result
    assert sorted((source.path / ".git").rglob("*")) == git_files
    assert source.git("worktree", "list").count("\n") == 0


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


# What is staged


def test_without_a_command_the_source_is_the_build(source: Repo, tmp: Path) -> None:
    source.write("app.py", "not committed\n")
    with staged(source, tmp) as result:
        assert names(result.folder) == [".gitignore", "Procfile", "app.py", "gitrel.toml"]
        assert (result.folder / "app.py").read_text() == "print('hello')\n"
        assert result.source == source.git("rev-parse", "HEAD")
        assert result.manifest.app == "shop"
        assert result.processes == {"web": "python3 app.py"}
        assert result.notes == ()


def test_ignored_files_of_the_command_are_in_the_output(source: Repo, tmp: Path) -> None:
    with staged(source, tmp, command="mkdir vendor dist; echo x > vendor/lib.py; echo y > dist/out") as result:
        assert {"vendor/lib.py", "dist/out"} <= set(names(result.folder))


def test_an_output_folder_gets_procfile_and_manifest(source: Repo, tmp: Path) -> None:
    with staged(source, tmp, command="mkdir -p out/dist; echo x > out/dist/app", output="out/dist") as result:
        assert names(result.folder) == ["Procfile", "app", "gitrel.toml"]
        assert (result.folder / "gitrel.toml").read_text() == MANIFEST


def test_an_output_folders_own_procfile_and_manifest_stay(source: Repo, tmp: Path) -> None:
    command = "mkdir dist; echo 'worker: run' > dist/Procfile; echo 'app = \"other\"' > dist/gitrel.toml"
    with staged(source, tmp, command=command, output="dist") as result:
        assert result.processes == {"worker": "run"}
        assert result.manifest.app == "other"


def test_what_is_copied_is_the_commits_and_not_what_the_command_made_of_it(source: Repo, tmp: Path) -> None:
    with staged(source, tmp, command="mkdir dist; echo 'bad: bad' > Procfile", output="dist") as result:
        assert result.processes == {"web": "python3 app.py"}


def test_an_output_that_is_a_link_inside_the_checkout(source: Repo, tmp: Path) -> None:
    with staged(source, tmp, command="mkdir -p real; touch real/a; ln -s real dist", output="dist") as result:
        assert names(result.folder) == ["Procfile", "a", "gitrel.toml"]
        assert result.folder.name == "real"


def test_the_commands_clock_is_the_commits(source: Repo, tmp: Path) -> None:
    with staged(source, tmp, command="echo $SOURCE_DATE_EPOCH > when") as result:
        assert (result.folder / "when").read_text() == f"{FIXED_DATE.split()[0]}\n"


def test_times_and_exclude(source: Repo, tmp: Path) -> None:
    clock = iter([1000.9, 2000.1])
    commit = ObjectId(source.git("rev-parse", "HEAD"))
    spec = BuildSpec(exclude=("tests",))
    with stage(
        source.path, commit, spec, env=os.environ, on_output=print, tmp=tmp, clock=lambda: next(clock)
    ) as result:
        assert (result.started, result.finished, result.exclude) == (1000, 2000, ("tests",))


def test_two_builds_of_a_commit_happen_at_one_path(source: Repo, tmp: Path) -> None:
    with staged(source, tmp, command="pwd > where") as result:
        first = (result.folder / "where").read_text()
    with staged(source, tmp, command="pwd > where") as result:
        assert (result.folder / "where").read_text() == first


def test_two_builds_at_once_have_a_room_each(source: Repo, tmp: Path) -> None:
    with staged(source, tmp) as one, staged(source, tmp) as two:
        assert one.folder != two.folder
        assert names(one.folder) == names(two.folder)


def test_gits_own_files_are_gone_and_anybody_elses_stay(source: Repo, tmp: Path, tmp_path: Path) -> None:
    source.git("config", "--global", "protocol.file.allow", "always")
    source.git("clone", "-q", ".", str(tmp_path / "lib"))
    source.git("submodule", "--quiet", "add", str(tmp_path / "lib"), "lib")
    source.commit("submodule")
    command = "test -f .git && test -f lib/.git && mkdir -p other/.git && touch other/.git/config && cp -r lib copy"
    with staged(source, tmp, command=command) as result:
        found = [name for name in names(result.folder) if ".git" in Path(name).parts]
        assert found == ["copy/.git", "other/.git/config"]
        assert (result.folder / "lib/app.py").exists()


def test_a_repository_that_the_command_makes_is_not_removed(source: Repo, tmp: Path) -> None:
    with staged(source, tmp, command="rm .git; git init -q .") as result:
        assert (result.folder / ".git/HEAD").exists()


def test_a_skipped_submodule_is_noted(source: Repo, tmp: Path, tmp_path: Path) -> None:
    source.git("config", "--global", "protocol.file.allow", "always")
    source.git("clone", "-q", ".", str(tmp_path / "lib"))
    source.git("submodule", "--quiet", "add", str(tmp_path / "lib"), "lib")
    source.git("config", "-f", ".gitmodules", "submodule.lib.update", "none")
    source.commit("submodule")
    with staged(source, tmp) as result:
        assert result.notes == ("submodule lib is left out: .gitmodules says `update = none`",)


# What is refused


def refused(source: Repo, tmp: Path, **spec: object) -> BaseException:
    with pytest.raises((BuildFailed, BadInput)) as caught, staged(source, tmp, **spec):
        pytest.fail("staged")
    return caught.value


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("true", "did not make it"),
        ("ln -s / dist", "outside the checkout"),
        ("ln -s ../home dist", "outside the checkout"),
        ("mkdir a; ln -s /tmp a/b; ln -s a/b dist", "outside the checkout"),
        ("ln -s nowhere dist", "did not make it"),
        ("ln -s dist dist", "no output folder"),
        ("touch dist", "not a folder"),
        ("mkfifo dist", "not a folder"),
    ],
)
def test_an_output_that_cannot_be_stored(source: Repo, tmp: Path, command: str, says: str) -> None:
    error = refused(source, tmp, command=command, output="dist")
    assert isinstance(error, BuildFailed)
    assert says in str(error)
    assert error.where == "dist"


@pytest.mark.parametrize("name", ["Procfile", "gitrel.toml"])
@pytest.mark.parametrize(
    "instead", ["ln -s app.py {0}", "ln -s nowhere {0}", "ln -s /etc/passwd {0}", "mkdir {0}", "mkfifo {0}"]
)
def test_v01_a_procfile_that_is_no_regular_file(source: Repo, tmp: Path, name: str, instead: str) -> None:
    error = refused(source, tmp, command=f"rm {name}; {instead.format(name)}")
    assert isinstance(error, BadInput)
    assert str(error) == f"{name}: not a regular file"


@pytest.mark.parametrize("name", ["Procfile", "gitrel.toml"])
def test_v01_a_file_that_is_missing(source: Repo, tmp: Path, name: str) -> None:
    source.git("rm", "-q", "--cached", name)
    source.git("commit", "-q", "-m", "gone")  # still in the work tree, as when somebody forgot to add it
    error = refused(source, tmp)
    assert isinstance(error, BadInput)
    assert str(error) == f"{name}: no {name}"
    assert "commit" in error.hint


def test_v01_a_link_in_the_source_is_not_copied(source: Repo, tmp: Path) -> None:
    (source.path / "Procfile").rename(source.path / "Procfile.real")
    (source.path / "Procfile").symlink_to("Procfile.real")
    source.commit("link")
    assert str(refused(source, tmp, command="mkdir dist", output="dist")) == "Procfile: no Procfile"


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [("Procfile", "web: a\nb\n", "Procfile:2"), ("gitrel.toml", "app = 1", "gitrel.toml")],
)
def test_v01_bad_content_is_said_with_its_place(source: Repo, tmp: Path, name: str, text: str, where: str) -> None:
    source.write(name, text)
    source.commit("bad")
    error = refused(source, tmp)
    assert isinstance(error, FormatError)
    assert error.where == where


def test_a_build_cannot_exclude_its_procfile(source: Repo, tmp: Path) -> None:
    assert "cannot do without Procfile" in str(refused(source, tmp, exclude=("Procfile",)))


def test_no_folder_to_build_in(source: Repo, tmp_path: Path) -> None:
    with pytest.raises(LocalStateError, match="missing"), staged(source, tmp_path / "missing"):
        pytest.fail("staged")


# Nothing stays (the fixture `tmp` looks)


def test_a_failed_command_leaves_nothing(source: Repo, tmp: Path) -> None:
    assert "exit status 1" in str(refused(source, tmp, command="mkdir -p a/b; chmod 0 a; exit 1"))


def test_a_failed_checkout_leaves_nothing(source: Repo, tmp: Path) -> None:
    source.git("config", "filter.broken.smudge", "false")
    source.git("config", "filter.broken.required", "true")
    source.write(".gitattributes", "app.py filter=broken\n")
    source.git("config", "filter.broken.clean", "cat")
    source.commit("filtered")
    assert "smudge filter broken failed" in str(refused(source, tmp))


def test_an_interrupt_while_the_result_is_used_leaves_nothing(source: Repo, tmp: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(source, tmp):
        raise KeyboardInterrupt


BUILDER = textwrap.dedent(
    """\
    import os, sys
    from pathlib import Path
    from gitrel.build.stage import stage
    from gitrel.format.manifest import BuildSpec
    from gitrel.ids import ObjectId
    repo, commit, tmp = sys.argv[1:]
    spec = BuildSpec(command="echo $$; sleep 600")
    def say(line): print(line, flush=True)
    with stage(Path(repo), ObjectId(commit), spec, env=os.environ, on_output=say, tmp=Path(tmp)): pass
    """
)


@contextlib.contextmanager
def building(source: Repo, tmp: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A build in another process, in the middle of its command; and the command's process id."""
    args = [sys.executable, "-c", BUILDER, str(source.path), source.git("rev-parse", "HEAD"), str(tmp)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as builder:
        assert builder.stdout is not None
        pid = int(builder.stdout.readline())
        try:
            yield builder, pid
        finally:
            builder.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_in_the_middle_leaves_nothing(source: Repo, tmp: Path) -> None:
    with building(source, tmp) as (builder, pid):
        builder.send_signal(signal.SIGINT)
        assert builder.wait(timeout=30) == -signal.SIGINT
    assert not is_alive(pid)
    assert source.git("status", "--porcelain") == ""


def test_after_kill_9_the_next_build_clears_up_and_succeeds(source: Repo, tmp: Path) -> None:
    """The repository never knew of the build; the folder and the orphaned command go with the next one."""
    with building(source, tmp) as (builder, pid):
        builder.kill()
        builder.wait(timeout=30)
        assert is_alive(pid)
        assert len(list(tmp.iterdir())) == 1
        assert source.git("worktree", "list").count("\n") == 0
        source.git("gc", "-q", "--prune=now")
        with staged(source, tmp) as result:
            assert len(list(tmp.iterdir())) == 1
            assert "app.py" in names(result.folder)
        assert not is_alive(pid)


def test_a_room_that_is_in_use_is_not_cleared(source: Repo, tmp: Path) -> None:
    with building(source, tmp) as (builder, pid):
        with staged(source, tmp):
            assert len(list(tmp.iterdir())) == 2
            assert is_alive(pid)
        builder.send_signal(signal.SIGINT)
        builder.wait(timeout=30)


# The manifest of a commit


def test_the_manifest_is_the_commits_own(source: Repo) -> None:
    commit = ObjectId(source.git("rev-parse", "HEAD"))
    source.write("gitrel.toml", 'app = "changed"\n')
    assert read_manifest(source.path, commit, env=os.environ).app == "shop"
    (source.path / "deep").mkdir()
    assert read_manifest(source.path / "deep", commit, env=os.environ).app == "shop"


def test_a_commit_without_a_manifest(repo: Repo) -> None:
    with pytest.raises(BadInput, match=r"no gitrel\.toml") as caught:
        read_manifest(repo.path, ObjectId(repo.git("rev-parse", "HEAD")), env=os.environ)
    assert "gitrel init" in caught.value.hint


def test_a_manifest_that_is_a_link_or_a_folder(repo: Repo) -> None:
    (repo.path / "gitrel.toml").symlink_to("app.py")
    link = repo.commit("link")
    (repo.path / "gitrel.toml").unlink()
    repo.write("gitrel.toml/file", "")
    for commit in (link, repo.commit("folder")):
        with pytest.raises(BadInput, match="not a regular file"):
            read_manifest(repo.path, ObjectId(commit), env=os.environ)


def test_a_bad_manifest_says_which_commit(repo: Repo) -> None:
    repo.write("gitrel.toml", "app = 'shop'\nbuild = 1\n")
    commit = repo.commit("bad")
    with pytest.raises(FormatError, match="build: expected a table") as caught:
        read_manifest(repo.path, ObjectId(commit), env=os.environ)
    assert commit[:12] in caught.value.where
