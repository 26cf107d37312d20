"""From a notice to the committed checkpoint, in a bucket a round trip away, against a plain upload of as many bytes."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import boto3
from distant_s3 import BUCKET, DistantS3
from sdxl_state import make_manager, sdxl_state

from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.urls import open_storage

WANTED_RATIO = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeFigures:
    """Medians; of each pair of neighbours notice / upload."""

    notice_seconds: float
    upload_seconds: float
    state_bytes: int
    sent_bytes: int
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def measure_notice(folder: Path, *, repeats: int) -> NoticeFigures:
    """Save a state of SDXL's size for a notice, and upload a file of that size with boto3, turn about."""
    state = sdxl_state()
    with DistantS3() as service:
        storage = open_storage(service.new_home(), S3Settings(endpoint_url=service.url))
        manager = make_manager(storage)
        client = boto3.client("s3", endpoint_url=service.url)
        plain = folder / "plain"
        notices, uploads = [], []
        for number in range(repeats + 1):
            state.global_step = number + 1
            began = time.perf_counter()
            assert manager.save_now(state, reason="bench", give_up=lambda: False)
            notices.append(time.perf_counter() - began)
            sent_bytes = sum(file.size_bytes for file in manager.newest.files)
            if not plain.exists():
                plain.write_bytes(b"\1" * sent_bytes)
            began = time.perf_counter()
            client.upload_file(str(plain), BUCKET, "plain")
            uploads.append(time.perf_counter() - began)
            client.delete_object(Bucket=BUCKET, Key="plain")
        manager.close()
        plain.unlink()
    return NoticeFigures(
        notice_seconds=statistics.median(notices[1:]),
        upload_seconds=statistics.median(uploads[1:]),
        state_bytes=sum(tensor.nbytes for tensor in state.tensors().values()),
        sent_bytes=sent_bytes,
        ratios=tuple(ours / theirs for ours, theirs in zip(notices[1:], uploads[1:], strict=True)),
    )
