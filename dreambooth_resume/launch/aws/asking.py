"""One way to ask AWS anything, and what its refusals mean in our errors."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack, DbrError

_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
_CREDENTIALS = {
    "AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId",
    "MissingAuthenticationToken", "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
_NOT_NOW = {"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"}
_PERMISSION = re.compile(r"not authorized to perform:? ([a-z0-9-]+:\w+)")
_DRY_RUN_WORKED = "DryRunOperation"


class Refused(BadInput):
    """AWS understood and refuses, and it isn't for want of a permission: `code` is its word for why."""

    def __init__(self, what: str, *, code: str, where: str) -> None:
        super().__init__(what, where=where, fix="look it up with that code, or try the same in the AWS console")
        self.code = code


class Aws:
    """Clients of one region. Credentials come from boto3's own chain, and are never shown."""

    def __init__(self, region: str | None) -> None:
        self._wanted_region = region

    @functools.cached_property
    def region(self) -> str:
        """Raises BadInput where none is named anywhere."""
        region = self._wanted_region or self._session.region_name
        if not region:
            raise BadInput("no region is named", where="--region", fix="--region eu-central-1, or AWS_REGION")
        return str(region)

    def ask(self, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The answer. Raises AccessDenied with the missing permission, ComeBack without an answer, or Refused."""
        try:
            answer: dict[str, Any] = getattr(self.client(service), operation)(**parameters)
        except _sdk_errors() as error:
            raise _translated(error, f"{service}:{_camel(operation)}") from error
        return answer

    def pages(self, service: str, operation: str, parameters: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
        """What all pages of an answer hold under `key`. Raises as `ask` does."""
        try:
            for page in self.client(service).get_paginator(operation).paginate(**parameters):
                yield from page[key]
        except _sdk_errors() as error:
            raise _translated(error, f"{service}:{_camel(operation)}") from error

    def may(self, service: str, operation: str, parameters: Mapping[str, Any]) -> None:
        """Ask for a dry run. Raises as `ask` does if the real thing would be refused."""
        try:
            self.ask(service, operation, {**parameters, "DryRun": True})
        except Refused as error:
            if error.code != _DRY_RUN_WORKED:
                raise

    @functools.cached_property
    def _session(self) -> Any:
        # 0.2 s, and only who launches on AWS needs it.
        import boto3
        import botocore.session

        try:
            session = botocore.session.get_session()
            session.register_component("data_loader", _descriptions())
            return boto3.session.Session(botocore_session=session)
        except _sdk_errors() as error:
            raise _translated(error, "the profile") from error

    @functools.cache  # noqa: B019  an Aws lives as long as its launcher, and that as long as one command
    def client(self, service: str) -> Any:
        """The SDK's client, made once."""
        from botocore.config import Config

        config = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 4})
        try:
            return self._session.client(service, region_name=self.region, config=config)
        except _sdk_errors() as error:
            raise _translated(error, service) from error


@functools.cache
def _descriptions() -> Any:
    """The SDK's files on the services: megabytes, read once by a command that asks about twenty launches."""
    from botocore.loaders import create_loader

    return create_loader()


def _camel(operation: str) -> str:
    return "".join(part.capitalize() for part in operation.split("_"))


def _sdk_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError)


def _translated(error: Exception, permission: str) -> DbrError:
    response = getattr(error, "response", None)
    if not isinstance(response, dict) or "Error" not in response:
        return _without_answer(error, permission)
    code, said = str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _DENIED:
        named = _PERMISSION.search(said)
        return AccessDenied(
            f"AWS refuses {permission} ({code}). Missing permission: {named.group(1) if named else permission}; "
            f"infra/aws-launcher-policy.json has all that a launch needs. AWS says: {said[:300]}"
        )
    if code in _CREDENTIALS:
        return AccessDenied(
            f"AWS does not know these credentials, or no longer ({code}, at {permission}). Check AWS_PROFILE, or renew "
            "them: aws sso login"
        )
    if code in _NOT_NOW or status >= 500:
        return ComeBack(f"AWS does not answer {permission} now ({status} {code}). The same command tries again.")
    return Refused(said.removesuffix(".") or code, code=code, where=permission)


def _without_answer(error: Exception, permission: str) -> DbrError:
    from botocore import exceptions as sdk

    if isinstance(error, sdk.NoCredentialsError | sdk.PartialCredentialsError):
        return AccessDenied(
            f"{permission}: no complete credentials of AWS were found. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY."
        )
    if isinstance(error, sdk.SSOError | sdk.TokenRetrievalError | sdk.UnauthorizedSSOTokenError):
        return AccessDenied(f"{permission}: the sign-in has expired ({error}). Renew it: aws sso login")
    if isinstance(error, sdk.ProfileNotFound | sdk.ConfigParseError):
        return BadInput(str(error), where="AWS_PROFILE", fix="aws configure list-profiles shows those that there are")
    if isinstance(error, sdk.ParamValidationError | sdk.InvalidRegionError):
        return BadInput(" ".join(str(error).split()), where=permission, fix="check the options of this launch")
    return ComeBack(f"AWS does not answer {permission}: {' '.join(str(error).split())}")
