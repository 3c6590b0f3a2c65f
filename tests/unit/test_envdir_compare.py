"""What happened to variables between two envdirs, whatever they hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gitrel.format.envdir import SECRET_SUFFIX, Differences, compare, variables

FILES = st.dictionaries(st.sampled_from("ABCDE"), st.tuples(st.booleans(), st.binary(max_size=1))).map(
    lambda made: {name + SECRET_SUFFIX * secret: data for name, (secret, data) in made.items()}
)


@given(FILES, FILES)
def test_every_variable_is_in_one_place_or_the_same(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    found = compare(before, after)
    old, new = set(variables(before)), set(variables(after))
    assert set(found.added) == new - old
    assert set(found.removed) == old - new
    same = {name for name in old & new if name not in found.changed}
    for name in same:
        assert {f: d for f, d in before.items() if f.split(".")[0] == name} == {
            f: d for f, d in after.items() if f.split(".")[0] == name
        }
    assert bool(found) == (before != after)
    assert compare(after, before) == Differences(added=found.removed, changed=found.changed, removed=found.added)


def test_becoming_secret_is_a_change_and_a_line_says_it_all() -> None:
    found = compare({"A": b"1", "B": b"2"}, {"A.age": b"1", "C": b"3"})
    assert str(found) == "+C ~A -B"
    assert found.names == {"A", "B", "C"}
    assert str(compare({}, {})) == ""
