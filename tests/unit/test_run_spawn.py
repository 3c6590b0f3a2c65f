"""What a new process finds: exactly what it was given, and nothing of ours."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gitrel.run.spawn import Child, set_parent_death_signal, signal_group, spawn

# Python sets LC_CTYPE for itself in the C locale (PEP 538), so the environment is read from /proc.
REPORT = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "env": open("/proc/self/environ").read().split("\\0")[:-1],
    "fds": [fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")],
    "stdin": os.readlink("/proc/self/fd/0"),
    "blocked": int(status["SigBlk"], 16),
    "umask": int(status["Umask"], 8),
    "cwd": os.getcwd(),
    "leads": [os.getpid() == os.getsid(0), os.getpid() == os.getpgid(0)],
}))
"""
IGNORED = "grep SigIgn /proc/self/status"


def output_of(child: Child) -> bytes:
    os.set_blocking(child.stdout, True)
    try:
        return b"".join(iter(lambda: os.read(child.stdout, 65536), b""))
    finally:
        os.waitpid(child.pid, 0)
        os.close(child.stdout)
        os.close(child.stderr)


def test_the_state_of_a_child_is_clean_and_its_environment_exactly_what_was_given(tmp_path: Path) -> None:
    env = {"B": "1", "A": "ä\n=x", "EMPTY": ""}
    leak = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leak, True)
    before = os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        state = json.loads(output_of(spawn([sys.executable, "-I", "-c", REPORT], env=env, cwd=tmp_path)))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        os.umask(before)
        os.close(leak)
    assert state["env"] == [f"{name}={value}" for name, value in env.items()]
    assert sorted(state["fds"]) == [0, 1, 2]
    assert state["stdin"] == "/dev/null"
    assert (state["blocked"], state["umask"]) == (0, 0o022)
    assert (state["cwd"], state["leads"]) == (str(tmp_path), [True, True])


def test_no_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        shown = output_of(spawn(["/bin/sh", "-c", IGNORED], env={"PATH": os.defpath}, cwd=tmp_path))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert int(shown.split()[1], 16) == 0


def test_a_command_line_runs_in_the_shell_and_stderr_is_apart(tmp_path: Path) -> None:
    child = spawn(["/bin/sh", "-c", "echo out; echo err >&2"], env={}, cwd=tmp_path)
    assert output_of(Child(pid=child.pid, stdout=child.stdout, stderr=os.dup(child.stderr))) == b"out\n"
    os.set_blocking(child.stderr, True)


@pytest.mark.parametrize(
    ("program", "folder", "number", "named"),
    [
        ("/nowhere/prog", ".", errno.ENOENT, "/nowhere/prog"),
        ("/etc/passwd", ".", errno.EACCES, "/etc/passwd"),
        ("/bin/sh", "missing", errno.ENOENT, "missing"),
    ],
)
def test_what_cannot_be_started_is_an_error_of_the_parent(
    tmp_path: Path, program: str, folder: str, number: int, named: str
) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        spawn([program], env={}, cwd=tmp_path / folder)
    assert raised.value.errno == number
    assert str(raised.value.filename).endswith(named)
    assert len(os.listdir("/proc/self/fd")) == fds


def test_an_environment_that_execve_refuses_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        spawn(["/bin/true"], env={"BIG": "x" * 200_000}, cwd=tmp_path)


def test_a_group_is_signalled_whole(tmp_path: Path) -> None:
    child = spawn(["/bin/sh", "-c", "sleep 1000 & echo $!; wait"], env={"PATH": os.defpath}, cwd=tmp_path)
    select.select([child.stdout], [], [], 30)
    other = os.pidfd_open(int(os.read(child.stdout, 100)))
    signal_group(child.pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == -signal.SIGKILL
    assert select.select([other], [], [], 30)[0] == [other]
    for fd in (other, child.stdout, child.stderr):
        os.close(fd)


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_no_signal_goes_to_everybody(pid: int) -> None:
    with pytest.raises(ValueError, match="not a group of ours"):
        signal_group(pid, signal.SIGTERM)


def test_a_child_dies_with_its_parent() -> None:
    """Parent and child are forked from here; the parent exits at once, the child would sleep for long."""
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        me = os.getpid()
        if os.fork() == 0:
            set_parent_death_signal(me)
            os.write(write, b"%d" % os.getpid())
            signal.pause()
        os.read(read, 1)  # the child is ready
        os._exit(0)
    os.close(write)
    os.waitpid(middle, 0)
    assert select.select([read], [], [], 30)[0] == [read]
    while os.read(read, 100):  # the end comes when the child, the last writer, is dead
        pass
    os.close(read)


def test_what_holds_secrets_leaves_no_core_dump_and_what_it_starts_may(tmp_path: Path) -> None:
    """PR_GET_DUMPABLE is 3 (prctl(2)); exec gives it back to the program that is started."""
    ask = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    program = f"{ask}; from gitrel.run.spawn import set_undumpable; set_undumpable(); {ask}; import os, sys; "
    program += f"sys.stdout.flush(); os.execv(sys.executable, [sys.executable, '-c', {ask!r}])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1", "0", "1"]
