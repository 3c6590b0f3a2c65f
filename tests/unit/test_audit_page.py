"""The audit's page: nothing in a repository becomes markup, its structure holds, and it says what is so."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from audit_support import audit, write_repository
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_support import ed25519_key
from simulator import FILES, Simulator, policy, role

from gitrel.audit.changes import Changes, FileChange, SourceCommit, read_changes
from gitrel.audit.differences import Difference, Rebuilt
from gitrel.audit.page.markup import Html, csp_hash, element, escape, raw_element, visible
from gitrel.audit.page.whole import as_html
from gitrel.audit.result import Audit, ReleaseReport, Standing
from gitrel.format.record import CitedRelease
from gitrel.format.trust import DeployPolicy
from gitrel.ids import PRODUCTION, Deploy, Entry, ObjectId
from gitrel.store.repository import Repository

STAGING = Deploy("staging")
CAROL = ed25519_key("carol")
ATTACK = "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>]]>--><!--\"' &lt;"
HIDING = "\u202e\u2066\u200b\u2028\ufeff"
VALUE = b"a-value-that-nobody-may-see"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """What a reader makes of it: tags in order, text, ids, links. Complains about what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.comments: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute stands twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def text(self) -> str:
        return "".join(data for tag, data in self.texts if tag not in ("script", "style"))

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attributes)) for tag, attributes in self.tags]

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def inside(self, tag: str) -> str:
        return "".join(data for name, data in self.texts if name == tag)


def rules(*, carol: bool = True, **over: Any) -> Any:
    people = {"alice": (ed25519_key("alice"),), **({"carol": (CAROL,)} if carol else {})}
    everybody = role(*people)
    return policy(
        people,
        release=everybody,
        build=everybody,
        deploys={STAGING: DeployPolicy(release=everybody, config=role("alice"))},
        **over,
    )


def source(sim: Simulator, parent: ObjectId | None, subject: bytes) -> ObjectId:
    before = b"parent %s\n" % parent.encode() if parent else b""
    who = b"<script>M\xe9chant\x1b[31m\xff <m@example.org> 1 +0000"
    return sim.put("commit", b"tree %s\n%sauthor %s\ncommitter %s\n\n%s\n" % (b"4" * 40, before, who, who, subject))


def story() -> Simulator:
    """Two deploys, a promotion, a rollback, somebody who leaves and goes on, a lost release, and hostile words."""
    sim = Simulator()
    sim.trust(rules())
    config = sim.config({"LOG_LEVEL": VALUE, "TOKEN.age": VALUE}, subject=f"Config {ATTACK}")
    first = source(sim, None, b"First")
    builds = [sim.build(source=first)]
    second = source(sim, source(sim, first, b"Between"), b"<script>alert(3)</script>\xc2\x9b31m\xff")
    hostile = {**FILES, "Procfile": b"web: ./serve '</script><script>'\n", "<script>x": b"1", "deep": {"er": b"22"}}
    builds.append(sim.build(hostile, source=second, by=CAROL))
    staged = sim.release(builds[0], deploy=STAGING, subject="On trial")
    sim.release(
        builds[0], config, promoted_from=CitedRelease(STAGING, staged.record.entry, staged.id), subject="Promoted"
    )
    sim.release(builds[1], config, by=CAROL, subject=ATTACK, text=f"{ATTACK}\n{HIDING}")
    sim.release(builds[0], config, rollback_to=Entry(1), subject=f"Back {HIDING}")
    sim.trust(rules(carol=False), subject="Carol has left")
    sim.release(builds[1], config, by=CAROL, subject="Carol goes on")
    lost = sim.release(builds[0], config, subject="Lost")
    del sim.refs[str(lost.record.ref)]
    sim.config({"<script>alert(4)</script>": VALUE}, subject="Bad name")
    sim.release(builds[0], sim.configs[PRODUCTION][-1], subject="After the lost one")
    sim.refs["refs/releases/<script>alert(5)</script>"] = lost.id.oid
    sim.refs['refs/releases/"onload="x'] = lost.id.oid
    return sim


def surveyed(sim: Simulator, path: Path, **over: Any) -> tuple[Audit, dict[str, Changes]]:
    found = audit(write_repository(sim, path), sim, **over)
    with Repository.open(path) as repo:
        return found, read_changes(repo, found)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, dict[str, Changes]]:
    return surveyed(story(), tmp_path_factory.mktemp("story") / "shop.git")


@pytest.fixture(scope="module")
def html(told: tuple[Audit, dict[str, Changes]]) -> str:
    return as_html(*told, "1.0")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


# Escaping

PIECES = [
    "<",
    ">",
    "&",
    '"',
    "'",
    "</script>",
    "<!--",
    "-->",
    "]]>",
    "</",
    "<b>",
    "&lt;",
    "&#60;",
    " onload=",
    "=",
    " ",
    "x",
]
PIECES += ["\x00", "\x1b[31m", "\r\n", "\t", "\x85", "\xad", "\u200b", "\u2028", "\u202e", "\u2066", "\ufeff", "\ud800"]
HOSTILE = st.lists(st.one_of(st.sampled_from(PIECES), st.characters()), max_size=20).map("".join)


@given(HOSTILE, HOSTILE)
def test_an_element_gives_back_what_was_put_in(text: str, value: str) -> None:
    found = Page(element("p", text, title=value))
    assert found.tags == [("p", {"title": visible(value)})]
    assert found.text == visible(text)
    assert found.comments == []


@given(HOSTILE)
def test_nothing_hides(text: str) -> None:
    shown = visible(text)
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]", shown
    )
    assert shown == text or len(shown) > len(text)


def test_markup_that_is_built_wrongly_is_text() -> None:
    assert type(Html("<b>") + "<i>") is str
    assert escape(Html("<b>") + "<i>") == "&lt;b&gt;&lt;i&gt;"
    assert element("p", "x", hidden=False, open=True) == "<p open>x</p>"
    for text in ("a</b", "<!-- x"):
        with pytest.raises(ValueError, match="end early"):
            raw_element("script", text)


def worded(told: tuple[Audit, dict[str, Changes]], word: str) -> str:
    """The page of the same history with other words in all places that somebody else writes."""
    found, changes = told

    def release(each: ReleaseReport) -> ReleaseReport:
        names = (word, f"{word}2")
        return replace(each, subject=word, text=word, variables=names, secrets=names[:1])

    deploys = tuple(replace(each, releases=tuple(map(release, each.releases))) for each in found.deploys)
    findings = tuple(
        replace(each, what=word, who=word, object=word, advice=word, evidence=(word,)) for each in found.findings
    )
    other = Changes(
        first=False,
        files=(FileChange(mark="A", path=word, before=None, after=1),),
        files_unknown=word,
        processes=((word, word, None),),
        commits=(SourceCommit(id=ObjectId("1" * 40), author=word, subject=word),),
        commits_unknown=word,
    )
    rebuilt = Rebuilt(
        release="refs/releases/v1",
        source=ObjectId("1" * 40),
        signed=ObjectId("2" * 40),
        rebuilt=ObjectId("3" * 40),
        differences=(Difference(word, word, word),),
    )
    other_words = replace(found, repository=word, deploys=deploys, findings=findings)
    return as_html(other_words, dict.fromkeys(changes, other), "1.0", rebuilt)


@settings(max_examples=25, deadline=None)
@given(HOSTILE.filter(bool))
def test_no_words_change_the_structure(told: tuple[Audit, dict[str, Changes]], word: str) -> None:
    plain, hostile = Page(worded(told, "x")), Page(worded(told, f"x{word}"))
    assert hostile.shape == plain.shape
    assert hostile.comments == []


def test_endless_words_end(told: tuple[Audit, dict[str, Changes]]) -> None:
    assert len(worded(told, "x" * 100_000)) < 500_000


def test_hostile_words_are_only_words(page: Page) -> None:
    assert page.comments == []
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert not {"iframe", "img", "object", "link", "base", "form", "image", "use"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("style", "src", "srcdoc", "xlink:href")
        ]
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("#"), tag
    for words in (
        ATTACK,
        visible(HIDING),
        "<script>alert(3)</script>\\x9b31m",
        "<script>x",
        "<script>alert(4)</script>",
    ):
        assert words in page.text
    assert "refs/releases/<script>alert(5)</script>" in page.text


def test_no_value_of_a_variable(html: str) -> None:
    assert VALUE.decode() not in html
    assert "LOG_LEVEL" in html
    assert "TOKEN" in html


# What lets it stand by itself


def test_the_policy_lets_in_its_own_style_and_script_only(page: Page) -> None:
    policies = [
        each["content"] or "" for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    parts = {name: rest for name, _, rest in (each.partition(" ") for each in policies[0].split("; "))}
    assert parts["default-src"] == parts["base-uri"] == parts["form-action"] == "'none'"
    assert parts["script-src"] == csp_hash(page.inside("script"))
    assert parts["style-src"] == csp_hash(page.inside("style"))
    own = files("gitrel.audit.page")
    assert page.inside("script") == own.joinpath("page.js").read_text("utf-8")
    assert page.inside("style") == own.joinpath("page.css").read_text("utf-8")
    assert not re.search(r"url\(|@import|https?:", page.inside("style") + page.inside("script"))
    assert "innerHTML" not in page.inside("script")


def test_the_same_audit_gives_the_same_bytes(tmp_path: Path, html: str) -> None:
    assert as_html(*surveyed(story(), tmp_path / "again.git"), "1.0") == html


# Structure


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    wanted = {(each["href"] or "")[1:] for each in page.of("a")}
    wanted |= {each["aria-labelledby"] or "" for _, each in page.tags if "aria-labelledby" in each}
    assert wanted <= set(ids)
    assert {"releases/v1", "releases/staging/v1", "trust/v2", "check-5", "finding-1"} <= wanted


def test_headings_go_down_one_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_who_cannot_see_can_read_it(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert all(tags.count(landmark) == 1 for landmark in ("header", "nav", "main", "footer"))
    assert page.of("html") == [{"lang": "en"}]
    assert tags.count("table") == tags.count("caption") > 3
    assert {each.get("scope") for each in page.of("th")} == {"col", "row"}
    assert {each.get("aria-hidden") for each in page.of("svg")} == {"true"}
    assert all(each.get("aria-labelledby") for each in page.of("section"))
    assert all("datetime" in each for each in page.of("time"))


# What it says


def test_the_verdict_is_a_sentence(told: tuple[Audit, dict[str, Changes]], tmp_path: Path) -> None:
    found, changes = told
    errors = sum(each.severity == "error" for each in found.findings)
    assert f"No. {errors} things are wrong with the release history of shop." in Page(as_html(found, changes, "1")).text
    sim = Simulator()
    sim.trust(rules())
    sim.release()
    clean = surveyed(sim, tmp_path / "clean")
    assert "Yes. The whole release history of shop is as its people signed it." in Page(as_html(*clean, "1")).text
    partly = audit(tmp_path / "clean", sim, contents=False)
    assert "but not all of it was looked at" in Page(as_html(partly, {}, "1")).text
    nobody = audit(tmp_path / "clean", sim, pin="0" * 64)
    assert "it does not begin with what the pin stands for" in Page(as_html(nobody, {}, "1")).text


def test_who_put_what_where(told: tuple[Audit, dict[str, Changes]], page: Page) -> None:
    for words in (
        "taken over from staging v1: Promoted",
        "goes back to v1: Back",
        "carol went, with all keys",
        "carol (invalid key)",
        "v5 is missing",
        "2023-11-14 22:13 UTC",
        "before ./serve",
        "now ./serve '</script><script>'",
    ):
        assert words in page.text, words
    assert [each.standing for each in told[0].deploys[0].releases][:4] == [Standing.GOOD] * 3 + [Standing.REFUSED]
