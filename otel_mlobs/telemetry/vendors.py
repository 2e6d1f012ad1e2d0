"""What a vendor's backend wants of the process: trace ids, propagators, signed requests; all found by entry point.

The first two come with OpenTelemetry's own packages, the third is in a room above. What is not installed is said with
the command that installs it.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from otel_mlobs.errors import ConfigurationError, MissingExtraError
from otel_mlobs.settings.backends import SIGNED

if TYPE_CHECKING:
    from otel_mlobs.settings import Settings

_PACKAGES = {
    "opentelemetry_id_generator": "opentelemetry-sdk-extension-aws",
    "opentelemetry_propagator": "opentelemetry-propagator-aws-xray",
}


def require(resolved: Settings) -> None:
    """Look whether what ``resolved`` wants is there.

    Raises:
        MissingExtraError: a package is not installed.
        ConfigurationError: requests are to be signed, and no credentials or no region are found; or
            ``OTEL_PYTHON_ID_GENERATOR`` names none.
    """
    if resolved.pipeline("traces") is not None:
        if resolved.id_generator is not None:
            _load("opentelemetry_id_generator", resolved.id_generator, resolved.backend)
        if resolved.propagator is not None:
            _load("opentelemetry_propagator", resolved.propagator, resolved.backend)
    urls = [pipeline.url for pipeline in resolved.pipelines if pipeline.signed]
    if urls:
        auth = signed_session().auth
        for url in urls:
            auth.check(url)


def id_generator(resolved: Settings) -> Any:
    """What generates the ids of traces and spans, or None for the SDK's own."""
    if resolved.id_generator is None:
        return None
    return _load("opentelemetry_id_generator", resolved.id_generator, resolved.backend)()


def propagate(resolved: Settings) -> None:
    """Read and write the vendor's header too. Where a caller sends W3C's beside it, that one is believed.

    W3C's has the trace state, which the vendor's has not, and not every proxy that writes the latter knows the former.
    """
    if resolved.propagator is None or resolved.pipeline("traces") is None:
        return
    from opentelemetry import propagate
    from opentelemetry.propagators.composite import CompositePropagator

    own = _load("opentelemetry_propagator", resolved.propagator, resolved.backend)()
    propagate.set_global_textmap(CompositePropagator([own, propagate.get_global_textmap()]))


def signed_session() -> Any:
    """A ``requests`` session that signs what it sends."""
    (point,) = entry_points(group="opentelemetry_otlp_credential_provider", name=SIGNED)
    return point.load()()


def _load(group: str, name: str, backend: str | None) -> Any:
    for point in entry_points(group=group, name=name):
        return point.load()
    if name == "xray":
        raise MissingExtraError(f"backend={backend!r}", "aws", _PACKAGES[group])
    raise ConfigurationError(f"OTEL_PYTHON_ID_GENERATOR={name!r} is not installed; xray and random are known here")
