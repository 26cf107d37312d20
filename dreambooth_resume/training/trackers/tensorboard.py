"""TensorBoard: event files on this machine. They tell what they hold, so a kill costs and doubles nothing."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreambooth_resume.training.trackers.base import Series

_LENGTH = struct.Struct("<Q4x")


class TensorBoardTracker:
    """A folder of event files, one an attempt, which TensorBoard shows as one run."""

    def __init__(self, series: Series, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event: Any = event_pb2.Event
        self._summary: Any = summary_pb2.Summary
        self._metadata: Any = summary_pb2.SummaryMetadata
        self._folder = folder / series.name
        # Before the writer makes a file of its own.
        self._last_step = max((step for path in self._files() for step in self._steps(path)), default=series.after_step)
        self._writer: Any = EventFileWriter(str(self._folder))

    def last_step(self) -> int | None:
        return self._last_step

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._add(step, [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def pictures(self, step: int, phase: str, prompt: str, pictures: Sequence[NDArray[np.uint8]]) -> None:
        from PIL import Image

        shown = []
        for number, picture in enumerate(pictures):
            body = io.BytesIO()
            Image.fromarray(picture).save(body, format="PNG")
            height, width, _ = picture.shape
            image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=body.getvalue())
            about = self._metadata(summary_description=prompt)
            shown.append(self._summary.Value(tag=f"{phase}/{number}", image=image, metadata=about))
        self._add(step, shown)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, values: Sequence[Any]) -> None:
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        self._writer.add_event(event)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("events.out.tfevents.*"))

    def _steps(self, path: Path) -> Iterator[int]:
        """The steps that have a scalar in this file. What a kill left torn at its end is passed over."""
        for body in _records(path):
            event = self._event.FromString(body)
            if any(value.WhichOneof("value") in ("simple_value", "tensor") for value in event.summary.value):
                yield event.step


def _records(path: Path) -> Iterator[bytes]:
    """The whole records of a TFRecord file: length, its checksum, body, its checksum."""
    with path.open("rb") as file:
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            (length,) = _LENGTH.unpack(head)
            body = file.read(length + 4)
            if len(body) < length + 4:
                return
            yield body[:-4]
