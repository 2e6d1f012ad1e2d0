"""Requests signed for AWS (Signature Version 4), with the credentials that botocore finds: OTLP straight to AWS.

``configure`` takes this session where an endpoint is AWS's. It is also OpenTelemetry's credential provider
``otel_mlobs_aws``, for endpoints that do not look like AWS's, as a proxy or a private link:
``OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER=otel_mlobs_aws``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from otel_mlobs.errors import ConfigurationError, MissingExtraError
from otel_mlobs.settings.backends import AWS_SERVICES, aws_region

try:
    import botocore.session
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError
except ImportError as error:  # pragma: no cover - the tests without extras see it
    raise MissingExtraError("requests that are signed for AWS", "aws", "botocore") from error

if TYPE_CHECKING:
    from requests import PreparedRequest

__all__ = ["Signature", "session"]

_SIGNED_HEADERS = ("content-type", "content-encoding")
"""And those that begin with ``x-aws-`` or ``x-amz-``; a proxy may change others on the way."""


class Signature(AuthBase):
    """Signs each request as it is sent, its body as it is by then: compressed, and anew for every retry.

    Credentials are refreshed by botocore where they expire. They show in no repr and no message.
    """

    def __init__(self) -> None:
        self._session = botocore.session.Session()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def check(self, url: str) -> None:
        """Raise ConfigurationError unless there are credentials, and a region, for what goes to ``url``."""
        _service(url)
        self._region(url)
        self._credentials()

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the signature's headers to ``request``."""
        url = request.url or ""
        own = {
            name: value
            for name, value in request.headers.items()
            if name.lower() in _SIGNED_HEADERS or name.lower().startswith(("x-aws-", "x-amz-"))
        }
        signed = AWSRequest(method=request.method, url=url, data=request.body, headers=own)
        signer = SigV4Auth(self._credentials(), _service(url), self._region(url))
        signer.add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        return request

    def _region(self, url: str) -> str:
        found = aws_region(urlsplit(url).hostname or "") or os.environ.get("AWS_REGION", "").strip()
        if not found:
            try:
                found = self._session.get_config_variable("region")
            except BotoCoreError as error:
                raise ConfigurationError(f"AWS's configuration cannot be read: {error}") from error
        if not found:
            raise ConfigurationError("no AWS region was found to sign with: set AWS_REGION, or the profile's region")
        return str(found)

    def _credentials(self) -> Any:
        """The credentials of now. The session keeps them, and refreshes what expires."""
        try:
            found = self._session.get_credentials()
            frozen = found and found.get_frozen_credentials()
        except (
            Exception
        ) as error:  # also STS' refusals, files and programs that are not there, answers that are no JSON
            raise ConfigurationError(f"AWS credentials cannot be had: {error}") from error
        if not frozen:
            raise ConfigurationError(
                "no AWS credentials were found to sign with: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE, or give the instance, task or function a role"
            )
        return frozen


def _service(url: str) -> str:
    path = urlsplit(url).path
    for signal, service in AWS_SERVICES.items():
        if path.endswith(f"/{signal}"):
            return service
    raise ConfigurationError(
        f"a URL that is signed for AWS must end in /v1/traces, /v1/metrics or /v1/logs, got {path!r}"
    )


def session() -> requests.Session:
    """A session whose requests are signed; what it lacks is said by its first request, or by ``auth.check(url)``."""
    made = requests.Session()
    made.auth = Signature()
    return made
