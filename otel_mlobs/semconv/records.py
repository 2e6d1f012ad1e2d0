"""What a table of signals is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AttributeType = Literal["string", "int", "double", "boolean", "string[]", "int[]"]


@dataclass(frozen=True)
class Attribute:
    """A span or metric attribute: its key, the type of its values, and what they mean."""

    key: str
    type: AttributeType
    description: str
    example: str


@dataclass(frozen=True)
class EventType:
    """An event on a span: its name, when it is added, and its attributes."""

    name: str
    description: str
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class SpanType:
    """A span the library emits: its operation name, what its name's second word is, and its own attributes."""

    operation: str
    target: str
    description: str
    attributes: tuple[Attribute, ...]
    events: tuple[EventType, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A metric the library emits; ``attributes`` is the whole allow-list of its labels."""

    name: str
    instrument: Literal["counter", "histogram", "gauge", "updowncounter"]
    unit: str
    description: str
    attributes: tuple[Attribute, ...]
