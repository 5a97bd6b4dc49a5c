"""What the start of a container needs of `typing`, without loading that.

`typing.NamedTuple` compiles the annotation of every field, 312 of them on the way of `vmm run`, and
`collections.namedtuple` a constructor for each class. Here annotations stay the strings that they are, and
one constructor serves all; type checkers see `typing` itself.
"""

from __future__ import annotations

__all__ = ["TYPE_CHECKING", "Any", "BinaryIO", "NamedTuple", "NoReturn", "Protocol"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, NamedTuple, NoReturn, Protocol
else:
    from _collections import _tuplegetter  # how collections.namedtuple reads a field

    Any = BinaryIO = NoReturn = Protocol = object

    class _Named(tuple):
        """The methods of a `collections.namedtuple`."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}  # noqa: RUF012 - as namedtuple has it

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                values = cls._filled(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _filled(cls, values, named):
            rest = {**cls._field_defaults, **named}
            try:
                found = (*values, *[rest[field] for field in cls._fields[len(values) :]])
            except KeyError as missing:
                raise TypeError(f"{cls.__name__}() lacks {missing}") from None
            surplus = named.keys() - cls._fields[len(values) :]
            if surplus or len(found) != len(cls._fields):
                what = ", ".join(map(repr, sorted(surplus))) or f"{len(values)} values"
                raise TypeError(f"{cls.__name__}() takes {', '.join(cls._fields)}, not {what}")
            return found

        @classmethod
        def _make(cls, iterable):
            return cls(*iterable)

        def _replace(self, **named):
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            return (
                f"{type(self).__name__}({', '.join(f'{key}={one!r}' for key, one in self._asdict().items())})"
            )

    class _Maker(type):
        """Turns a class body of annotations and defaults into a named tuple with its methods."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = (*body.get("__annotations__", {}),)
            defaults = {field: body.pop(field) for field in fields if field in body}
            if (*defaults,) != fields[len(fields) - len(defaults) :]:
                raise TypeError(f"{name}: a field without default follows one with a default")
            getters = {field: _tuplegetter(place, "") for place, field in enumerate(fields)}
            made = {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields, "__slots__": ()}
            return type(name, (_Named,), {**body, **getters, **made})

    class NamedTuple(metaclass=_Maker):
        """A tuple whose items have names, as `typing.NamedTuple` makes it."""
