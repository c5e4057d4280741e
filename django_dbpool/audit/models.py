"""Which classes are models, and what has a manager called ``objects``."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from . import orm
from .facts import Class, Facts, Object, Ref, Row
from .naming import capitalised, defined, identifier

if TYPE_CHECKING:
    from .infer import Inference

_MODEL_CALL = re.compile(r"(^|\.)get_(\w+_)?model\(\)$")
_MODEL_NAME = re.compile(r"(^|_)(model|klass)(_class|_cls)?$", re.IGNORECASE)
_ABSTRACT = {"AbstractUser", "AbstractBaseUser", "TimeStampedModel", "MPTTModel"}


class Models:
    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self._known: dict[ast.ClassDef, bool] = {}
        self._asked = {
            node.value.id
            for node in inference.module.nodes
            if isinstance(node, ast.Attribute) and node.attr in orm.MANAGERS and isinstance(node.value, ast.Name)
        }
        """Names of classes that this module asks for ``objects``."""

    def has_manager(self, base: ast.expr, facts: Facts) -> bool:
        """Whether its ``objects`` is a manager and not a bucket's content."""
        for fact in facts:
            match fact:
                case Class(node) | Object(node):
                    return self.is_model(node) or self._may_be_model(node)
                case Row():
                    return True
                case Ref():
                    if self.is_model_ref(fact) or capitalised(fact.last):
                        return True
                    if not fact.path.startswith("builtins."):
                        return False
        if isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "type":
            return True
        return bool(_MODEL_NAME.search(identifier(base)) or identifier(base) in ("cls", "__class__"))

    def is_model_ref(self, ref: Ref) -> bool:
        if _MODEL_CALL.search(ref.path):
            return True
        module = ref.path.rpartition(".")[0].split(".")
        if not capitalised(ref.last) or ref.path.startswith("django.db."):
            return False
        return "models" in module or (ref.last in self._asked and not ref.path.startswith("builtins."))

    def is_model(self, node: ast.ClassDef) -> bool:
        if node not in self._known:
            self._known[node] = False  # a class that derives from itself ends here
            self._known[node] = any(map(self._is_model_base, node.bases)) or self._has_fields(node)
        return self._known[node]

    def _is_model_base(self, base: ast.expr) -> bool:
        for fact in self.inference.facts(base):
            if isinstance(fact, Class) and self.is_model(fact.node):
                return True
            if isinstance(fact, Ref) and (
                fact.path in ("django.db.models.Model", "django.contrib.gis.db.models.Model")
                or fact.last in _ABSTRACT
                or (self.is_model_ref(fact) and not fact.last.endswith(("Form", "Admin", "Serializer", "Manager")))
            ):
                return True
        return False

    def _has_fields(self, node: ast.ClassDef) -> bool:
        values = [statement.value for statement in node.body if isinstance(statement, ast.Assign)]
        calls = [value.func for value in values if isinstance(value, ast.Call)]
        return any(
            re.match(r"django\.(contrib\.gis\.)?db\.models\.(\w+Field|ForeignKey)$", path)
            for call in calls
            for path in self.inference.refs(call)
        )

    def _may_be_model(self, node: ast.ClassDef) -> bool:
        """It derives from something unknown, and doesn't say itself that its ``objects`` is something else."""
        if not any(isinstance(fact, Ref) for base in node.bases for fact in self.inference.facts(base)):
            return False
        own = defined(node, "objects")
        return own is None or isinstance(own, ast.Call)

    def instance(self, node: ast.ClassDef) -> Row | Object:
        return Row(node) if self.is_model(node) else Object(node)
