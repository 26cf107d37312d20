"""What an answer of S3 means for a run.

    404 NoSuchKey                                      KeyNotFound, and nothing else does
    404 NoSuchBucket, 301, wrong region, a bad name    BadInput with the fix
    401, 403, expired, unknown or wrong credentials    AccessDenied; PermissionMissing where one statement would do
    everything else, and no answer                     StorageUnavailable

A 403 for an absent key (S3's answer to those who may not list) stays a 403: it must never look like an empty home.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from dreambooth_resume.errors import AccessDenied, BadInput, DbrError, KeyNotFound, StorageUnavailable
from dreambooth_resume.storage.access import PermissionMissing
from dreambooth_resume.storage.s3_address import S3Address, S3Settings

# Operation -> (what we were doing, the permission it takes).
_OPERATIONS = {
    "get_object": ("read", "s3:GetObject"),
    "head_object": ("look at", "s3:GetObject"),
    "put_object": ("write", "s3:PutObject"),
    "create_multipart_upload": ("write", "s3:PutObject"),
    "upload_part": ("write", "s3:PutObject"),
    "complete_multipart_upload": ("write", "s3:PutObject"),
    "abort_multipart_upload": ("tidy", "s3:AbortMultipartUpload"),
    "delete_object": ("delete", "s3:DeleteObject"),
    "list_objects_v2": ("list", "s3:ListBucket"),
    "list_multipart_uploads": ("tidy", "s3:ListBucketMultipartUploads"),
}
_OF_THE_BUCKET = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}
_CREDENTIALS = {
    "ExpiredToken": "the credentials have expired. Renew them (aws sso login, or a new session token)",
    "ExpiredTokenException": "the credentials have expired. Renew them (aws sso login, or a new session token)",
    "TokenRefreshRequired": "the credentials have expired. Renew them (aws sso login, or a new session token)",
    "RequestExpired": "the request's signature has expired. Renew the credentials, and check this machine's clock",
    "InvalidToken": "the session token is not valid. Check AWS_SESSION_TOKEN: it belongs to one access key",
    "InvalidAccessKeyId": "the access key is not known. Check AWS_ACCESS_KEY_ID or AWS_PROFILE, and the endpoint",
    "SignatureDoesNotMatch": "the secret key doesn't fit the access key. Check AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
}
_WRONG_PLACE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_WRONG_NAME = {"InvalidBucketName", "KeyTooLongError", "InvalidURI"}
_WRONG_KEY_ID = {"KMS.NotFoundException", "KMS.InvalidKeyUsageException", "InvalidEncryptionAlgorithmError"}
# Of the 4xx codes, those that say "not now" or "it arrived damaged".
_TRANSIENT = {
    "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests",
    "BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
    "OperationAborted",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What was asked of which key, for messages."""

    operation: str
    key: str
    address: S3Address
    settings: S3Settings

    def __str__(self) -> str:
        name = f"{self.address}/{self.key}" if self.key else str(self.address)
        return f"{_OPERATIONS[self.operation][0]} {name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A refusal as the store gave it. `status` is None if no answer came."""

    status: int | None = None
    code: str = ""
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""


def answer_of(error: BaseException | None) -> Answer:
    """What the store said, if `error` is the SDK's for an answer."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict) or "Error" not in response:
        return Answer()
    details, about = response["Error"], response.get("ResponseMetadata", {})
    return Answer(
        status=about.get("HTTPStatusCode"),
        code=str(details.get("Code", "")),
        message=str(details.get("Message", "")),
        details=details,
        date=about.get("HTTPHeaders", {}).get("date", ""),
    )


@functools.cache
def sdk_errors() -> tuple[type[Exception], ...]:
    """Everything that the SDK and what lies under it raise for a request that failed."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return (BotoCoreError, ClientError, HTTPError, OSError)


def is_transient(error: BaseException | None) -> bool:
    """Whether the same request may well succeed in a moment."""
    answer = answer_of(error)
    if answer.status is not None:
        return (
            answer.status in (408, 429) or (answer.status >= 500 and answer.status != 501) or answer.code in _TRANSIENT
        )
    return not isinstance(_without_answer(error), AccessDenied | BadInput)


def is_wrong_checksum(error: Exception) -> bool:
    """Whether a body that arrived contradicts the checksum that the store gave with it."""
    from botocore.exceptions import FlexibleChecksumError

    return isinstance(error, FlexibleChecksumError)


def was_never_sent(error: BaseException | None) -> bool:
    """Whether the request certainly did not reach the store: there was no connection."""
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError

    return isinstance(error, ConnectTimeoutError | EndpointConnectionError | ProxyConnectionError)


def translate(error: Exception, action: Action) -> DbrError | KeyNotFound:
    """The error of ours that `error` means. Messages hold no credentials: neither do S3's answers, but for key ids."""
    answer = answer_of(error)
    if answer.status is None:
        return _without_answer(error, action)
    if answer.code == "NoSuchKey" and action.operation == "get_object":
        return KeyNotFound(f"Could not {action}")
    if (bad := _bad_input(answer, action)) is not None:
        return bad
    if (denied := _denied(answer, action)) is not None:
        return denied
    said = f"{answer.status} {answer.code}".strip() + (f": {answer.message}" if answer.message else "")
    if answer.code == "NoSuchUpload":
        said = "the unfinished upload was removed, as a newer attempt does with what older ones left"
    elif answer.status == 404:
        said += ", but no NoSuchKey. Is this the address of an S3 service?"
    return StorageUnavailable(f"Could not {action}: {said.removesuffix('.')}.")


def _bad_input(answer: Answer, action: Action) -> BadInput | None:
    address, settings = action.address, action.settings
    at = f" at {settings.endpoint_url}" if settings.endpoint_url else ""
    if answer.code == "NoSuchBucket":
        fix = f"aws s3 mb s3://{address.bucket}, or name another bucket or endpoint"
        return BadInput(f"there is no bucket {address.bucket}{at}", where=str(address), fix=fix)
    if answer.status == 301 or answer.code in _WRONG_PLACE:
        region = answer.details.get("Region")
        meant = f"the bucket is in {region}" if region else "the bucket is in another region or at another endpoint"
        fix = f"AWS_REGION={region or 'REGION'}, or the region in your profile"
        return BadInput(f"{meant} ({answer.status} {answer.code})", where=str(address), fix=fix)
    if answer.code in _WRONG_NAME:
        return BadInput(
            f"the storage refuses the name ({answer.code})", where=str(action), fix="another bucket or name"
        )
    if answer.code in _WRONG_KEY_ID:
        fix = "the id or ARN of a symmetric key in the bucket's region"
        return BadInput(f"the encryption key can't be used ({answer.code})", where=str(address), fix=fix)
    return None


def _denied(answer: Answer, action: Action) -> AccessDenied | None:
    if answer.code in ("RequestTimeTooSkewed", "RequestInTheFuture"):
        return AccessDenied(
            f"Could not {action}: this machine's clock is wrong{_skew(answer)}, and S3 refuses what is signed with it. "
            "Set it right: sudo timedatectl set-ntp true"
        )
    if answer.code in _CREDENTIALS:
        return AccessDenied(f"Could not {action}: {_CREDENTIALS[answer.code]} ({answer.status} {answer.code}).")
    if answer.status not in (401, 403) and answer.code != "AccessDenied" and not answer.code.startswith("KMS."):
        return None
    permission, grant = _OPERATIONS[action.operation][1], _statement(action)
    hint = " (the answer also for keys that don't exist, if s3:ListBucket is missing)" if "Get" in permission else ""
    said = f"{answer.status} {answer.code}" + (f", {answer.message.removesuffix('.')}" if answer.message else "")
    return PermissionMissing(
        f"Could not {action}: the storage refuses it ({said}). It takes {permission}{hint}. A policy statement that "
        f"grants it: {grant}",
        permission=permission,
        grant=grant,
    )


def _statement(action: Action) -> str:
    permission, address = _OPERATIONS[action.operation][1], action.address
    resource = f"arn:aws:s3:::{address.bucket}"
    if permission not in _OF_THE_BUCKET:
        resource += f"/{address.full('*')}"
    statement = json.dumps({"Effect": "Allow", "Action": permission, "Resource": resource})
    if (action.settings.sse or "").startswith("aws:kms") and permission in ("s3:GetObject", "s3:PutObject"):
        statement += "; kms:GenerateDataKey and kms:Decrypt on the key that encrypts as well"
    return statement


def _skew(answer: Answer) -> str:
    """By how much, such as " by 3600 s (it is behind)", as far as the answer tells both times."""
    theirs = answer.details.get("ServerTime")
    ours = answer.details.get("RequestTime")
    try:
        server = datetime.fromisoformat(theirs) if theirs else parsedate_to_datetime(answer.date)
        mine = datetime.strptime(f"{ours}+0000", "%Y%m%dT%H%M%SZ%z") if ours else datetime.now(server.tzinfo)
        seconds = (mine - server).total_seconds()
    except (TypeError, ValueError):
        return ""
    return f" by {abs(seconds):.0f} s (it is {'ahead' if seconds > 0 else 'behind'})"


def _without_answer(error: BaseException | None, action: Action | None = None) -> DbrError:
    from botocore import exceptions as sdk

    doing = f"Could not {action}" if action else "S3"
    where = str(action.address) if action else None
    if isinstance(error, sdk.NoCredentialsError | sdk.PartialCredentialsError):
        return AccessDenied(
            f"{doing}: no complete credentials were found. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or give the machine a role."
        )
    if isinstance(error, sdk.SSOError | sdk.TokenRetrievalError | sdk.UnauthorizedSSOTokenError):
        return AccessDenied(f"{doing}: the sign-in has expired ({error}). Renew it: aws sso login")
    if isinstance(error, sdk.ProfileNotFound | sdk.ConfigParseError):
        return BadInput(str(error), where="AWS_PROFILE", fix="aws configure list-profiles shows those that there are")
    if isinstance(error, sdk.ParamValidationError | sdk.InvalidRegionError | sdk.NoRegionError):
        return BadInput(str(error).replace("\n", " "), where=where, fix="s3://BUCKET/NAME, and AWS_REGION")
    if isinstance(error, sdk.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        fix = "AWS_CA_BUNDLE=FILE.pem with the certificate of your service's authority"
        return BadInput("the service's certificate is not trusted", where=where, fix=fix)
    said = " ".join(str(error).split()) or type(error).__name__
    return StorageUnavailable(f"{doing}: {said.removesuffix('.')}.")
