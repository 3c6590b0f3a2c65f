"""The builds of a commit are found by an index that is only a hint: whatever stands in it, the records decide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulator import FILES, Simulator

from gitrel.format.record import BuildRecord, Signed
from gitrel.ids import BuildRef, ObjectFormat, ObjectId
from gitrel.store.pack import PackWriter
from gitrel.store.repository import Repository
from gitrel.store.sources import MANY, builds_of
from gitrel.trust.walk import walk_builds


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "r.git", ObjectFormat.SHA1) as repo:
        yield repo


def put(sim: Simulator, repo: Repository) -> None:
    with PackWriter(repo) as pack:
        for kind, data in sim.objects.values():
            pack.add(kind, data)
        pack.finish()
    repo.refs.create_all(sim.refs)


def made(sim: Simulator, text: str) -> Signed[BuildRecord]:
    return sim.build({**FILES, "version": text.encode()})


def test_each_record_is_read_once(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = Simulator()
    sim.trust()
    builds = [made(sim, str(number)) for number in range(MANY)]
    put(sim, repo)
    source = builds[0].record.source
    wanted = {str(BuildRef(each.id.oid)): each.id.oid for each in builds if each.record.source == source}
    assert wanted
    assert builds_of(repo, source) == wanted
    later = made(sim, "later")
    put(sim, repo)
    read: list[ObjectId] = []
    whole = Repository.read

    def counted(self: Repository, oid: ObjectId, kind: str) -> bytes:
        read.append(oid)
        return whole(self, oid, kind)

    monkeypatch.setattr(Repository, "read", counted)
    found = builds_of(repo, later.record.source)
    assert read == [later.id.oid]
    assert str(BuildRef(later.id.oid)) in found
    assert builds_of(repo, ObjectId("0" * 40)) == {}
    assert read == [later.id.oid] * 2  # one is not worth writing the file anew
    assert len((repo.path / "gitrel/sources").read_text().splitlines()) == MANY


def test_a_few_builds_leave_no_file(repo: Repository) -> None:
    sim = Simulator()
    sim.trust()
    builds = [made(sim, str(number)) for number in range(MANY - 1)]
    put(sim, repo)
    assert len(builds_of(repo, builds[0].record.source)) == MANY - 1
    assert not (repo.path / "gitrel").exists()


@pytest.mark.parametrize("what", ["gone", "torn", "empty", "another's", "rubbish"])
def test_a_bad_index_is_made_again_or_finds_nothing_wrong(repo: Repository, what: str) -> None:
    sim = Simulator()
    sim.trust()
    build, *_ = [made(sim, str(number)) for number in range(MANY)]
    other = ObjectId("5" * 40)
    put(sim, repo)
    wanted = builds_of(repo, build.record.source)
    path = repo.path / "gitrel/sources"
    raw = path.read_bytes()
    if what == "gone":
        path.unlink()
    else:
        lie = raw.replace(f"{build.id.oid} {build.record.source}\n".encode(), f"{build.id.oid} {other}\n".encode())
        assert lie != raw
        changed = {"torn": raw[:700], "empty": b"", "another's": lie, "rubbish": b"\0" * 99}
        path.write_bytes(changed[what])
    chain = sim.chain()
    if what == "another's":  # it says something else than the record: that is what counts
        found = builds_of(repo, other)
        assert list(found.values()) == [build.id.oid]
        assert list(walk_builds(repo.refs.view("refs/"), repo, chain, other, among=found)) == []
    else:
        assert builds_of(repo, build.record.source) == wanted
        assert what == "torn" or path.read_bytes() == raw  # the few that it lost are read again


def test_what_is_no_build_record_is_of_no_source(repo: Repository) -> None:
    sim = Simulator()
    sim.trust()
    release = sim.release()
    for number in range(MANY):
        made(sim, str(number))
    put(sim, repo)
    repo.refs.create(str(BuildRef(release.id.oid)), release.id.oid)
    repo.refs.create(f"refs/builds/{'9' * 40}", ObjectId("9" * 40))  # an object that is not here
    build = release.record.build.oid
    whole = walk_builds(repo.refs.view("refs/"), repo, sim.chain())
    source = next(each.signed.record.source for each in whole if each.signed.id.oid == build)
    found = builds_of(repo, source)
    assert build in found.values()
    assert not {release.id.oid, ObjectId("9" * 40)} & set(found.values())
    assert f"{release.id.oid} -\n" in (repo.path / "gitrel/sources").read_text()
    assert "9" * 40 not in (repo.path / "gitrel/sources").read_text()
