"""Every text for people has a German one, and each is compiled."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import django_dbpool

PACKAGE = Path(django_dbpool.__file__).parent
GERMAN = PACKAGE / "locale/de/LC_MESSAGES"
FUNCTIONS = {"_": 1, "gettext": 1, "gettext_lazy": 1, "ngettext": 2, "ngettext_lazy": 2}
"""And how many of their arguments are texts."""

FILES = sorted(
    path for path in (*PACKAGE.glob("templates/**/*.html"), *PACKAGE.rglob("*.py")) if "gettext" in path.read_text()
    or path.suffix == ".html"
)  # fmt: skip


def of_template(source: str) -> Iterator[str]:
    for found in re.finditer(r'{%\s*translate\s+"([^"]+)"', source):
        yield found[1]
    for found in re.finditer(r"{%\s*blocktranslate\b([^%]*)%}(.*?){%\s*endblocktranslate\s*%}", source, re.DOTALL):
        for text in re.split(r"{%\s*plural\s*%}", found[2]):
            if "trimmed" in found[1]:
                text = " ".join(line.strip() for line in text.strip().splitlines())
            yield re.sub(r"{{\s*([\w.]+)\s*}}", r"%(\1)s", text)


def of_module(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            for argument in node.args[: FUNCTIONS[node.func.id]]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


@pytest.fixture(scope="module")
def german() -> gettext.GNUTranslations:
    with (GERMAN / "django.mo").open("rb") as file:
        return gettext.GNUTranslations(file)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_text_has_a_german_one(path: Path, german: gettext.GNUTranslations) -> None:
    source = path.read_text()
    texts = set(of_template(source) if path.suffix == ".html" else of_module(source))
    known = {key[0] if isinstance(key, tuple) else key for key in german._catalog}  # type: ignore[attr-defined]
    plurals = set(re.findall(r'^msgid_plural "(.*)"$', (GERMAN / "django.po").read_text(), re.MULTILINE))
    plurals |= {
        "".join(re.findall(r'"(.*)"', found))
        for found in re.findall(r'^msgid_plural ""\n((?:".*"\n)+)', (GERMAN / "django.po").read_text(), re.MULTILINE)
    }
    assert sorted(texts - known - plurals) == []


def test_placeholders_are_the_same(german: gettext.GNUTranslations) -> None:
    for key, translated in german._catalog.items():  # type: ignore[attr-defined]
        text = key[0] if isinstance(key, tuple) else key
        if text and key != (text, 1):  # which is of the plural's text
            assert sorted(re.findall(r"%\(\w+\)s|{\w+}", text)) == sorted(re.findall(r"%\(\w+\)s|{\w+}", translated)), (
                text
            )
