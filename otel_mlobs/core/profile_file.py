"""A profile as JSON: one line per column, so that two files are compared with ``diff``; no pickle.

What is read is checked to the last field, since a reference that is wrong in silence makes every verdict wrong.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from otel_mlobs.core.binning import Bins
from otel_mlobs.core.calibration import Calibration, ErrorBins
from otel_mlobs.core.embeddings import Embedding
from otel_mlobs.core.profile import Column, Outputs, Profile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_Made = TypeVar("_Made", Calibration, ErrorBins, Embedding)

FORMAT = "otel-mlobs-profile"
VERSION = 1
_DIGITS = 9
"""Digits of a mean that count for the id: another engine, or another order of the rows, changes the last of sixteen."""
_CURVE_DIGITS = 7
"""Likewise of the many means of a calibration, which is written to twelve: parts that are merged round each of them."""
_ID_LENGTH = 12


def content_id(profile: Profile) -> str:
    """The first 12 hex digits of the SHA-256 of the profile's canonical JSON."""
    content = _content(profile)
    for column in [*content["features"], *(content["outputs"] or {}).get("columns", ())]:
        if "mean" in column and column["mean"] is not None:
            scale = max(abs(column["minimum"]), abs(column["maximum"])) or 1.0
            for field in ("mean", "std"):
                column[field] = round(column[field] / scale, _DIGITS)
            scale = max([scale, *map(abs, column["edges"])])
            column["positions"] = [round(position / scale, _DIGITS) for position in column["positions"]]
    outputs = content["outputs"] or {}
    for part in [*filter(None, [outputs.get("calibration")]), *outputs.get("calibrations", ())]:
        part["mean_scores"] = [float(f"{mean:.{_CURVE_DIGITS}g}") for mean in part["mean_scores"]]
    if "errors" in outputs:
        errors = outputs["errors"]
        errors["signed"] = [
            round(mean / (size or 1.0), _CURVE_DIGITS) + 0.0
            for mean, size in zip(errors["signed"], errors["absolute"], strict=True)
        ]
        for field in ("absolute", "squared"):
            errors[field] = [float(f"{mean:.{_CURVE_DIGITS}g}") for mean in errors[field]]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_ID_LENGTH]


def _content(profile: Profile) -> dict[str, Any]:
    outputs = profile.outputs
    written: dict[str, Any] | None = None
    if outputs is not None:
        written = {"kind": outputs.kind, "columns": [_column(column) for column in outputs.columns]}
        if outputs.classes:
            written["classes"] = list(outputs.classes)
        if outputs.kind == "score":
            written["threshold"] = outputs.threshold
            written["positive_class"] = outputs.positive_class
        if outputs.calibration is not None:
            written["calibration"] = _bins(outputs.calibration)
        if outputs.calibrations:
            written["calibrations"] = [_bins(calibration) for calibration in outputs.calibrations]
        if outputs.errors is not None:
            written["errors"] = _bins(outputs.errors)
    return {
        "model": profile.model,
        "version": profile.version,
        "rows": profile.rows,
        "features": [_column(column) for column in profile.features],
        "embeddings": [
            {"name": one.name, "rows": one.rows, "centroid": list(one.centroid)} for one in profile.embeddings
        ],
        "outputs": written,
    }


def _bins(binned: Calibration | ErrorBins) -> dict[str, Any]:
    """Field by field, the last edge, infinity, as null; without the fields that only some calibrations have."""
    written = {field.name: list(getattr(binned, field.name)) for field in dataclasses.fields(binned)}
    written["uppers"][-1] = None
    return {name: values for name, values in written.items() if values}


def _column(column: Column) -> dict[str, Any]:
    written: dict[str, Any] = {"name": column.name, "kind": column.bins.kind}
    if column.bins.kind == "numeric":
        written["edges"] = list(column.bins.edges)
    else:
        written["categories"] = list(column.bins.categories)
    written["counts"] = list(column.counts)
    if column.bins.kind == "numeric":
        written |= {field: getattr(column, field) for field in ("minimum", "maximum", "mean", "std")}
        written["positions"] = list(column.positions)
    return written


def to_json(profile: Profile) -> str:
    """The file's text."""
    content = _content(profile)
    outputs = content["outputs"]
    head = {"format": FORMAT, "format_version": VERSION, "id": content_id(profile)}
    parts = [f'"{name}": {_line(value)}' for name, value in head.items()]
    parts += [f'"{name}": {_line(content[name])}' for name in ("model", "version", "rows")]
    parts.append(f'"features": {_lines(content["features"], " ")}')
    parts.append(f'"embeddings": {_lines(content["embeddings"], " ")}')
    if outputs is None:
        parts.append('"outputs": null')
    else:
        inner = [
            f'"{name}": {_lines(value, "  ") if name in ("columns", "calibrations") else _line(value)}'
            for name, value in outputs.items()
        ]
        parts.append('"outputs": {\n  ' + ",\n  ".join(inner) + "\n }")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _line(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ": "))


def _lines(values: Sequence[object], indent: str) -> str:
    if not values:
        return "[]"
    return "[\n" + ",\n".join(f"{indent} {_line(value)}" for value in values) + f"\n{indent}]"


def save(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write the file whole or not at all: a reader never meets half of it."""
    target = Path(path).resolve()  # a symbolic link goes on pointing where it did
    text = to_json(profile)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(target.parent))
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Profile:
    """The profile in the file ``path``; a :class:`ValueError` says what is wrong with which field."""
    return from_json(Path(path).read_bytes(), where=f"{os.fspath(path)}: ")


def from_json(text: str | bytes, *, where: str = "") -> Profile:
    """The profile that ``text`` holds; ``where`` begins the message of what is wrong with it."""
    try:
        content = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}not a profile, or not the whole of it: {_reason(text, error)}") from None
    try:
        return _profile(content)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


def _reason(text: str | bytes, error: Exception) -> str:
    if not text.strip():
        return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return f"it is not JSON ({error})"


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number that a profile can hold")


def _profile(content: object) -> Profile:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise ValueError(f"not a profile: format must be {FORMAT!r}, got {_short(found)}")
    version = content.get("format_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise ValueError(
            f"format_version is {version}, this release reads up to {VERSION}: install a newer otel-mlobs "
            "(pip install --upgrade otel-mlobs), or save the profile with this one"
        )
    if version != VERSION or isinstance(version, bool):
        raise ValueError(f"format_version must be {VERSION}, got {_short(version)}")
    fields = _Fields("", content)
    outputs = fields.get("outputs", dict, type(None))
    profile = Profile(
        fields.get("model", str),
        fields.get("version", str, type(None)),
        tuple(_read_column(f"features[{place}]", entry) for place, entry in enumerate(fields.get("features", list))),
        None if outputs is None else _read_outputs(outputs),
        fields.count("rows"),
        tuple(_read_embedding(place, entry) for place, entry in enumerate(fields.get("embeddings", list))),
    )
    found = fields.get("id", str)
    if found != profile.id:
        raise ValueError(f"edited or damaged: the content's id is {profile.id!r}, the file says {_short(found)}")
    return profile


class _Fields:
    """An object's fields, each of a known type, or a ValueError that names the field."""

    def __init__(self, where: str, content: object) -> None:
        self.where = where
        if not isinstance(content, dict):
            raise ValueError(f"{where} must be an object, got {_short(content)}")  # noqa: TRY004 - the file is wrong
        self._content: Mapping[str, Any] = content

    def path(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def get(self, name: str, *types: type) -> Any:
        if name not in self._content:
            raise ValueError(f"{self.path(name)} is not there")
        value = self._content[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(_JSON_NAMES[one] for one in types)
            raise ValueError(f"{self.path(name)} must be {expected}, got {_short(value)}")
        return value

    def count(self, name: str) -> int:
        return _count(self.path(name), self.get(name, int))

    def number(self, name: str) -> float:
        return _number(self.path(name), self.get(name, int, float))

    def number_or_none(self, name: str) -> float | None:
        value = self.get(name, int, float, type(None))
        return None if value is None else _number(self.path(name), value)

    def numbers(self, name: str) -> tuple[float, ...]:
        return tuple(_number(f"{self.path(name)}[{place}]", value) for place, value in enumerate(self.get(name, list)))

    def counts(self, name: str) -> tuple[int, ...]:
        return tuple(_count(f"{self.path(name)}[{place}]", value) for place, value in enumerate(self.get(name, list)))

    def uppers(self, name: str) -> tuple[float, ...]:
        """Edges, of which the last, infinity, is written as null."""
        values = self.get(name, list)
        if not values or values[-1] is not None:
            raise ValueError(f"{self.path(name)} must end with null, which stands for infinity, got {_short(values)}")
        return *(_number(f"{self.path(name)}[{place}]", value) for place, value in enumerate(values[:-1])), math.inf

    def category(self, name: str) -> str | int | float | bool | None:
        value: str | int | float | bool | None = self.get(name, str, int, float, bool, type(None))
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{self.path(name)} must be finite, got {value}")
        return value

    def categories(self, name: str) -> tuple[str | int | float | bool, ...]:
        values = self.get(name, list)
        if len(values) > _MOST_CATEGORIES:
            raise ValueError(f"{self.path(name)} must hold at most {_MOST_CATEGORIES:,}, got {len(values):,}")
        for place, value in enumerate(values):
            if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError(f"{self.path(name)}[{place}] must be text, a number or a boolean, got {_short(value)}")
        return tuple(values)

    def has(self, name: str) -> bool:
        return name in self._content


_MOST_CATEGORIES = 10_000
"""As many as a fit makes at most."""

_JSON_NAMES = {
    str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object", bool: "a boolean",
    type(None): "null"
}  # fmt: skip


def _number(path: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{path} must be a number, got {_short(value)}")  # noqa: TRY004 - the file is wrong
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{path} must be finite, got {_short(value)}")
    return number


def _count(path: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{path} must be a whole number of rows, 0 or more, got {_short(value)}")
    return value


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}…"


def _read_column(where: str, content: object) -> Column:
    fields = _Fields(where, content)
    name = fields.get("name", str)
    fields.where = f"{where} ({_short(name)})"
    kind = fields.get("kind", str)
    if kind not in ("numeric", "categorical", "boolean"):
        raise ValueError(f"{fields.path('kind')} must be numeric, categorical or boolean, got {_short(kind)}")
    try:
        if kind != "numeric":
            return Column(name, Bins(kind, categories=fields.categories("categories")), fields.counts("counts"))
        return Column(
            name,
            Bins("numeric", fields.numbers("edges")),
            fields.counts("counts"),
            **{field: fields.number_or_none(field) for field in ("minimum", "maximum", "mean", "std")},
            positions=fields.numbers("positions"),
        )
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(where) else f"{where}: {message}") from None


def _read_outputs(content: object) -> Outputs:
    fields = _Fields("outputs", content)
    columns = tuple(
        _read_column(f"outputs.columns[{place}]", entry) for place, entry in enumerate(fields.get("columns", list))
    )
    score = fields.get("kind", str) == "score"
    return Outputs(
        fields.get("kind", str),  # Outputs checks which
        columns,
        fields.categories("classes") if fields.has("classes") else (),
        _read_calibration("outputs.calibration", fields.get("calibration", dict))
        if fields.has("calibration")
        else None,
        tuple(
            _read_calibration(f"outputs.calibrations[{place}]", entry)
            for place, entry in enumerate(fields.get("calibrations", list) if fields.has("calibrations") else ())
        ),
        threshold=fields.number("threshold") if score else 0.5,
        positive_class=fields.category("positive_class") if score else None,
        errors=_read_errors(fields.get("errors", dict)) if fields.has("errors") else None,
    )


def _read_calibration(where: str, content: object) -> Calibration:
    part = _Fields(where, content)
    return _told_where(
        where,
        Calibration,
        part.uppers("uppers"),
        part.numbers("mean_scores"),
        part.counts("positives"),
        part.counts("rows"),
        part.counts("chosen_rows") if part.has("chosen_rows") else (),
        part.counts("chosen_positives") if part.has("chosen_positives") else (),
    )


def _read_errors(content: object) -> ErrorBins:
    part = _Fields("outputs.errors", content)
    means = (part.numbers(name) for name in ("absolute", "squared", "signed"))
    return _told_where("outputs.errors", ErrorBins, part.uppers("uppers"), part.counts("rows"), *means)


def _read_embedding(place: int, content: object) -> Embedding:
    part = _Fields(f"embeddings[{place}]", content)
    return _told_where(part.where, Embedding, part.get("name", str), part.numbers("centroid"), part.count("rows"))


def _told_where(where: str, make: Callable[..., _Made], *given: Any) -> _Made:
    """What ``make`` makes, or its error with the place in the file."""
    try:
        return make(*given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
