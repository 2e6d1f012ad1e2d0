"""Where alerts go: the ``[alerting]`` of ``mlobs.toml``. Secrets are files that Alertmanager reads, never values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from otel_mlobs.errors import ConfigurationError
from otel_mlobs.settings.toml_file import EMPTY, read

if TYPE_CHECKING:
    from otel_mlobs.settings.toml_file import TomlFile


@dataclass(frozen=True)
class Alerting:
    """Receivers.

    Attributes:
        slack_url_file: file with the incoming webhook's URL; low severity goes there.
        slack_channel: the channel.
        pagerduty_key_file: file with the routing key of PagerDuty's Events API v2; high severity goes there.
        page_key_file: file with the routing key of the service that wakes somebody at once; critical severity goes
            there. That of ``pagerduty_key_file``, with severity critical, unless given.
        page_url_file: instead of it, file with the URL of a webhook.
    """

    slack_url_file: str = "/etc/alertmanager/secrets/slack_url"
    slack_channel: str = "#ml-alerts"
    pagerduty_key_file: str = "/etc/alertmanager/secrets/pagerduty_key"
    page_key_file: str = ""
    page_url_file: str = ""


def load_alerting(path: str | None) -> Alerting:
    """What the file at ``path`` says; the defaults where it is None or says nothing.

    Raises:
        ConfigurationError: the file cannot be read, or something in it is wrong: with its line and key.
    """
    return alerting_of(EMPTY if path is None else read(path, "the objectives' file"))


def alerting_of(file: TomlFile) -> Alerting:
    """The ``[alerting]`` of ``file``, checked."""
    names = tuple(field.name for field in fields(Alerting))
    file.known(("alerting",), names)
    table = file.table("alerting")
    for key, value in table.items():
        _check(file.where("alerting", key), key, value)
    if "page_key_file" in table and "page_url_file" in table:
        raise ConfigurationError(f"{file.where('alerting', 'page_url_file')}: page_key_file is given too, one must go")
    return Alerting(**table)


def _check(where: str, key: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ConfigurationError(f"{where} must be a line of text")
    if key.endswith("_file") and ("://" in value or not value.startswith(("/", "."))):
        raise ConfigurationError(
            f"{where} must be the path of a file, as /etc/alertmanager/secrets/{key.removesuffix('_file')}, that holds "
            "the secret (what was given is not shown: it may be the secret itself)"
        )
