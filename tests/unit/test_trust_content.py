"""The rows T, R and A of the catalogue: trees, from the release's top to what would be written to disk.

Each row is the build of a release that is good but for it, judged by the whole verifier. All are refused by
check 11 unless the row says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from simulator import FILES, Simulator, shop

from gitrel.errors import Refused
from gitrel.format.tree import Mode, Node, blob_node
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.trust.content import BoundRelease, VerifiedRelease, build_node, check_shape, hash_tree

Make = Callable[[Simulator], Any]
FILE, EXECUTABLE, FOLDER, LINK = b"100644", b"100755", b"40000", b"120000"


def judged(build: Make, sim: Simulator | None = None) -> int:
    sim = sim or shop(1)
    sim.release(sim.build(build(sim)))
    return sim.refusal()


def files(**more: Any) -> Make:
    """The usual files and these; `__` is a dot."""
    return lambda sim: {
        **FILES,
        **{name.replace("__", "."): each(sim) if callable(each) else each for name, each in more.items()},
    }


def link(target: str | bytes) -> Make:
    return lambda sim: sim.link(target)


def blob(sim: Simulator) -> ObjectId:
    return sim.put("blob", b"pwned")


def folder(sim: Simulator) -> ObjectId:
    return sim.node({"pwned": b"pwned"}).oid


def one(name: bytes, mode: bytes = FILE) -> Make:
    """A tree of one entry, pointing at what its mode says."""
    return lambda sim: sim.raw_tree((mode, name, folder(sim) if mode == FOLDER else blob(sim)))


NAMES: dict[str, tuple[bytes, bytes]] = {
    "T01": (b".git", FILE),
    "T02": (b".git", FOLDER),
    "T03": (b".GIT", FOLDER),
    "T04": (b".gIt", FOLDER),
    "T05": (b"..", FILE),
    "T06": (b"..", FOLDER),
    "T07": (b".", FOLDER),
    "T08": (b"a/b", FILE),
    "T09": (b"/abs/escape", FILE),
    "T10": (b"../escape", FILE),
    "T11": (b"a/../../escape", FILE),
    "T12": (b"", FILE),
    "T13": (b"new\nline", FILE),
    "T14": (b"\x1b[2Jesc", FILE),
    "T14-c1": ("\x9besc".encode(), FILE),
    "T15": (b"latin-\xe4", FILE),
    "T16": (b"n" * 300, FILE),
    "T17": (b"git~1", FOLDER),
    "T18": (b"GIT~1", FOLDER),
    "T19": (b".git.", FOLDER),
    "T20": (b".git ", FOLDER),
    "T21": (b".git::$INDEX_ALLOCATION", FOLDER),
    "T22": (b".git...:alternate-stream", FILE),
    "T23": (".gi\u200ct".encode(), FOLDER),
    "T24": (".git\ufeff".encode(), FOLDER),
    "T25": (b".git\\foobar", FILE),
    "T26": (b".\\.GIT\\foobar", FILE),
    "T30": (b".. ", FOLDER),
    "T31": (".\u200c.".encode(), FOLDER),
    "T32": (b".gi\xe2\x80t", FOLDER),
    "T57": (b".gitmodules", LINK),
}


@pytest.mark.parametrize("deep", [False, True], ids=["top", "below"])
@pytest.mark.parametrize("row", NAMES)
def test_name(row: str, deep: bool) -> None:
    def build(sim: Simulator) -> Node:
        bad = one(*NAMES[row])(sim)
        assert isinstance(bad, Node)
        return sim.raw_tree((FOLDER, b"sub", bad.oid)) if deep else bad

    assert judged(build) == 11


ODD_NAMES = {
    "T27": ("..\\escape",),
    "T28": ("C:evil",),
    "T29": ("aux.txt",),
    "T46": ("README", "readme"),
    "T47": ("\u00e4", "a\u0308"),
}


@pytest.mark.parametrize("row", ODD_NAMES)
def test_a_plain_name_that_only_looks_odd(row: str) -> None:
    assert judged(lambda _: {**FILES, **dict.fromkeys(ODD_NAMES[row], b"")}) == 0


def unsorted(sim: Simulator) -> Node:
    return sim.raw_tree((FILE, b"b", blob(sim)), (FILE, b"a", blob(sim)))


LAYOUTS: dict[str, Make] = {
    "T40": lambda sim: sim.raw_tree((FILE, b"x", blob(sim)), (FILE, b"x", sim.put("blob", b"other"))),
    "T41": lambda sim: sim.raw_tree((FILE, b"x", blob(sim)), (FILE, b"x.1", blob(sim)), (FOLDER, b"x", folder(sim))),
    "T42": lambda sim: sim.raw_tree((LINK, b"d", sim.link("/tmp").oid), (FOLDER, b"d", folder(sim))),
    "T43": lambda sim: sim.raw_tree((LINK, b"d", sim.link("/tmp").oid), (FILE, b"d/pwned", blob(sim))),
    "T44": lambda sim: sim.raw_tree(
        (FOLDER, b"d", folder(sim)), (LINK, b"d", sim.link("/tmp").oid), (FILE, b"d/pwned", blob(sim))
    ),
    "T48": unsorted,
    "T61": lambda sim: sim.raw_tree((FILE, b".gitmodules", blob(sim)), (b"160000", b"sub", sim.trusts[0].id.oid)),
    "T62": lambda sim: sim.raw_tree((b"160000", b"sub", sim.trusts[0].id.oid)),
    "T93": lambda sim: sim.raw_tree((FOLDER, b"d", blob(sim))),
    "T94": lambda sim: sim.raw_tree((FILE, b"f", folder(sim))),
    "T94-executable": lambda sim: sim.raw_tree((EXECUTABLE, b"f", folder(sim))),
    "T94-link": lambda sim: sim.raw_tree((LINK, b"f", folder(sim))),
    "T94-both": lambda sim: sim.raw_tree((FOLDER, b"a", folder(sim)), (FILE, b"b", folder(sim))),
    "T95": lambda sim: sim.raw_tree((FILE, b"f", sim.trusts[0].id.oid)),
    "T96": lambda sim: sim.raw_tree((FILE, b"f", sim.fmt.object_id("blob", b"nowhere"))),
    "T96-folder": lambda sim: sim.raw_tree((FOLDER, b"f", sim.fmt.object_id("tree", b"nowhere"))),
    "T96-link": lambda sim: sim.raw_tree((LINK, b"f", sim.fmt.object_id("blob", b"nowhere"))),
    "T97": lambda sim: sim.raw_tree((FILE, b"f", ObjectId("0" * 2 * sim.fmt.raw_length))),
    "T98": lambda sim: sim.raw_tree((FILE, b"f", blob(sim)), end=b"100644 g\0short"),
    "T99": lambda sim: sim.raw_tree((FILE, b"f", blob(sim)), end=b"garbage"),
    "T99-nul": lambda sim: sim.raw_tree((FILE, b"f", blob(sim)), end=b"\0" * 40),
    "no-build-at-all": lambda sim: Node(Mode.DIRECTORY, sim.fmt.object_id("tree", b"x"), sim.node({}).sha256),
}


@pytest.mark.parametrize("fmt", ObjectFormat)
@pytest.mark.parametrize("row", LAYOUTS)
def test_layout(row: str, fmt: ObjectFormat) -> None:
    assert judged(LAYOUTS[row], shop(1, fmt)) == 11


MODES = {
    f"T{70 + at}": mode
    for at, mode in enumerate(
        b"100664 100777 104755 102755 100000 0100644 100600 10644 60644 20666 140755 120777 170000 0 160644 +100644 "
        b"0o100644 1_00644 37777777777100644 10064x -100644 644 040000".split(b" ")
    )
}


@pytest.mark.parametrize("row", MODES)
def test_mode(row: str) -> None:
    assert judged(lambda sim: sim.raw_tree((MODES[row], b"f", folder(sim) if row == "T92" else blob(sim)))) == 11


def test_modes_are_as_many_as_the_catalogue_has() -> None:
    assert (min(MODES), max(MODES), len(MODES)) == ("T70", "T92", 23)


# links

ALLOW = b'app = "shop"\n[build]\nallow_links = ["/usr/bin/python3*", "../shared"]\n'

LINKS: dict[str, tuple[Make, int]] = {
    "T45": (lambda sim: {**FILES, "A": sim.link("/tmp"), "a": {"x": b""}}, 11),
    "T45-inside": (lambda sim: {**FILES, "A": sim.link("a"), "a": {"x": b""}}, 0),
    "T50": (files(x=link("/usr/bin/python3.11")), 11),
    "T50-allowed": (files(x=link("/usr/bin/python3.11"), gitrel__toml=ALLOW), 0),
    "T50-another": (files(x=link("/usr/bin/perl"), gitrel__toml=ALLOW), 11),
    "T50-up-again": (files(x=link("/usr/bin/python3/../../../etc/shadow"), gitrel__toml=ALLOW), 11),
    "T50-root": (files(x=link("/")), 11),
    "T51": (files(x=link("../../..")), 11),
    "T51-one-up": (files(x=link("..")), 11),
    "T51-deep": (files(d=lambda sim: sim.node({"e": {"x": sim.link("../../../x")}})), 11),
    "T51-allowed": (files(x=link("../shared"), gitrel__toml=ALLOW), 0),
    "T51-through-a-name": (files(x=link("nowhere/../../y")), 11),
    "T52": (files(x=link("serve")), 0),
    "T52-itself": (files(x=link(".")), 0),
    "T52-dangling": (files(x=link("nowhere/at/all")), 0),
    "T52-up-and-back": (files(d=lambda sim: sim.node({"x": sim.link("../serve")})), 0),
    "T52-slashes": (files(x=link("d//./y"), d=b""), 0),
    "T53": (files(a=link("b"), b=link("a")), 0),
    "T53-self": (files(a=link("a")), 0),
    "T53-grows": (files(a=link("a/a/a")), 0),
    "T54": (files(x=link(b"a\0b")), 11),
    "T55": (files(x=link("")), 11),
    "T56": (files(x=link("a/" * 2048)), 11),
    "T56-not-utf8": (files(x=link(b"\xff")), 11),
    "T58": (files(__gitattributes=link("serve")), 0),
    "T59": (files(Procfile=link("/etc/passwd")), 11),
    "T59-inside": (files(Procfile=link("serve")), 11),
    "T59-manifest": (files(gitrel__toml=link("serve")), 11),
    "T60": (files(a=link("b"), b=link("..")), 11),
    "T60-three": (files(a=link("d/b"), d=lambda sim: sim.node({"b": sim.link("../c"), "x": b""}), c=link("/etc")), 11),
    "T60-through-a-folder": (
        files(up=lambda sim: sim.node({"d": sim.link("..")}), x=link("up/d/d/../../etc")),
        11,
    ),
    "T60-venv": (
        files(
            bin=lambda sim: sim.node({"python": sim.link("python3"), "python3": sim.link("/usr/bin/python3.11")}),
            gitrel__toml=ALLOW,
        ),
        0,
    ),
    "T60-beyond-what-is-allowed": (
        files(a=link("b/../../../etc/shadow"), b=link("/usr/bin/python3"), gitrel__toml=ALLOW),
        11,
    ),
    "T60-below-what-is-allowed": (files(a=link("b/lib"), b=link("../shared"), gitrel__toml=ALLOW), 0),
    "no-manifest": (lambda sim: {"Procfile": b"w: x\n", "x": sim.link("/usr/bin/python3")}, 11),
    "manifest-is-a-folder": (
        lambda sim: {"Procfile": b"w: x\n", "gitrel.toml": {}, "x": sim.link("/usr/bin/python3")},
        11,
    ),
    "manifest-is-no-toml": (files(x=link("serve"), gitrel__toml=b"\xff"), 11),
}


@pytest.mark.parametrize("row", LINKS)
def test_link(row: str) -> None:
    make, expected = LINKS[row]
    assert judged(make) == expected


def test_a01_attributes_change_nothing() -> None:
    attributes = b"* eol=crlf ident export-ignore export-subst filter=lfs\n"
    sim = shop(0)
    sim.release(sim.build({**FILES, ".gitattributes": attributes, "id": b"$Id$\n"}))
    assert sim.verify().build == sim.node({**FILES, ".gitattributes": attributes, "id": b"$Id$\n"})


def test_r06_empty_folders() -> None:
    assert judged(files(empty=lambda sim: sim.node({}))) == 0


# what is too much; each in a few seconds at most


def nested(sim: Simulator, depth: int, name: bytes = b"d", inside: Node | None = None) -> Node:
    node = inside or sim.node({"f": b""})
    for _ in range(depth):
        node = sim.raw_tree((FOLDER, name, node.oid))
    return node


def bomb(sim: Simulator, inside: Node, levels: int = 8, width: int = 8) -> Node:
    node = inside
    for _ in range(levels):
        node = sim.raw_tree(*((FOLDER, b"%d" % at, node.oid) for at in range(width)))
    return node


def many_links(sim: Simulator) -> Node:
    """Half a million links, each of two thousand parts."""
    target = sim.link("a/" * 2000 + "a").oid
    return bomb(sim, sim.raw_tree(*((LINK, b"%03d" % at, target) for at in range(500))), levels=3, width=10)


TOO_MUCH: dict[str, Make] = {
    "R01": lambda sim: nested(sim, 1500),
    "R02": lambda sim: nested(sim, 1000, b"n" * 200),
    "R03": lambda sim: bomb(sim, sim.node({"f": b""})),
    "R04": lambda sim: bomb(sim, sim.node({})),
    "links": many_links,
}


@pytest.mark.parametrize("row", TOO_MUCH)
def test_too_much(row: str) -> None:
    sim = shop(1)
    sim.release(sim.build(TOO_MUCH[row](sim)))
    begun = time.process_time()
    assert sim.refusal() == 11
    assert time.process_time() - begun < 20


def inside(sim: Simulator, *names: str) -> Node:
    """A file in a folder for each name, one inside another."""
    node = sim.node({"f": b""})
    for name in reversed(names):
        node = sim.node({name: node})
    return node


@pytest.mark.parametrize(("depth", "expected"), [(128, 0), (129, 11)])
def test_as_many_folders_inside_one_another_as_there_may_be(depth: int, expected: int) -> None:
    assert judged(files(d=lambda sim: inside(sim, *["d"] * (depth - 1)))) == expected


@pytest.mark.parametrize(("length", "expected"), [(3839, 0), (3840, 11)])
def test_a_folder_s_path_as_long_as_it_may_be(length: int, expected: int) -> None:
    """With a slash after each name."""
    names = ["n" * 200] * 19
    names.append("m" * (length - len("/".join(["d", *names, ""])) - 1))
    assert judged(files(d=lambda sim: inside(sim, *names))) == expected


@pytest.mark.parametrize("row", ["R01", "R02", "R03"])
def test_hashing_is_bounded_by_itself(row: str) -> None:
    """`gitrel release` hashes a build whose provenance states no digest, before anything looks at its shape."""
    sim = shop(1)
    record = sim.build(TOO_MUCH[row](sim), provenance=b"{}")
    with pytest.raises(Refused) as caught:
        build_node(record, sim, "here")
    assert caught.value.check in (11, 12)


def test_a_cycle_of_trees_ends() -> None:
    """Two trees that name each other: only a broken hash function can make them."""
    sim = shop(0)
    oid = sim.fmt.object_id("tree", b"chosen")
    sim.objects[oid] = ("tree", b"".join(b"40000 %s\0%s" % (name, oid.raw) for name in (b"a", b"b")))
    for walk in (check_shape, hash_tree):
        with pytest.raises(Refused) as caught:
            walk(sim, oid, "here")
        assert caught.value.check == 11


# the trees that tie records together

TIES: dict[str, tuple[Callable[[Simulator], object], int]] = {
    "more-than-build": (lambda sim: sim.release(sim.build(), files={"extra": b""}), 11),
    "another-build": (lambda sim: sim.release(sim.build(), files={"build": sim.node({"other": b""})}), 9),
    "build-is-a-file": (lambda sim: sim.release(sim.build(), files={"build": b""}), 9),
    "no-build": (lambda sim: sim.release(sim.build(), tree=sim.node({}).oid), 9),
    "release-tree-missing": (lambda sim: sim.release(sim.build(), tree=sim.fmt.object_id("tree", b"?")), 11),
    "release-tree-garbage": (lambda sim: sim.release(sim.build(), tree=sim.put("tree", b"?")), 11),
    "config-without-a-record": (lambda sim: sim.release(sim.build(), files={"config": {"A": b"1"}}), 10),
    "another-config": (lambda sim: sim.release(sim.build(), sim.config(), files={"config": {"A": b"1"}}), 10),
    "config-left-out": (
        lambda sim: sim.release(sim.build(), sim.config(), tree=sim.node({"build": sim.node(FILES)}).oid),
        10,
    ),
    "empty-config-put-in": (lambda sim: sim.release(sim.build(), sim.config({}), files={"config": {}}), 10),
    "config-is-a-file": (lambda sim: sim.release(sim.build(), sim.config(), files={"config": b""}), 10),
    "build-record-holds-more": (
        lambda sim: sim.release(sim.build(tree=sim.node({"build": FILES, "provenance.json": b"", "x": b""}).oid)),
        9,
    ),
    "build-record-holds-less": (lambda sim: sim.release(sim.build(tree=sim.node({"build": FILES}).oid)), 9),
    "provenance-is-a-folder": (
        lambda sim: sim.release(sim.build(tree=sim.node({"build": FILES, "provenance.json": {}}).oid)),
        9,
    ),
    "config-with-a-folder": (lambda sim: sim.release(sim.build(), sim.config({"A": sim.node({})})), 10),
    "config-with-a-link": (lambda sim: sim.release(sim.build(), sim.config({"A": sim.link("x")})), 10),
    "config-executable": (
        lambda sim: sim.release(
            sim.build(),
            sim.config({"A": blob_node(b"info", sim.fmt, Mode.EXECUTABLE)}),
        ),
        10,
    ),
    "V02-equals": (lambda sim: sim.release(sim.build(), sim.config({"A=B": b""})), 10),
    "V04-space": (lambda sim: sim.release(sim.build(), sim.config({"A B": b""})), 10),
    "V05-nul": (lambda sim: sim.release(sim.build(), sim.config({"A": b"\0"})), 10),
    "V06-long": (lambda sim: sim.release(sim.build(), sim.config({"A": b"x" * 200_000})), 10),
    "V06-not-utf8": (lambda sim: sim.release(sim.build(), sim.config({"A": b"\xff"})), 10),
    "plain-and-secret": (lambda sim: sim.release(sim.build(), sim.config({"A": b"", "A.age": b""})), 10),
    "config-digest": (lambda sim: sim.release(sim.build(), sim.config(tree_sha256=sim.node({}).sha256)), 12),
    "release-digest": (lambda sim: sim.release(sim.build(), tree_sha256=sim.node({}).sha256), 12),
    "build-digest": (lambda sim: sim.release(sim.build(tree_sha256=sim.node({}).sha256)), 12),
    "good": (lambda sim: sim.release(sim.build(), sim.config()), 0),
    "good-without-config": (lambda sim: sim.release(sim.build()), 0),
    "good-empty-config": (lambda sim: sim.release(sim.build(), sim.config({})), 0),
}


@pytest.mark.parametrize("fmt", ObjectFormat)
@pytest.mark.parametrize("row", TIES)
def test_ties(row: str, fmt: ObjectFormat) -> None:
    attack, expected = TIES[row]
    sim = Simulator(fmt=fmt)
    sim.trust()
    attack(sim)
    assert sim.refusal() == expected


def test_values_are_made_in_one_place() -> None:
    sim = shop(1)
    verified = sim.verify()
    with pytest.raises(TypeError):
        VerifiedRelease(chained=verified.chained, build=verified.build, config={}, proof=None)
    with pytest.raises(TypeError):
        BoundRelease(
            chained=verified.chained,
            build_tree=verified.build.oid,
            config={},
            config_node=None,
            provenance=b"",
            proof=object(),
        )
