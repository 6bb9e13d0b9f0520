"""Commands out of steps: every field of a step becomes an option, with the field's own description.

Typer parses the words, pydantic judges the values: so the command line, the recipe and the library refuse the same
things in the same sentence.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from secateur.core import plain_yaml
from secateur.core.errors import InputError
from secateur.core.validation import sentence
from secateur.steps import Step


def command_of(step: type[Step], perform: Callable[[Step], None]) -> Callable[..., None]:
    """Return a function typer can make a command of: it builds `step` from its options and performs it."""

    def command(**words: Any) -> None:
        known = step.extra_options()
        values = {
            name: _value(step.model_fields[name], word) for name, word in words.items() if name not in known
        }
        given = {name: value for name, value in values.items() if value is not None}
        extra = {
            name: plain_yaml.word(word) for name, word in words.items() if name in known and word is not None
        }
        try:
            built = step(**given, **extra)
        except InputError as error:
            if isinstance(error.__cause__, ValidationError):
                raise InputError(sentence(error.__cause__, partial(option, step))) from None
            raise
        perform(built)

    fields = sorted(step.model_fields.items(), key=lambda item: bool(item[1].json_schema_extra))
    parameters = [_parameter(name, field, option(step, name)) for name, field in fields]
    parameters += [
        _option(name, "TEXT", help_text, str | None) for name, help_text in step.extra_options().items()
    ]
    ordered = sorted(parameters, key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
    command.__doc__ = inspect.getdoc(step)
    command.__name__ = step.do
    return command


def option(step: type[Step], name: str) -> str:
    """Return what a field, or an extra option, of `step` is called on the command line; a mapping is given in items."""
    field = step.model_fields.get(name)
    items = field is not None and dict in _kinds(field.annotation)
    return f"--{_dashed(name).removesuffix('s') if items else _dashed(name)}"


def has_arguments(step: type[Step]) -> bool:
    """Whether a step takes words that belong to no option."""
    extras = [field.json_schema_extra for field in step.model_fields.values()]
    return any(isinstance(extra, dict) and bool(extra.get("argument")) for extra in extras)


def _parameter(name: str, field: FieldInfo, flag: str) -> inspect.Parameter:
    extra: Mapping[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    kinds = set(_kinds(field.annotation))
    text = field.description or ""
    if extra.get("argument"):
        several = bool(kinds & {list, tuple})
        kind: Any = list[str] if several else str
        info = typer.Argument(
            help=text, metavar=f"{name.upper()}{'...' if several else ''}", show_default=False
        )
        return inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[kind, info]
        )
    if field.is_required():
        info = typer.Option(flag, help=text, metavar=_metavar(field), show_default=False)
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, info])
    shown = _shown_default(field)
    if kinds == {bool}:
        flag = flag if field.default is False else f"{flag}/--no-{_dashed(name)}"
        return _option(name, None, text, bool | None, flag, shown if field.default else "")
    kind = list[str] | None if kinds & {dict, list, tuple} else str | None
    return _option(name, _metavar(field), text, kind, flag, shown)


def _option(
    name: str, metavar: str | None, text: str | None, kind: Any, flag: str | None = None, default: str = ""
) -> inspect.Parameter:
    """Return the parameter of an option; one without a text is hidden."""
    shown, hidden = f"{text} [default: {default}]" if default else text, text is None
    flag = flag or f"--{_dashed(name)}"
    info = typer.Option(flag, help=shown, metavar=metavar, show_default=False, hidden=hidden)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, info]
    )


def _value(field: FieldInfo, word: Any) -> Any:
    """Turn what typer parsed into what pydantic takes; None stands for an option that was not given."""
    if not isinstance(word, list):
        return word
    kinds = _kinds(field.annotation)
    if dict in kinds and not (len(kinds) > 1 and len(word) == 1 and "=" not in word[0]):
        return dict(_pair(item) for item in word) or None
    if dict in kinds:
        return word[0]
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("argument"):
        return word
    return [part.strip() for item in word for part in item.split(",")] or None


def _pair(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise InputError(f"Cannot read '{word}': write it as name=value.")
    return name, plain_yaml.word(value)


def _kinds(annotation: Any) -> list[Any]:
    """Return the plain types an annotation is made of: `float | None` → [float]."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    if origin is Literal:
        return [str]
    return [] if annotation is type(None) else [origin or annotation]


def _metavar(field: FieldInfo) -> str:
    kinds = _kinds(field.annotation)
    names = {int: "INTEGER", float: "NUMBER"}
    if dict in kinds:
        return f"{names[float]} or NAME=VALUE" if float in kinds else "NAME=VALUE"
    one = next((names[kind] for kind in kinds if kind in names), "TEXT")
    return f"{one},…" if list in kinds or tuple in kinds else one


def _shown_default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is None or default is PydanticUndefined or default in ((), {}, []):
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
