"""
Comparing what the audit finds with what people have marked.

In ``corpus/`` comments mark the lines: ``# expect: DBP301`` (more ids after commas) for a finding that must be there,
``# either: DBP301`` where the rules leave it open, ``# expect-next:`` for the line below, where a comment on the line
itself would change the case. A line without a mark is silent. In ``labels/`` a TOML file does the same for sources
that aren't ours; it names lines by their text and the function around them, because versions move lines.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

RULES = ("DBP101", "DBP102", "DBP201", "DBP301", "DBP302", "DBP303")

MARK = re.compile(r"#\s*(expect|expect-next|either|either-next):\s*(DBP\d{3}(?:,\s*DBP\d{3})*)\b")
MEANT_AS_MARK = re.compile(r"#\s*(expect|either)\b")

# Where the line of a finding is a matter of taste: the first line of such a node around the mark is as good.
HEADERS: dict[str, tuple[type[ast.AST], ...]] = {
    "DBP201": (ast.ClassDef,),  # a subclass of Thread, or its run()
    "DBP303": (ast.For, ast.AsyncFor),  # the loop, or the slow call in it
}


class Finding(Protocol):
    """What the harness reads of a finding of the audit."""

    @property
    def rule(self) -> str: ...
    @property
    def path(self) -> str | Path: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


@dataclass(frozen=True)
class Mark:
    """One rule on one line: ``required`` if it must be found, otherwise it may be."""

    rule: str
    line: int
    required: bool = True


@dataclass(frozen=True)
class Source:
    """One Python file, its text parsed once."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    @classmethod
    def read(cls, path: Path, *, below: Path | None = None) -> Source:
        text = path.read_text(encoding="utf-8")
        return cls(path, str(path.relative_to(below)) if below else path.name, text, ast.parse(text, str(path)))

    def case_at(self, line: int) -> str:
        """The outermost function around a line, with its class: what a person would call the case."""
        for name, node in self.functions():
            if first_line(node) <= line <= (node.end_lineno or line):
                return name
        return "<module>"

    def functions(self) -> Iterator[tuple[str, ast.AST]]:
        yield from functions_in(self.tree.body, "")

    def headers_around(self, line: int, kinds: tuple[type[ast.AST], ...]) -> set[int]:
        return {
            node.lineno
            for node in ast.walk(self.tree)
            if isinstance(node, kinds) and node.lineno <= line <= (node.end_lineno or line)
        }


def functions_in(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, Any]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            inner = list(functions_in(node.body, f"{prefix}{node.name}."))
            yield from inner
            yield prefix + node.name, node  # after its methods: lines between them are the class's
        elif isinstance(node, (ast.If, ast.Try)):
            yield from functions_in(node.body, prefix)


def first_line(node: Any) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def marks_of(source: Source) -> list[Mark]:
    """The marks in a file of the corpus. Raises ValueError for a comment that looks like one and isn't."""
    marks = []
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type != tokenize.COMMENT or not MEANT_AS_MARK.search(token.string):
            continue
        match = MARK.search(token.string)
        rules = re.findall(r"DBP\d{3}", match[2]) if match else []
        if match is None or not set(rules) <= set(RULES):
            raise ValueError(f"{source.path}:{token.start[0]}: not a mark: {token.string}")
        line = token.start[0] + match[1].endswith("-next")
        marks += [Mark(rule, line, required=match[1].startswith("expect")) for rule in rules]
    return marks


@dataclass
class Comparison:
    """What differs between marks and findings, in lines for people; empty if nothing does."""

    missed: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missed or self.false or self.misplaced or self.twice)

    def __iadd__(self, other: Comparison) -> Self:
        for name, lines in vars(other).items():
            getattr(self, name).extend(lines)
        return self

    def __str__(self) -> str:
        parts = (f"{name} ({len(lines)}):\n  " + "\n  ".join(lines) for name, lines in vars(self).items() if lines)
        return "\n".join(parts) or "no difference"


def compare(source: Source, marks: Sequence[Mark], findings: Sequence[Finding]) -> Comparison:
    """
    Hold the findings in one file against its marks.

    A finding belongs to a mark of its rule on its line, or to one further inside where ``HEADERS`` leaves the line
    open. What is missed and what is false in the same case by the same rule is one finding at the wrong line.
    """
    found = set()
    unmarked = []
    for finding in findings:
        own = [mark for mark in marks if mark.rule == finding.rule and finding.line in lines_for(source, mark)]
        found.update(own)
        if not own:
            unmarked.append(finding)
    missed = [mark for mark in marks if mark.required and mark not in found]

    result = Comparison()
    for mark in missed:
        case = source.case_at(mark.line)
        twin = next((f for f in unmarked if f.rule == mark.rule and source.case_at(f.line) == case), None)
        if twin is not None:
            unmarked.remove(twin)
            result.misplaced.append(f"{named(source, mark)}, found in line {twin.line}")
        else:
            result.missed.append(named(source, mark))
    result.false = [named(source, finding) for finding in unmarked]
    seen = Counter((finding.rule, finding.line, finding.column) for finding in findings)
    result.twice = [f"{source.name}:{line}:{column} {rule}" for (rule, line, column), n in seen.items() if n > 1]
    return result


def lines_for(source: Source, mark: Mark) -> set[int]:
    return {mark.line} | source.headers_around(mark.line, HEADERS.get(mark.rule, ()))


def named(source: Source, at: Mark | Finding) -> str:
    text = source.text.splitlines()[at.line - 1].strip()
    return f"{source.name}:{at.line} {at.rule} in {source.case_at(at.line)}: {text}"


@dataclass(frozen=True)
class Labels:
    """What a person found in a package that isn't ours."""

    distribution: str
    package: str
    versions: tuple[str, ...]
    below: str
    findings: list[dict[str, Any]]
    either: list[dict[str, Any]]
    near_misses: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Labels:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        known = {"distribution", "package", "versions", "below", "looked_at", "finding", "either", "near_miss"}
        entries = [*data.get("finding", []), *data.get("either", []), *data.get("near_miss", [])]
        for entry in entries:
            if set(entry) - {"scope", "versions"} != {"file", "snippet", "rule", "why"} or entry["rule"] not in RULES:
                raise ValueError(f"{path.name}: not a label: {entry}")
        if set(data) - known or not data.get("looked_at"):
            raise ValueError(f"{path.name}: {sorted(set(data) - known) or 'nothing in looked_at'}")
        return cls(
            distribution=data["distribution"],
            package=data["package"],
            versions=tuple(data["versions"]),
            below=data.get("below", "."),
            findings=data.get("finding", []),
            either=data.get("either", []),
            near_misses=data.get("near_miss", []),
        )

    def were_made_for(self, version: str) -> bool:
        return one_of(self.versions, version)


def one_of(versions: Iterable[str], version: str) -> bool:
    return any(version == own or version.startswith(f"{own}.") for own in versions)


def compare_package(root: Path, labels: Labels, findings: Sequence[Finding], *, version: str) -> Comparison:
    """
    Hold the findings below ``root``, a package's folder, against its labels.

    In a version that was read, an unlabelled finding is a false one and each label must name a line. In another, only
    what the labels say about lines that are still there counts. A label's own ``versions``
    say in which its line exists.
    """
    read_by_eye = labels.were_made_for(version)
    result = Comparison()
    by_file: dict[Path, list[Finding]] = {}
    for finding in findings:
        by_file.setdefault(Path(finding.path).resolve(), []).append(finding)

    root = root.resolve()
    marks: dict[Path, list[Mark]] = {path: [] for path in by_file}
    silent: dict[Path, list[Mark]] = {}
    for kind, into in (("findings", marks), ("either", marks), ("near_misses", silent)):
        for label in getattr(labels, kind):
            path = (root / label["file"]).resolve()
            lines = lines_named(path, label)
            if not lines and read_by_eye and one_of(label.get("versions", [version]), version):
                result.missed.append(f"no such line: {label['file']}: {label['snippet']}")
            if lines:
                own = [Mark(label["rule"], line, required=kind == "findings") for line in lines]
                into.setdefault(path, []).extend(own)

    for path, own in marks.items():
        source = Source.read(path, below=root)
        labelled = [(mark.rule, lines_for(source, mark)) for mark in [*own, *silent.get(path, [])]]
        counted = [
            finding
            for finding in by_file.get(path, [])
            if read_by_eye or any(finding.rule == rule and finding.line in lines for rule, lines in labelled)
        ]
        result += compare(source, own, counted)
    return result


def lines_named(path: Path, label: dict[str, Any]) -> list[int]:
    if not path.is_file():
        return []
    source = Source.read(path)
    scope = label.get("scope")
    return [
        number
        for number, line in enumerate(source.text.splitlines(), start=1)
        if line.strip() == label["snippet"] and (scope is None or source.case_at(number) == scope)
    ]
