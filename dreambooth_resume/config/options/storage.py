"""Options: where the run's home lies, when it isn't the output folder, and how that place is reached."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel

from dreambooth_resume.config.options.declaration import NOT_BLANK, SECTION_CONFIG, TILDE_EXPANDED, free


def _has_a_scheme(value: str | None) -> str | None:
    if value is not None and "://" not in value:
        raise ValueError("is no address; for a folder use output_dir, for a bucket s3://BUCKET/NAME")
    return value


class StorageOptions(BaseModel):
    """The home in object storage. Credentials come from boto3's own chain, never from here."""

    # None of it is part of the run: the same home may be reached otherwise from another machine.
    model_config = SECTION_CONFIG

    storage_uri: Annotated[str | None, NOT_BLANK, AfterValidator(_has_a_scheme), free(recorded=False, common=True)] = (
        None
    )
    """Home of the run in object storage, such as s3://bucket/dog: a new machine with an empty disk goes on from there.
    output_dir is then this machine's stage. output_dir: s3://bucket/dog means the same."""

    stage_dir: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free(recorded=False)] = None
    """Folder on this machine for what is on its way to the home. null: output_dir, or the user's cache folder if that
    is an address."""

    s3_endpoint_url: Annotated[str | None, NOT_BLANK, free(recorded=False)] = None
    """Address of an S3 service other than AWS: MinIO, R2, Ceph and others. null: what boto3 finds, such as
    AWS_ENDPOINT_URL."""

    s3_region: Annotated[str | None, NOT_BLANK, free(recorded=False)] = None
    """Region of the bucket. null: what boto3 finds in the environment or the profile."""

    s3_addressing_style: Annotated[Literal["auto", "path", "virtual"], free(recorded=False)] = "auto"
    """path puts the bucket behind the host (most services of one's own), virtual before it (AWS)."""

    s3_sse: Annotated[Literal["AES256", "aws:kms", "aws:kms:dsse"] | None, free(recorded=False)] = None
    """Server-side encryption that is asked for with everything written. null: the bucket's own."""

    s3_kms_key_id: Annotated[str | None, NOT_BLANK, free(recorded=False)] = None
    """Key for s3_sse aws:kms. null: the account's own."""
