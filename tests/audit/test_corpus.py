"""What the audit finds in code that people have marked, in apps that others wrote, and in Django's own."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from django_dbpool.audit import Finding, audit_paths
from tests.audit.harness import RULES, Labels, Source, compare, compare_package, marks_of

HERE = Path(__file__).parent
CORPUS = sorted((HERE / "corpus").glob("*.py"))
LABELS = sorted((HERE / "labels").glob("*.toml"))


@pytest.fixture(scope="module")
def corpus_findings() -> list[Finding]:
    return audit_paths([HERE / "corpus"])


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(path):
    source = Source.read(path)
    difference = compare(source, marks_of(source), audit_paths([path]))
    assert not difference, f"\n{difference}"


@pytest.mark.parametrize("path", LABELS, ids=lambda path: path.stem)
def test_sources_of_others(path):
    labels = Labels.read(path)
    root = folder_of(labels) / labels.below
    difference = compare_package(root, labels, audit_paths([root]), version=version(labels.distribution))
    assert not difference, f"\n{difference}"


def test_the_folder_gives_what_its_files_give(corpus_findings):
    one_by_one = [finding for path in CORPUS for finding in audit_paths([path])]
    key = [(finding.rule, Path(finding.path).name, finding.line, finding.column) for finding in corpus_findings]
    assert sorted(key) == sorted((f.rule, Path(f.path).name, f.line, f.column) for f in one_by_one)


def test_every_finding_says_what_and_what_to_do(corpus_findings):
    assert {finding.rule for finding in corpus_findings} == set(RULES)
    for finding in corpus_findings:
        assert finding.message.strip(), finding
        assert finding.fix.strip(), finding
        assert finding.column >= 0, finding


def test_labels_name_lines_that_are_there():
    """In the version that was read; needs no audit."""
    stale = []
    for path in LABELS:
        labels = Labels.read(path)
        try:
            root = folder_of(labels) / labels.below
        except pytest.skip.Exception:
            continue
        nothing_required = replace(labels, findings=[], near_misses=[*labels.near_misses, *labels.findings])
        stale += compare_package(root, nothing_required, [], version=version(labels.distribution)).missed
    assert not stale, "\n".join(stale)


def folder_of(labels: Labels) -> Path:
    spec = find_spec(labels.package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{labels.package} is not installed")
    return Path(spec.submodule_search_locations[0])
