"""Feast's online answers as ``feature_lookup`` reads them; Feast itself is not imported.

Written after Feast 0.67. ``OnlineResponse.to_dict()`` names neither which entities were unknown nor, without
``include_event_timestamps``, when features were made; the response itself does.
"""

from __future__ import annotations

from typing import Any

__all__ = ["EVENT_TIMESTAMP", "rows"]

EVENT_TIMESTAMP = "event_timestamp"
"""The key of each row under which :func:`rows` puts the oldest event timestamp of its features."""

_PRESENT = 1


def rows(response: Any) -> list[dict[str, Any]]:
    """One row per entity of an ``OnlineResponse``: feature values, None where missing, and the oldest timestamp.

    Of an entity that the store does not know, all are None. Join keys, request data and on-demand features carry no
    timestamp in Feast's answer and are left out: they are there for every entity, known or not. ::

        @mlobs.feature_lookup(store="feast", view="driver_stats", outputs=feast.rows, timestamp=feast.EVENT_TIMESTAMP)
        def lookup(driver_id):
            return store.get_online_features(features=FEATURES, entity_rows=[{"driver_id": driver_id}])

    Raises:
        AttributeError: ``response`` is no ``OnlineResponse``; within a decorated function that is counted and logged.
    """
    proto = response.proto
    found: list[dict[str, Any]] = []
    oldest: list[float | None] = []
    for name, vector in zip(proto.metadata.feature_names.val, proto.results, strict=False):
        if not found:
            found = [{} for _ in vector.values]
            oldest = [None] * len(found)
        for index, (value, status, stamp) in enumerate(
            zip(vector.values, vector.statuses, vector.event_timestamps, strict=True)
        ):
            made = stamp.seconds + stamp.nanos / 1e9
            if status == _PRESENT and not made:
                continue
            kind = value.WhichOneof("val")
            found[index][name] = None if kind is None else getattr(value, kind)
            before = oldest[index]
            if made:
                oldest[index] = made if before is None else min(before, made)
    return [{**row, EVENT_TIMESTAMP: made} for row, made in zip(found, oldest, strict=True)]
