"""Small histograms for a terminal, from the cells of a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_mlobs.core.profile import Column

_BLOCKS = " ▁▂▃▄▅▆▇█"
_PLAIN = " .:-=+*#@"
WIDTH = 20


def histogram(column: Column, *, unicode: bool) -> str:
    """The column's distribution in one line: a number's over an even axis, else a block a category.

    A profile's cells hold about equally many rows each, so their counts say nothing: drawn is how densely they lie.
    """
    counts = column.counts[: column.bins.values]
    heights = _densities(column) if column.bins.kind == "numeric" else [float(count) for count in counts]
    return bar(heights, unicode=unicode)


def bar(heights: Sequence[float], *, unicode: bool) -> str:
    """A character a height, the highest a full block; what is not zero is seen."""
    blocks = _BLOCKS if unicode else _PLAIN
    highest = max(heights, default=0.0)
    if not highest > 0:
        return ""
    top = len(blocks) - 1
    return "".join(blocks[max(1, round(top * height / highest)) if height > 0 else 0] for height in heights)


def _densities(column: Column) -> list[float]:
    """Rows per piece of an even axis, each cell's spread evenly over where it lies."""
    spans = _spans(column)
    filled = [(span, count) for span, count in zip(spans, column.counts, strict=False) if count]
    if not filled:
        return []
    start, end = min(span[0] for span, _ in filled), max(span[1] for span, _ in filled)
    piece = (end - start) / WIDTH
    if not piece > 0:
        return [float(sum(count for _, count in filled))]
    heights = [0.0] * WIDTH
    for (low, high), count in filled:
        first = min(WIDTH - 1, int((low - start) / piece))
        if not high - low > piece / 1e6:
            heights[first] += count
            continue
        for place in range(first, WIDTH):
            overlap = min(high, start + (place + 1) * piece) - max(low, start + place * piece)
            if overlap <= 0:
                break
            heights[place] += count * overlap / (high - low)
    return heights


def _spans(column: Column) -> list[tuple[float, float]]:
    """From where to where each value cell is drawn, in units of the largest value.

    The outer cells reach to the extremes, but their rows hardly do: they are drawn as long as an even spread with
    their mean would be, so that one outlier does not squeeze all others into one block.
    """
    if column.minimum is None or column.maximum is None:
        return []
    largest = max(abs(column.minimum), abs(column.maximum)) or 1.0  # the longest spans overflow
    low, high = column.minimum / largest, column.maximum / largest
    edges = [edge / largest for edge in column.bins.edges]
    positions = [position / largest for position in column.positions]
    if not edges:
        return [(low, high)]
    spans = list(zip((low, *edges), (*edges, high), strict=True))
    spans[0] = (max(low, 2 * positions[0] - edges[0]), max(edges[0], low))
    spans[-1] = (min(edges[-1], high), min(high, 2 * positions[-1] - edges[-1]))
    return [(min(start, end), max(start, end)) for start, end in spans]
