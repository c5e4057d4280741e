"""JSON Schema (2020-12, as OpenAPI 3.1 has it) of what the endpoints answer, from the classes that they answer with."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    Any: {},
    object: {},
}


class Schemas:
    """
    Collects the classes that were met, by name, for ``components.schemas``.

    Args:
        computed: by class the properties that its ``to_json`` adds to the fields.
    """

    def __init__(self, computed: Mapping[type, Sequence[str]] | None = None) -> None:
        self._computed = computed or {}
        self.components: dict[str, Any] = {}
        self._classes: dict[str, type] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """
        Args:
            kind: a dataclass, a plain type, or whatever annotations make of them.

        Raises:
            TypeError: JSON has no such thing.
        """
        if isinstance(kind, Mapping):  # of field to type
            return self.fields(kind)
        origin = typing.get_origin(kind)
        if origin is typing.Literal:
            return {"enum": list(typing.get_args(kind))}
        if origin in (typing.Union, types.UnionType):
            return self._any_of(typing.get_args(kind))
        if origin is not None and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(typing.get_args(kind)[1])}
        if origin is not None and issubclass(origin, Sequence):
            return {"type": "array", "items": self.of(typing.get_args(kind)[0])}
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return self._reference(kind)
        if kind in _PLAIN:
            return dict(_PLAIN[kind])
        raise TypeError(f"JSON has no {kind!r}")

    def fields(self, kinds: Mapping[str, Any], descriptions: Mapping[str, str] | None = None) -> dict[str, Any]:
        """An object that has all of these."""
        properties = {name: self.of(kind) for name, kind in kinds.items()}
        for name, description in (descriptions or {}).items():
            if name in properties:
                properties[name]["description"] = description
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _any_of(self, kinds: Sequence[Any]) -> dict[str, Any]:
        schemas = [self.of(each) for each in kinds]
        if all(list(each) == ["type"] for each in schemas):
            return {"type": [each["type"] for each in schemas]}
        return {"anyOf": schemas}

    def _reference(self, kind: type) -> dict[str, Any]:
        name = kind.__name__
        if self._classes.setdefault(name, kind) is not kind:
            raise TypeError(f"two classes are called {name}")
        if name not in self.components:
            self.components[name] = {}  # it may contain itself
            hints = typing.get_type_hints(kind)
            told = {each.name: hints[each.name] for each in dataclasses.fields(kind)}
            for added in self._computed.get(kind, ()):
                told[added] = typing.get_type_hints(inspect.getattr_static(kind, added).fget)["return"]
            self.components[name] = self.fields(told, _descriptions(kind))
            if kind.__doc__ and not kind.__doc__.startswith(f"{name}("):  # that one is of @dataclass
                self.components[name]["description"] = inspect.cleandoc(kind.__doc__).partition("\n\n")[0]
        return {"$ref": f"#/components/schemas/{name}"}


@cache
def _descriptions(kind: type) -> dict[str, str]:
    """The strings under the fields; none where the source is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, SyntaxError):
        return {}
    found = {}
    body = typing.cast("ast.ClassDef", tree.body[0]).body
    for field, below in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = " ".join(below.value.value.split())
    return found
