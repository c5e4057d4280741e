"""The harness can fail, and says what by name; the corpus and the labels are what they claim to be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from tests.audit.harness import RULES, Labels, Mark, Source, compare, compare_package, functions_in, marks_of
from tests.audit.test_corpus import CORPUS, LABELS


class Found(NamedTuple):
    rule: str
    path: Path
    line: int
    column: int = 4


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "shop.py"
    path.write_text(
        dedent(
            """\
            def pay():
                post()  # expect: DBP302, DBP303
                save()  # either: DBP301
                # expect-next: DBP101
                connect()  # noqa: S105


            class Job(Thread):
                def run(self):
                    work()  # expect: DBP201

                def stop(self):
                    print("# expect: DBP102")
            """
        )
    )
    return Source.read(path)


@pytest.fixture
def right(source):
    return [Found(rule, source.path, line) for rule, line in [("DBP302", 2), ("DBP303", 2), ("DBP101", 5)]] + [
        Found("DBP201", source.path, 10)
    ]


def test_marks(source):
    assert marks_of(source) == [
        Mark("DBP302", 2),
        Mark("DBP303", 2),
        Mark("DBP301", 3, required=False),
        Mark("DBP101", 5),
        Mark("DBP201", 10),
    ]


@pytest.mark.parametrize("comment", ["# expect DBP101", "# expect: DBP999", "# expect: all", "# expects: DBP101?"])
def test_a_garbled_mark_is_refused(tmp_path, comment):
    path = tmp_path / "shop.py"
    path.write_text(f"connect()  {comment}\n")
    if comment.startswith("# expects"):  # a word of a sentence
        assert marks_of(Source.read(path)) == []
        return
    with pytest.raises(ValueError, match=r"shop.py:1: not a mark"):
        marks_of(Source.read(path))


def test_what_is_marked_and_found_is_no_difference(source, right):
    assert not compare(source, marks_of(source), right)
    assert not compare(source, marks_of(source), [*right, Found("DBP301", source.path, 3)])


def test_missed(source, right):
    difference = compare(source, marks_of(source), right[1:])
    assert difference.missed == ["shop.py:2 DBP302 in pay: post()  # expect: DBP302, DBP303"]
    assert difference and "missed (1):\n  shop.py:2" in str(difference)


def test_false(source, right):
    difference = compare(source, marks_of(source), [*right, Found("DBP102", source.path, 13)])
    assert difference.false == ['shop.py:13 DBP102 in Job.stop: print("# expect: DBP102")']
    assert difference and not difference.missed


def test_the_wrong_rule_is_missed_and_false(source, right):
    difference = compare(source, marks_of(source), [*right[:2], Found("DBP102", source.path, 5), right[3]])
    assert [len(lines) for lines in (difference.missed, difference.false, difference.misplaced)] == [1, 1, 0]


def test_misplaced_in_the_same_case(source, right):
    difference = compare(source, marks_of(source), [*right[:2], Found("DBP101", source.path, 1), right[3]])
    assert difference.misplaced == ["shop.py:5 DBP101 in pay: connect()  # noqa: S105, found in line 1"]
    assert not difference.missed and not difference.false


def test_in_another_case_it_is_not_the_same_finding(source, right):
    difference = compare(source, marks_of(source), [*right[:2], Found("DBP101", source.path, 13), right[3]])
    assert [len(lines) for lines in (difference.missed, difference.false, difference.misplaced)] == [1, 1, 0]


def test_twice(source, right):
    assert compare(source, marks_of(source), [*right, right[0]]).twice == ["shop.py:2:4 DBP302"]


def test_a_class_may_carry_the_finding_of_its_run(source, right):
    assert not compare(source, marks_of(source), [*right[:3], Found("DBP201", source.path, 8)])
    assert compare(source, marks_of(source), [*right[:3], Found("DBP201", source.path, 1)])


@pytest.fixture
def package(tmp_path):
    (tmp_path / "models.py").write_text("def a():\n    x.save()\n\n\ndef b():\n    x.save()\n    y.get()\n")
    labels = tmp_path / "labels.toml"
    labels.write_text(
        dedent(
            """\
            distribution = "shop"
            package = "shop"
            versions = ["4.0"]
            looked_at = "everything"

            [[finding]]
            file = "models.py"
            scope = "b"
            snippet = "x.save()"
            rule = "DBP301"
            why = "so it is"

            [[near_miss]]
            file = "models.py"
            snippet = "y.get()"
            rule = "DBP301"
            why = "a dict"
            """
        )
    )
    return tmp_path, Labels.read(labels)


def test_labels_go_by_text_and_scope(package):
    root, labels = package
    path = root / "models.py"
    assert not compare_package(root, labels, [Found("DBP301", path, 6)], version="4.0.3")
    assert len(compare_package(root, labels, [], version="4.0.3").missed) == 1
    assert len(compare_package(root, labels, [Found("DBP301", path, n) for n in (2, 6)], version="4.0.3").false) == 1
    assert len(compare_package(root, labels, [Found("DBP301", path, n) for n in (6, 7)], version="4.0.3").false) == 1


def test_a_label_of_a_line_that_is_gone(package):
    root, labels = package
    (root / "models.py").write_text("def b():\n    y.get()\n")
    assert compare_package(root, labels, [], version="4.0").missed == ["no such line: models.py: x.save()"]
    assert not compare_package(root, labels, [], version="4.1")
    labels.findings[0]["versions"] = ["4.0.2"]
    assert not compare_package(root, labels, [], version="4.0.3")
    assert compare_package(root, labels, [], version="4.0.2")


def test_in_a_version_that_nobody_read_only_labels_count(package):
    root, labels = package
    path = root / "models.py"
    assert not compare_package(root, labels, [Found("DBP301", path, n) for n in (2, 6)], version="4.01")
    assert len(compare_package(root, labels, [Found("DBP301", path, n) for n in (6, 7)], version="5.0").false) == 1
    assert len(compare_package(root, labels, [], version="5.0").missed) == 1


def test_a_finding_in_a_file_without_labels_is_false(package):
    root, labels = package
    (root / "views.py").write_text("z.get()\n")
    found = [Found("DBP301", root / "models.py", 6), Found("DBP301", root / "views.py", 1)]
    assert compare_package(root, labels, found, version="4.0").false == ["views.py:1 DBP301 in <module>: z.get()"]


def test_the_corpus_has_enough_of_everything():
    """Cases are public functions and methods; those that begin with an underscore belong to a case."""
    marked: Counter[str] = Counter()
    loud = silent = 0
    for path in CORPUS:
        source = Source.read(path)
        marks = marks_of(source)
        for name, node in functions_in(source.tree.body, ""):
            inner = name.rpartition(".")[2]
            if inner.startswith("_") or any(other.startswith(f"{name}.") for other, _ in source.functions()):
                continue
            own = {mark.rule for mark in marks if source.case_at(mark.line) == name and mark.required}
            marked.update(own)
            loud += bool(own)
            silent += not any(source.case_at(mark.line) == name for mark in marks)
            assert node.lineno
    assert set(marked) == set(RULES)
    assert min(marked.values()) >= 8, marked
    assert loud + silent >= 60
    assert silent * 3 >= loud + silent, f"{silent} of {loud + silent} cases are silent"


@pytest.mark.parametrize("path", LABELS, ids=lambda path: path.stem)
def test_labels_can_be_read(path):
    labels = Labels.read(path)
    assert labels.findings or labels.near_misses
    for label in [*labels.findings, *labels.either, *labels.near_misses]:
        assert label["snippet"] == label["snippet"].strip()
        assert not label["file"].startswith("/")
