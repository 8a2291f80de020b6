"""A dictionary with a decorator. What is registered states its own parameters: the keyword-only arguments of its signature, with their
annotations, are what a configuration may set, and are checked when the run is built and not at step one.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from utils.errors import UserError, did_you_mean

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Mapping[str, Callable[..., Any]]):
    """Named functions or classes of one kind, e.g. `LOSSES = Registry("loss")`.

    Positional arguments of an entry are given by the program, keyword-only ones by the configuration. Annotate the latter, with
    `Annotated[int, Field(gt=0, description="...")]` where a type does not say enough.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(entry: T) -> T:
            assert name not in self._entries, f"{self.kind} '{name}' is registered twice"
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str, where: str) -> Callable[..., Any]:
        """The entry called `name`; `UserError` that begins with `where` and names the nearest one otherwise."""
        if not isinstance(name, str) or name not in self._entries:
            raise UserError(f"{where}: unknown {self.kind} '{name}'{did_you_mean(name, self._entries)}")
        return self._entries[name]

    def parameters(self, name: str) -> type[BaseModel]:
        """The keyword-only arguments of an entry as a pydantic model."""
        entry = self._entries[name]
        function = entry.__init__ if inspect.isclass(entry) else entry
        hints = get_type_hints(function, include_extras=True)
        fields: dict[str, Any] = {
            key: (hints.get(key, Any), ... if argument.default is argument.empty else argument.default)
            for key, argument in inspect.signature(function).parameters.items()
            if argument.kind is argument.KEYWORD_ONLY
        }
        config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, validate_default=True, allow_inf_nan=False)
        return create_model(name, __config__=config, **fields)

    def check(self, name: str, params: Mapping[str, Any], where: str) -> dict[str, Any]:
        """`params` with defaults filled in and types converted, ready to be passed on as keyword arguments.

        Raises `UserError` for an unknown name, an unknown key (with the nearest known one) or a value of the wrong type or range.
        """
        self.find(name, where)
        model = self.parameters(name)
        try:
            checked = model(**params)
        except ValidationError as error:
            raise UserError(explain(error, model, where)) from None
        return {key: getattr(checked, key) for key in type(checked).model_fields}


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first problem of a pydantic error in one line, `where.path: problem`; says how many more there are."""
    problems = error.errors(include_url=False)
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])  # a misspelt key explains a missing one
    path = _join(where, first["loc"])
    if first["type"] == "extra_forbidden":
        line = f"{path}: unknown key{did_you_mean(first['loc'][-1], _known_keys(model, first['loc'][:-1]))}"
    elif first["type"] == "missing":
        line = f"{path}: required, but not given"
    elif isinstance(first.get("ctx", {}).get("error"), UserError):
        line = f"{path}: {first['ctx']['error']}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        line = f"{path}: found {_short(first['input'])}; {message[0].lower()}{message[1:]}"
    return line if len(problems) == 1 else f"{line} (and {len(problems) - 1} more)"


def _join(where: str, loc: tuple[int | str, ...]) -> str:
    """`("data", "datasets", 2, "weight")` as `data.datasets[2].weight`, after `where`; a file name is set off by a colon."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    if where.endswith(":"):
        return f"{where} {path.lstrip('.')}" if path else where.removesuffix(":")
    return where + path if where else path.lstrip(".")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that a location leads to, through lists and dictionaries of models; none where it leads to no model."""
    found: Any = model
    for part in loc:
        found = _unwrap(found)
        if inspect.isclass(found) and issubclass(found, BaseModel):
            field = found.model_fields.get(str(part))
            found = field.annotation if field else None
        else:
            found = (get_args(found) or (None,))[-1]  # of list[X], tuple[X, ...] and dict[str, X]
    found = _unwrap(found)
    return list(found.model_fields) if inspect.isclass(found) and issubclass(found, BaseModel) else []


def _unwrap(annotation: Any) -> Any:
    """`X` of `X | None` and of `Annotated[X, ...]`."""
    if get_origin(annotation) is Annotated:
        return _unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next((_unwrap(option) for option in get_args(annotation) if option is not type(None)), None)
    return annotation
