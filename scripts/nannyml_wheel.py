"""What the scripts share that remake an extract of the data inside nannyml's wheel.

The wheel is downloaded into a throw-away folder and only read: nannyml is no dependency of ours. pyarrow comes at a
fixed version into a throw-away environment, so that the same bytes come out on any machine that has that pyarrow.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NANNYML = "nannyml==0.13.1"
NANNYML_SHA256 = "cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869"
PYARROW = "pyarrow==21.0.0"
FOLDER_IN_WHEEL = "nannyml/datasets/data"
LARGEST_FILE = 250_000


def download(folder: Path, python: str = sys.executable) -> Path:
    """The wheel in ``folder``, fetched with the pip of ``python`` where it is not there yet."""
    if not any(folder.glob("nannyml-*.whl")):
        # The wheel is only read, so it does not matter whether nannyml supports this Python.
        options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python"]
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", *options, "-d", str(folder), NANNYML], check=True)
    (wheel,) = folder.glob("nannyml-*.whl")
    return wheel


def read_parts(wheel: Path, files: Sequence[str], read: Callable[[bytes], Any]) -> list[Any]:
    """What ``read`` makes of ``files`` of the wheel, whose content is known by its hash."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != NANNYML_SHA256:
        raise ValueError(f"{wheel.name} must have sha256 {NANNYML_SHA256}, got {digest}")
    with zipfile.ZipFile(wheel) as archive:
        return [read(archive.read(f"{FOLDER_IN_WHEEL}/{file}")) for file in files]


def with_labels(reference: Any, later: Any, labels: Any, label: str, rows: tuple[int, int]) -> Any:
    """The later rows with their labels, once it is sure that the tables are those that are known."""
    if not later["id"].equals(labels["id"]):
        raise ValueError("the later rows and their labels must have the same ids in the same order")
    for table, expected in zip((reference, later), rows, strict=True):
        if table.num_rows != expected:
            raise ValueError(f"expected {expected} rows, got {table.num_rows}")
    return later.append_column(label, labels[label])


def write_page(path: Path, page: str, columns: Mapping[str, tuple[str, str]], rows: int, **facts: object) -> None:
    """Write PROVENANCE.md beside the file at ``path`` from the form ``page``; a file that is too large is refused."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"{path.name} must be at most {LARGEST_FILE} bytes, got {size}")
    text = page.format(
        file=path.name,
        rows=rows,
        nannyml=NANNYML,
        folder=FOLDER_IN_WHEEL,
        wheel_sha256=NANNYML_SHA256,
        pyarrow=PYARROW,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        columns="\n".join(f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in columns.items()),
        **facts,
    )
    (path.parent / "PROVENANCE.md").write_text(text, encoding="utf-8")
    print(f"{path}: {rows} rows, {size} bytes")


def remake(script: Path, description: str, out: Path, extract: Callable[[Path, Path], None]) -> None:
    """The command line of ``script``: build the throw-away environment and run ``extract(wheel, out)`` in it."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--wheel", type=Path, help="read this nannyml wheel with the pyarrow of this environment")
    arguments = parser.parse_args()
    if arguments.wheel is not None:
        extract(arguments.wheel, arguments.out)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", PYARROW], check=True)
        wheel = download(folder, str(python))
        command = [str(python), str(script), "--wheel", str(wheel), "--out", str(arguments.out.resolve())]
        subprocess.run(command, check=True)
