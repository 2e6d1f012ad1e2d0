"""Which GPUs a process may use, by CUDA_VISIBLE_DEVICES as CUDA reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nvml_standin as standin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_mlobs.hardware import visible
from otel_mlobs.hardware.nvml import Driver

if TYPE_CHECKING:
    from pathlib import Path

GPUS = ["GPU-aaaa-1", "GPU-aaab-2", "GPU-bbbb-3"]
WITH_MIG = ["GPU-aaaa-1", "MIG-1", "MIG-2", "GPU-bbbb-3"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [0, 1, 2]),
        ("0,1,2", [0, 1, 2]),
        ("2,0", [2, 0]),
        (" 1 , 0 ", [1, 0]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [0]),
        ("7", []),
        ("0,7,1", [0]),
        ("0,0,1", [0]),
        ("GPU-bbbb-3", [2]),
        ("GPU-b", [2]),
        ("GPU-aaa", []),
        ("GPU-aaaa,GPU-aaab", [0, 1]),
        ("all", []),
        ("0,NoDevFiles", [0]),
        ("1.0", []),
        ("¹", []),
    ],
)
def test_entries_as_cuda_reads_them(value: str | None, expected: list[int]) -> None:
    """Indexes, UUIDs that may be shortened, and the end at the first entry that names no device."""
    entries = visible.asked({} if value is None else {"CUDA_VISIBLE_DEVICES": value})
    assert list(visible.chosen(entries, GPUS)) == expected


def test_indexes_count_gpus_and_uuids_name_instances() -> None:
    """Index 1 is the second GPU, whatever instances the first has; an instance is named by its own UUID."""
    assert visible.chosen(("1",), WITH_MIG) == (3,)
    assert visible.chosen(("MIG-2",), WITH_MIG) == (2,)
    assert visible.chosen(None, WITH_MIG) == (0, 1, 2, 3)


@given(st.lists(st.text(max_size=12), max_size=6), st.lists(st.sampled_from([*GPUS, *WITH_MIG, ""]), max_size=6))
def test_no_text_breaks_it(entries: list[str], uuids: list[str]) -> None:
    """Positions that exist, each once."""
    found = visible.chosen(entries, uuids)
    assert len(set(found)) == len(found)
    assert all(0 <= position < len(uuids) for position in found)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, ["0", "1", "1:1", "1:9", "2"]),
        ("0", ["0"]),
        ("1", ["1", "1:1", "1:9"]),
        ("2,0", ["2", "0"]),
        (standin.uuid(1, 1), ["1:9"]),
        ("", []),
    ],
)
def test_only_visible_devices_are_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    value: str | None,
    names: list[str],
) -> None:
    """Who may use a GPU may use its instances; names stay those that nvidia-smi gives; none at all is said once."""
    if value is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    script = standin.Driver(tmp_path).device(0, standin.T4).device(1, standin.H100_MIG).device(2, standin.T4)
    with standin.in_process(script):
        driver = Driver()
        driver.open()
        assert [device.identity.name for device in driver.devices] == names
        driver.close()
        everything = Driver(only_visible=False)
        everything.open()
        assert len(everything.devices) == 5
        everything.close()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ([] if names else ["CUDA_VISIBLE_DEVICES= names no GPU: none is read"])
