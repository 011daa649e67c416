"""docs/settings.md: every setting, its default, and what config.py says of it. `make docs` writes it."""

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import FieldInfo

from antiphon.config import Section, Settings

PAGE: Final = Path(__file__).parents[1] / "docs" / "settings.md"
MIB: Final = 1024 * 1024
HEAD: Final = """# Settings

From `antiphon.toml` (or `--config FILE`), then the environment (`limits.turns_max` is
`ANTIPHON_LIMITS__TURNS_MAX` there), then flags. `antiphon check` shows the result, with secrets masked;
an unknown name is an error that says which is nearest. `[[…]]` may stand any number of times.

This page is made from `src/antiphon/config.py` by `make docs`.
"""


class Row(NamedTuple):
    """Settings that one text speaks of."""

    names: tuple[str, ...]
    text: str


def page() -> str:
    return "\n".join([HEAD, *_tables_in(Settings, "")])


def _tables_in(kind: type[Section], path: str) -> Iterator[str]:
    hints = get_type_hints(kind)
    for name in kind.__struct_fields__:
        tables, place = _tables(hints[name]), f"{path}{name}"
        for table in tables:
            title = f"[[{place}]]" if get_origin(hints[name]) is tuple else f"[{place}]"
            if len(tables) > 1:
                title += f' {table.__struct_config__.tag_field} = "{table.__struct_config__.tag}"'
            yield from _table(table, title)
            yield from _tables_in(table, f"{place}.")


def _table(kind: type[Section], title: str) -> Iterator[str]:
    fields = {field.name: field for field in msgspec.structs.fields(kind) if not _tables(field.type)}
    rows = [told for base in reversed(kind.__mro__) for row in _rows(base) if (told := _told(row, fields))]
    about = _line(kind.__doc__ or "")
    if not (rows or about):
        return
    yield f"## `{title}`\n"
    if about:
        yield f"{about}\n"
    if rows:
        yield from ("| setting | default | |", "|---|---|---|", *rows, "")


def _tables(hint: Any) -> list[type[Section]]:
    """The kinds of table that a setting may hold."""
    if isinstance(hint, type) and issubclass(hint, Section):
        return [hint]
    return [table for part in get_args(hint) for table in _tables(part)]


def _rows(kind: type) -> Iterator[Row]:
    """As the source has them: what stands below one or more settings speaks of these."""
    if not issubclass(kind, Section):
        return
    [whole] = ast.parse(inspect.getsource(kind)).body
    assert isinstance(whole, ast.ClassDef)
    names: list[str] = []
    for part in whole.body:
        match part:
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.append(name)
            case ast.Expr(value=ast.Constant(value=str(text))) if names:
                yield Row((*names,), _line(text))
                names = []
    yield from (Row((name,), "") for name in names)


def _told(row: Row, fields: Mapping[str, FieldInfo]) -> str:
    """Empty where all of them are tables."""
    found = [fields[name] for name in row.names if name in fields]
    names, defaults = ", ".join(f"`{one.name}`" for one in found), ", ".join(map(_default, found))
    return f"| {names} | {defaults} | {row.text} |" if found else ""


def _default(field: FieldInfo) -> str:
    if field.required:
        return "must be given"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "none"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return f"`{msgspec.json.encode(value).decode()}`"
    return (f"`{value:_}`" if value >= 10_000 else f"`{value}`") + (
        f" ({value // MIB:,} MiB)" if value >= MIB and value % MIB == 0 else ""
    )


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page())
