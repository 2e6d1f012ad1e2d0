"""What importing the library costs, and that rooms keep to what they may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import otel_mlobs as mlobs

PACKAGE = Path(mlobs.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

OPTIONAL = (
    "flask", "sklearn", "pandas", "polars", "pyarrow", "torch", "grpc", "requests", "wrapt", "pynvml", "joblib",
)  # fmt: skip

MAY_IMPORT_THE_SDK = {
    "telemetry/config.py", "telemetry/pipelines.py", "telemetry/readers.py", "telemetry/resource.py",
    "telemetry/sampling.py", "telemetry/spans.py",
    "telemetry/exporters.py", "telemetry/console.py", "testing.py",
}  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that ``statement`` loads, and the SDK's."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name for name in ran.stdout.split() if "." not in name or name.startswith("opentelemetry.sdk")}


@pytest.mark.parametrize(
    "statement",
    [
        "import otel_mlobs",
        "import otel_mlobs; otel_mlobs.prediction(model='m')(lambda x: 0.5)([1.0])",
        "from otel_mlobs import configure, current_operation, instrument, operation, shutdown",
    ],
)
def test_importing_and_decorating_loads_neither_numpy_nor_the_sdk(statement: str) -> None:
    """Nor any optional library: user code that never configures pays for none of them."""
    loaded = loaded_by(statement)
    assert "otel_mlobs" in loaded
    assert not loaded & {"numpy", *OPTIONAL}
    assert not [name for name in loaded if name.startswith("opentelemetry.sdk")]


def test_every_public_name_is_there() -> None:
    """``__all__`` is sorted, every name of it resolves, and ``dir`` shows it before it was used."""
    assert mlobs.__all__ == sorted(mlobs.__all__)
    for name in mlobs.__all__:
        assert getattr(mlobs, name) is not None
        assert name in dir(mlobs)
    assert set(mlobs._HOMES) | {"__version__"} == set(mlobs.__all__)


def test_type_checkers_see_every_public_name() -> None:
    """The names that are loaded lazily are imported for type checkers, each from where it really lives."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for imported in ast.walk(node):
                if isinstance(imported, ast.ImportFrom):
                    found |= {alias.asname or alias.name: str(imported.module) for alias in imported.names}
    assert found == mlobs._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module, so that ``hasattr`` and ``getattr`` with a default work."""
    with pytest.raises(AttributeError, match="module 'otel_mlobs' has no attribute 'predict'"):
        _ = mlobs.predict
    assert not hasattr(mlobs, "predict")


def imports_at_run_time(path: Path) -> set[str]:
    """The modules that ``path`` imports, inside functions too, without those for type checkers alone."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                walk(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text()))
    return found


def test_only_what_sets_up_exports_and_tests_imports_the_sdk() -> None:
    """All else speaks to the API, so that operations work with any provider or none."""
    using = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(name.startswith("opentelemetry.sdk") for name in imports_at_run_time(path))
    }
    assert {name for name in using if not name.startswith("tools/")} <= MAY_IMPORT_THE_SDK


SEMCONV = [path.relative_to(PACKAGE).as_posix() for path in MODULES if path.parent.name == "semconv"]


@pytest.mark.parametrize("name", [*SEMCONV, "errors.py", "_version.py", "__init__.py"])
def test_the_lowest_rooms_import_only_the_standard_library(name: str) -> None:
    """Documentation and rules are generated from semconv without anything installed."""
    imported = imports_at_run_time(PACKAGE / name)
    assert {module.partition(".")[0] for module in imported} <= {*sys.stdlib_module_names, "otel_mlobs"}
    if name in SEMCONV:
        ours = {module for module in imported if module.startswith("otel_mlobs")}
        assert all(module.startswith("otel_mlobs.semconv") for module in ours)


def test_telemetry_never_imports_numpy_for_its_readings() -> None:
    """Arrays are read by protocol: a service without numpy loaded does not load it for us."""
    for path in (PACKAGE / "telemetry").glob("*.py"):
        assert "numpy" not in imports_at_run_time(path), path


def test_no_module_is_two_modules() -> None:
    """Under 500 lines each."""
    assert {path.name: lines for path in MODULES if (lines := len(path.read_text().splitlines())) >= 500} == {}
