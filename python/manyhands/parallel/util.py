"""What engines run on a client's behalf to execute, push and pull; times, and other small things that clients use."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

from .serialize.canning import interactive

__all__ = ["get_ipython", "interactive"]

utc = timezone.utc

_shell: Any = None  # of this engine, when it has no IPython


def get_ipython() -> Any:
    """The shell of this engine: IPython's, or our own where IPython is not installed; None outside an engine."""
    if _shell is not None:
        return _shell
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def _push(**ns: Any) -> None:
    """Assign names, or whatever can be assigned to (`a.b`, `c[0]`), in the engine's namespace."""
    user_ns = get_ipython().user_global_ns
    temporary = "_manyhands_pushed"
    try:
        for name, value in ns.items():
            user_ns[temporary] = value
            exec(f"{name} = {temporary}", user_ns)
    finally:
        user_ns.pop(temporary, None)


def _pull(keys: Any) -> Any:
    """The values of names or expressions in the engine's namespace."""
    user_ns = get_ipython().user_global_ns
    return [eval(key, user_ns) for key in keys] if isinstance(keys, (list, tuple, set)) else eval(keys, user_ns)


def _execute(code: str) -> None:
    """Run code in the engine's namespace."""
    exec(code, get_ipython().user_global_ns)


# ---- clients -----------------------------------------------------------------------------------------------------


class Namespace(dict):  # type: ignore[type-arg]
    """A dict whose keys are attributes too."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise NameError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        if hasattr(dict, key):
            raise KeyError(f"{key!r} is a method of dict")
        self[key] = value


class ReverseDict(dict):  # type: ignore[type-arg]
    """A dict that is looked up by its values too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reverse = {value: key for key, value in self.items()}

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if key in self else self._reverse[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if key in self._reverse:
            raise KeyError(f"{key!r} is a value already: it can't be a key too")
        super().__setitem__(key, value)
        self._reverse[value] = key

    def pop(self, key: Any) -> Any:  # type: ignore[override]
        """Remove a key and its value; the value."""
        value = super().pop(key)
        self._reverse.pop(value)
        return value

    def get(self, key: Any, default: Any = None) -> Any:
        """What stands for key, as key or as value."""
        try:
            return self[key]
        except KeyError:
            return default


def local_ipython() -> Any:
    """The shell of IPython that this process runs in, or None."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


_DATE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(Z|[+-]\d\d:?\d\d)?")


def utcnow() -> datetime:
    """Now."""
    return datetime.now(utc)


def ensure_timezone(dt: datetime) -> datetime:
    """A time without a zone is of this machine's."""
    return dt if dt.tzinfo is not None else dt.astimezone()


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text == "Z":
        return utc
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def _parse_date(s: Any) -> Any:
    """The time that a text in ISO 8601 says; what is no such text as it is."""
    match = _DATE.fullmatch(s) if isinstance(s, str) else None
    if match is None:
        return s
    seconds, fraction, zone = match.groups()
    try:
        found = datetime.fromisoformat(seconds).replace(microsecond=int((fraction or "").ljust(6, "0")), tzinfo=_zone(zone))
    except ValueError:
        return s
    return ensure_timezone(found)


def extract_dates(obj: Any) -> Any:
    """A copy of what JSON said, with times as such."""
    if isinstance(obj, dict):
        return {key: extract_dates(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [extract_dates(item) for item in obj]
    return _parse_date(obj)


def compare_datetimes(a: datetime, b: datetime) -> timedelta:
    """a - b, where one of them may lack its zone."""
    return a - b if (a.tzinfo is None) == (b.tzinfo is None) else ensure_timezone(a) - ensure_timezone(b)


def int_keys(dikt: dict[Any, Any]) -> dict[Any, Any]:
    """Make numbers of the keys that JSON made texts of, in place. KeyError when a number is there already."""
    for key in [key for key in dikt if isinstance(key, str)]:
        for kind in (int, float):
            try:
                number = kind(key)
            except ValueError:
                continue
            if number in dikt:
                raise KeyError(f"already have key {number!r}")
            dikt[number] = dikt.pop(key)
            break
    return dikt


def progress(*args: Any, widget: bool | None = None, **kwargs: Any) -> Any:
    """A tqdm bar: of a notebook where one is, when ipywidgets are installed, else of text."""
    if widget is None:
        widget = getattr(local_ipython(), "kernel", None) is not None
        if widget:
            try:
                import ipywidgets  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
            except ImportError:
                widget = False
    if widget:
        from tqdm.notebook import tqdm_notebook as bar  # type: ignore[import-untyped, unused-ignore]
    else:
        from tqdm import tqdm as bar  # type: ignore[import-untyped, unused-ignore]

        kwargs.setdefault("file", sys.stdout)
    return bar(*args, **kwargs)
