"""Settings of clusters and launchers: named, checked, and taken from keyword arguments, IPython's configuration, or defaults.

They stand in for traitlets, which need not be installed; a traitlets `Config` is accepted all the same, for it is a dict of dicts.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any


class Config(dict[str, Any]):
    """A dict of dicts whose entries are attributes too: `config.Cluster.n = 4`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name[:1].isupper():
            return self.setdefault(name, Config())
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def merge(self, other: Mapping[str, Any]) -> None:
        """Take what `other` holds, class by class; what it sets wins."""
        for name, values in other.items():
            self.setdefault(name, Config()).update(values)


class Option:
    """One setting of a Configurable.

    default: a value (copied), or a function of the object. kind: what a value must be an instance of. check: gives the value to be kept, from the
    object and the one that was set. saved: whether to_dict holds it. hidden: not one of the constructor's arguments.
    """

    def __init__(self, default: Any = None, *, kind: type | tuple[type, ...] | None = None, check: Callable[[Any, Any], Any] | None = None,
                 saved: bool = False, hidden: bool = False) -> None:
        self.default, self.kind, self.check, self.saved, self.hidden = default, kind, check, saved, hidden

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        if obj is None:
            return self
        try:
            return obj.__dict__[self.name]
        except KeyError:
            value = self.default(obj) if inspect.isfunction(self.default) else copy.copy(self.default)
            return obj.__dict__.setdefault(self.name, value)

    def __set__(self, obj: Any, value: Any) -> None:
        if self.check is not None:
            value = self.check(obj, value)
        if self.kind is not None and (not isinstance(value, self.kind) or isinstance(value, bool) and self.kind in (int, (int, type(None)))):
            kinds = self.kind if isinstance(self.kind, tuple) else (self.kind,)
            raise TypeError(f"{type(obj).__name__}.{self.name} is {value!r}: it must be {' or '.join(k.__name__ for k in kinds)}")
        obj.__dict__[self.name] = list(value) if isinstance(value, tuple) else value


class Configurable:
    """Something with Options. Keyword arguments win over `config`, which wins over the defaults; without a config it is the parent's."""

    log = Option(lambda self: getattr(self.parent, "log", None) or logging.getLogger(type(self).__module__))

    def __init__(self, *, config: Mapping[str, Any] | None = None, parent: Any = None, **options: Any) -> None:
        known = self._options()
        for name in options:
            if name not in known:
                raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {name!r}")
        self.parent = parent
        self.config: Mapping[str, Any] = Config()
        self._given = set(options)
        for name, value in options.items():
            setattr(self, name, value)
        self.update_config(self._find_config(config))

    def _find_config(self, config: Mapping[str, Any] | None) -> Mapping[str, Any]:
        inherited = getattr(self.parent, "config", None)
        return config if config is not None else inherited if inherited is not None else Config()

    @classmethod
    def _options(cls) -> dict[str, Option]:
        """All of them by name."""
        found: dict[str, Option] = {}
        for base in cls.__mro__:
            for name, value in vars(base).items():
                found.setdefault(name, value)
        return {name: value for name, value in found.items() if isinstance(value, Option)}

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Take from `config` what it says of this class and those that it derives from, but for what was given by keyword."""
        self.config = config
        known = self._options()
        for base in reversed(type(self).__mro__):
            for name, value in dict(config.get(base.__name__) or {}).items():
                if name in known and name not in self._given:
                    setattr(self, name, copy.copy(value))

    def saved(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name, option in self._options().items() if option.saved}
