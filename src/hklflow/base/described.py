"""Models whose fields are described by the docstrings below them.

pydantic reads these docstrings when a class is made (``use_attribute_docstrings``): 0.4 s at every
start of a command, for what only schemas and help texts show. Here they are read when asked for.
"""

import ast
import functools
import importlib
import inspect
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler


class Described(BaseModel):
    """A model whose JSON schema has the docstrings of its fields."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        node = handler(core_schema)
        properties = handler.resolve_ref_schema(node).get("properties", {})
        for name, text in descriptions(cls).items():
            for key in {name, cls.model_fields[name].alias} & properties.keys():
                properties[key].setdefault("description", text)
        return node


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each field of a model that has one."""
    texts = {}
    for name in model.model_fields:
        # An inherited field has the docstring of the class that defines it last.
        owner = next(c for c in model.__mro__ if name in inspect.get_annotations(c))
        if text := _docstrings(owner.__module__).get((owner.__name__, name)):
            texts[name] = text
    return texts


@functools.cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """Docstrings below the annotated names of a module's classes, by class and name."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    texts = {}
    for cls in ast.walk(tree):
        if not isinstance(cls, ast.ClassDef):
            continue
        for above, node in zip(cls.body, cls.body[1:], strict=False):
            if (
                isinstance(above, ast.AnnAssign)
                and isinstance(above.target, ast.Name)
                and isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                texts[cls.name, above.target.id] = inspect.cleandoc(node.value.value)
    return texts
