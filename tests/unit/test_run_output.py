"""Lines: whole, in order, none lost, and never waiting for a reader."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.run.loop import Loop
from gitrel.run.output import MAX_LINE, QUEUE_HIGH, Journal, Lines, Sink, Stream

NOON = 1_700_000_000.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop((signal.SIGUSR1,), lambda _: None) as made:
        yield made


class Reader:
    """The far end of our output, read when asked."""

    def __init__(self, loop: Loop) -> None:
        self.fd, self.write_end = os.pipe()
        os.set_blocking(self.fd, False)
        self.sink = Sink(loop, self.write_end)
        self.journal = Journal(self.sink, clock=lambda: NOON)

    def read(self) -> bytes:
        data = b""
        while True:
            try:
                more = os.read(self.fd, 1 << 20)
            except BlockingIOError:
                return data
            if not more:
                return data
            data += more

    def lines(self) -> list[bytes]:
        """Without the time."""
        return [line[9:] for line in self.read().splitlines(keepends=True)]

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.write_end)


@pytest.fixture
def reader(loop: Loop) -> Iterator[Reader]:
    made = Reader(loop)
    yield made
    made.close()


@given(pieces=st.lists(st.binary(max_size=40)), longest=st.integers(4, 20))
def test_lines_lose_nothing_and_are_bounded(pieces: list[bytes], longest: int) -> None:
    lines = Lines(longest)
    found = [line for piece in pieces for line in lines.feed(piece)] + lines.flush()
    assert b"".join(found) == b"".join(pieces).replace(b"\n", b"")
    assert all(len(line) <= longest and b"\n" not in line for line in found)


@given(text=st.text(st.characters(exclude_characters="\n")), cut=st.integers(0, 50), longest=st.integers(4, 9))
def test_a_split_never_cuts_a_character(text: str, cut: int, longest: int) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    lines = Lines(longest)
    found = [*lines.feed(raw[:cut]), *lines.feed(raw[cut:]), *lines.flush()]
    assert "".join(line.decode("utf-8", "surrogatepass") for line in found) == text


def test_pieces_do_not_change_the_lines() -> None:
    raw = b"one\n\ntwo\r\nthree"
    lines = Lines()
    assert [line for byte in raw for line in lines.feed(bytes([byte]))] == [b"one", b"", b"two\r"]
    assert lines.flush() == [b"three"]


def test_a_line_has_the_time_and_the_name(reader: Reader) -> None:
    reader.journal.line("web.1", b"\x1b[31mred\xff")
    written = reader.read()
    assert written[8:] == b" web.1 | \x1b[31mred\xff\n"
    assert [len(part) for part in written[:8].split(b":")] == [2, 2, 2]


def test_own_lines_have_no_control_characters(reader: Reader) -> None:
    reader.journal.say("refused: \x1b]0;x\x07 v2\nfake | line \x9b \u202e")
    assert reader.lines() == [b"gitrel | refused: \\x1b]0;x\\x07 v2\\nfake | line \\x9b \\u202e\n"]


def test_colours_only_when_asked_for(reader: Reader) -> None:
    Journal(reader.sink, colour=True).line("web.1", b"text")
    written = reader.read()
    assert written.startswith(b"\x1b[0;36m")
    assert written.endswith(b"web.1 |\x1b[0m text\n")


def test_nothing_is_lost_when_the_reader_is_slow_and_the_writer_is_held_back(loop: Loop, reader: Reader) -> None:
    source, target = os.pipe2(os.O_NONBLOCK)
    Stream(loop, reader.journal, "web.1", source)
    line = b"x" * 999 + b"\n"
    count = 3 * QUEUE_HIGH // len(line)
    sent = held_back = 0
    collected: list[bytes] = []
    received = 0
    while received < count:
        try:
            while sent < count:
                os.write(target, line)
                sent += 1
                turn(loop)
        except BlockingIOError:
            held_back += 1  # nobody reads our output, so nobody reads the pipe, and it is full
        collected.append(reader.read())
        received += collected[-1].count(b"\n")
        turn(loop)
    assert held_back
    assert {part[9:] for part in b"".join(collected).splitlines()} == {b"web.1 | " + b"x" * 999}
    os.close(target)


def turn(loop: Loop) -> None:
    """One turn that does not wait."""
    loop.after(0.0, lambda: None)
    loop.turn()


def test_a_reader_that_went_away_does_not_stop_the_app(loop: Loop, reader: Reader) -> None:
    os.close(reader.fd)
    reader.fd = os.open(os.devnull, os.O_RDONLY)
    source, target = os.pipe()
    Stream(loop, reader.journal, "web.1", source)
    os.write(target, b"a line\n")
    loop.turn()
    assert reader.sink.broken
    os.close(target)
    loop.turn()  # the stream sees its end


def test_finish_takes_what_is_in_the_pipe_and_does_not_wait_for_who_holds_it(loop: Loop, reader: Reader) -> None:
    source, target = os.pipe2(os.O_NONBLOCK)
    stream = Stream(loop, reader.journal, "web.1", source)
    os.write(target, b"last words")
    stream.finish()  # `target` is still open, as in a grandchild
    assert reader.lines() == [b"web.1 | last words\n"]
    stream.finish()
    os.close(target)


def test_a_very_long_line_is_split(loop: Loop, reader: Reader) -> None:
    lines = Lines()
    found = lines.feed(b"y" * (2 * MAX_LINE + 5) + b"\n")
    assert [len(line) for line in found] == [MAX_LINE, MAX_LINE, 5]
