"""gitrel.build.command: what the command sees and says, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.build.command import (
    MAX_LINE,
    _Lines,
    command_environment,
    duration_text,
    kill_leftovers,
    run_command,
)
from gitrel.errors import BuildFailed
from gitrel.format.manifest import duration

# A process in a group of its own, still in the session, without any environment; it is there before its id is said.
OWN_GROUP = """
import os
end, into = os.pipe()
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    os.execve("/bin/sleep", ["sleep", "600"], {})
os.close(into)
os.read(end, 1)
print(pid)
"""
SHELLS_OWN = {"PWD", "OLDPWD", "SHLVL", "_"}  # sh(1) sets these by itself


class Run(Protocol):
    def __call__(
        self,
        command: str,
        *,
        caller: dict[str, str] | None = None,
        pass_env: tuple[str, ...] = (),
        timeout: float = 60,
        on_output: Callable[[str], None] | None = None,
    ) -> list[str]: ...


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command in `tmp_path/tree`; its lines."""
    for name in ("tree", "home", "tmp"):
        (tmp_path / name).mkdir()

    def run_it(
        command: str,
        *,
        caller: dict[str, str] | None = None,
        pass_env: tuple[str, ...] = (),
        timeout: float = 60,
        on_output: Callable[[str], None] | None = None,
    ) -> list[str]:
        lines: list[str] = []
        run_command(
            command,
            folder=tmp_path / "tree",
            caller=dict(os.environ) if caller is None else caller,
            pass_env=pass_env,
            home=tmp_path / "home",
            temp=tmp_path / "tmp",
            source_time=1700000000,
            timeout=timeout,
            on_output=on_output or lines.append,
        )
        return lines

    return run_it


def is_alive(pid: int) -> bool:
    """Not gone, and not a zombie that its new parent has yet to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# The environment


def test_the_environment_is_exactly_what_is_documented(run: Run, tmp_path: Path) -> None:
    caller = {
        "PATH": os.environ["PATH"],
        "HOME": "/root",
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "de_DE.UTF-8",
        "TZ": "Europe/Berlin",
        "AWS_SECRET_ACCESS_KEY": "x",
        "SSH_AUTH_SOCK": "/tmp/agent",
        "GIT_DIR": "/elsewhere",
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "EMPTY": "",
    }
    lines = run("env", caller=caller, pass_env=("PIP_INDEX_URL", "EMPTY", "NOT_SET"))
    seen = dict(line.split("=", 1) for line in lines)
    assert {name: value for name, value in seen.items() if name not in SHELLS_OWN} == {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": "1700000000",
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "EMPTY": "",
    }


def test_pass_env_wins_and_a_caller_without_a_path_gets_the_systems() -> None:
    folders = {"home": Path("/h"), "temp": Path("/t"), "source_time": 0}
    env = command_environment({"TZ": "Asia/Tokyo"}, ["TZ"], **folders)  # type: ignore[arg-type]
    assert env["TZ"] == "Asia/Tokyo"
    assert env["PATH"] == os.defpath


def test_umask_input_folder_and_session(run: Run, tmp_path: Path) -> None:
    os.umask(0o077)
    assert run("umask; wc -c; pwd") == ["0022", "0", str(tmp_path / "tree")]
    own_session = 'test "$(cut -d" " -f6 /proc/$$/stat)" = $$ && echo leads'
    assert run(own_session) == ["leads"]


# The output


def test_output_comes_line_by_line_while_the_command_runs(run: Run, tmp_path: Path) -> None:
    """The command waits for what the callback does with its first line."""
    os.mkfifo(tmp_path / "go")
    seen: list[str] = []

    def answer(line: str) -> None:
        seen.append(line)
        if line == "first":
            (tmp_path / "go").write_text("go\n")

    run("echo first; read word < ../go; echo $word >&2; printf unfinished", on_output=answer)
    assert seen == ["first", "go", "unfinished"]


@given(st.lists(st.binary(max_size=40)), st.data())
def test_lines_do_not_depend_on_how_the_output_is_cut(parts: list[bytes], data: st.DataObject) -> None:
    """Any split of the same bytes gives the same lines, and no text is lost."""
    whole = b"".join(parts)
    seen: list[str] = []
    lines = _Lines(seen.append)
    for part in parts:
        lines.feed(part)
    lines.end()
    at_once: list[str] = []
    lines = _Lines(at_once.append)
    lines.feed(whole)
    lines.end()
    assert seen == at_once
    text = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode("utf-8", "replace")
    assert seen == (text.removesuffix("\n").split("\n") if text else [])


def test_a_line_without_an_end_is_handed_on_in_pieces(run: Run) -> None:
    lines = run(f"head -c {3 * MAX_LINE + 7} /dev/zero | tr '\\0' x")
    assert "".join(lines) == "x" * (3 * MAX_LINE + 7)
    assert max(map(len, lines)) == MAX_LINE


def test_passwords_and_passed_secrets_are_hidden(run: Run) -> None:
    caller = {**os.environ, "NPM_TOKEN": "s3cr3t-t0ken", "MODE": "production", "SHORT_KEY": "a"}
    command = "echo using $NPM_TOKEN from https://alice:hunter2@host/path in $MODE a; exit 1"
    seen: list[str] = []
    with pytest.raises(BuildFailed) as caught:
        run(command, caller=caller, pass_env=("NPM_TOKEN", "MODE", "SHORT_KEY"), on_output=seen.append)
    assert seen == ["using *** from https://***@host/path in production a"]
    assert "s3cr3t" not in caught.value.why
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


# The ways to end


def test_a_failure_says_the_status_and_the_last_lines(run: Run) -> None:
    with pytest.raises(BuildFailed, match="failed: exit status 3") as caught:
        run("seq 100; echo broken >&2; exit 3")
    assert caught.value.why == "its last lines:\n" + "\n".join([*map(str, range(82, 101)), "broken"])
    assert caught.value.exit_code == 15


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("sh -c 'kill -KILL $$'; exit $?", r"exit status 137 \(SIGKILL in a shell\)"),
        ("exit 255", "exit status 255"),
        ("no-such-program", "exit status 127"),
    ],
)
def test_how_it_ended(run: Run, command: str, ending: str) -> None:
    with pytest.raises(BuildFailed, match=ending):
        run(command)


def test_a_command_that_says_nothing(run: Run) -> None:
    with pytest.raises(BuildFailed, match="it printed nothing"):
        run("false")


def test_the_time_limit_is_said_with_where_to_set_it(run: Run) -> None:
    with pytest.raises(BuildFailed, match=r"longer than 0\.2s") as caught:
        run("echo started; sleep 600", timeout=0.2)
    assert "started" in caught.value.why
    assert "timeout" in caught.value.hint


def test_at_the_time_limit_term_comes_first(run: Run) -> None:
    seen: list[str] = []
    with pytest.raises(BuildFailed, match="longer than"):
        run(
            "trap 'echo tidied; exit 0' TERM; echo ready; sleep 600 & wait",
            timeout=0.5,
            on_output=seen.append,
        )
    assert seen == ["ready", "tidied"]


def test_what_ignores_term_is_killed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gitrel.build.command.GRACE", 0.2)
    seen: list[str] = []
    with pytest.raises(BuildFailed, match="longer than"):
        run("trap '' TERM; echo $$; while :; do sleep 600; done", timeout=0.3, on_output=seen.append)
    assert not is_alive(int(seen[0]))


def test_a_command_that_closes_its_output_is_waited_for(run: Run, tmp_path: Path) -> None:
    run("exec >&- 2>&-; sleep 0.2; touch done")
    assert (tmp_path / "tree/done").exists()
    with pytest.raises(BuildFailed, match="longer than"):
        run("exec >&- 2>&-; sleep 600", timeout=0.2)


@pytest.mark.parametrize(
    "start",
    [
        "sleep 600 & echo $!",
        "nohup sleep 600 >/dev/null 2>&1 & echo $!",
        f"{sys.executable} -c '{OWN_GROUP}'",
        "setsid sh -c 'echo $$; exec sleep 600' & sleep 0.2",  # a session of its own
    ],
)
def test_what_is_left_in_the_background_is_killed(run: Run, start: str) -> None:
    """Neither waited for nor left running, whatever it holds open."""
    began = time.monotonic()
    pid = int(run(start)[-1])
    assert not is_alive(pid)
    assert time.monotonic() - began < 30


def test_a_process_of_somebody_else_is_left_alone(run: Run) -> None:
    """Passing TMPDIR on must not make every process with that TMPDIR one of the command's."""
    with subprocess.Popen(["sleep", "600"], env={"TMPDIR": "/tmp", "HOME": "/root"}) as other:
        try:
            run("true", caller={**os.environ, "TMPDIR": "/tmp", "HOME": "/root"}, pass_env=("TMPDIR", "HOME"))
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_kills_the_group(run: Run, error: type[BaseException]) -> None:
    seen: list[str] = []

    def fail(line: str) -> None:
        seen.append(line)
        raise error

    with pytest.raises(error):
        run("echo $$; sleep 600", on_output=fail)
    assert not is_alive(int(seen[0]))


def test_ctrl_c_kills_the_group(tmp_path: Path) -> None:
    """A real SIGINT to a real process that has a command running."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    script = textwrap.dedent(
        """\
        import sys
        from pathlib import Path
        from gitrel.build.command import run_command
        room = Path(sys.argv[1])
        run_command(
            "echo $$; sleep 600", folder=room, caller={}, pass_env=(), home=room / "home", temp=room / "tmp",
            source_time=0, timeout=60, on_output=lambda line: print(line, flush=True),
        )
        """
    )
    args = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as builder:
        assert builder.stdout is not None
        pid = int(builder.stdout.readline())
        assert is_alive(pid)
        builder.send_signal(signal.SIGINT)
        assert builder.wait(timeout=30) == -signal.SIGINT
    assert not is_alive(pid)


def test_leftovers_of_a_killed_builder_are_found_by_their_folders(tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(["sleep", "600"], env=env, start_new_session=True) as left:
        try:
            kill_leftovers(home=tmp_path / "home", temp=tmp_path / "tmp")
            assert left.wait(timeout=10) == -signal.SIGKILL
        finally:
            left.kill()


@given(st.integers(0, 10**7))
def test_a_time_is_written_as_it_can_be_read(seconds: int) -> None:
    assert duration(duration_text(seconds)) == seconds
