"""What the start of a container needs of `typing`, without loading that.

`typing.NamedTuple` compiles the annotation of every field, 312 of them on the way of `vmm run`. Here they
stay the strings that they are; type checkers see `typing` itself.
"""

from __future__ import annotations

__all__ = ["TYPE_CHECKING", "Any", "BinaryIO", "NamedTuple", "NoReturn", "Protocol"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, NamedTuple, NoReturn, Protocol
else:
    from collections import namedtuple

    Any = BinaryIO = NoReturn = Protocol = object

    class _Maker(type):
        """Turns a class body of annotations and defaults into a `collections.namedtuple` with its methods."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body.get("__annotations__", {})
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            for key, value in body.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Maker):
        """A tuple whose items have names, as `typing.NamedTuple` makes it."""
