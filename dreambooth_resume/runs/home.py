"""The names in a run's home. Nobody else builds or takes apart a key."""

from __future__ import annotations

import re

RUN = "run.json"
LOG_PREFIX = "log/"
CHECKPOINT_PREFIX = "checkpoint-"
CONTROL_PREFIX = "control/"
JOBS_PREFIX = "jobs/"
METRICS_PREFIX = "metrics/"
NOTES_PREFIX = "notes/"
OUTPUT_PREFIX = "output/"
EVALUATION_OUTPUT_PREFIX = "eval/output/"
PACKAGES_PREFIX = "packages/"
SAMPLES_PREFIX = "samples/"
DELETING_PREFIX = "notes/deleting-"
EVALUATION_PREFIX = "eval/"
SAMPLE_PROMPTS = "samples/prompts.json"
"""The prompts of validation_prompts_file, for machines that lack the file."""
STATUS_PREFIX = "status/"
TRACKERS_PREFIX = "trackers/"

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
KOHYA_NAME = "pytorch_lora_weights_kohya.safetensors"
EMBEDDINGS_NAME = "pytorch_lora_emb.safetensors"
RESULT_FILES = (WEIGHTS_NAME, KOHYA_NAME, EMBEDDINGS_NAME)
CARD_NAME = "README.md"
STATE_TENSORS_NAME = "trainer_state.safetensors"
STATE_NAME = "trainer_state.json"
CHECKPOINT_FILES = (WEIGHTS_NAME, STATE_TENSORS_NAME, STATE_NAME)

METRICS_SEGMENT_STEPS = 1000

_LOG = re.compile(r"log/(\d{8})\.json")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)(?:-a(\d+))?")
_SAMPLE = re.compile(r"samples/(?:\d+-a\d+(?:-[0-9a-f]{8})?/(?:\d+\.png|samples\.json)|prompts\.json)")
_PACKAGE = re.compile(r"packages/[0-9a-f]{64}/[\w.-]+\.(?:whl|txt)")
_JOB_FILE = re.compile(r"jobs/[0-9a-f]{32}/submit\.slurm")
_EVALUATION = re.compile(r"eval/([0-9a-f]{16})/(?:(checkpoint-\d+(?:-a\d+)?)/)?((?:\d{4,}|recipe)\.json)")
_NOTE = re.compile(r"notes/([a-z]+)-[0-9a-f]{32}\.json")
_HINT = re.compile(
    r"status/\d{4,}\.json|metrics/\d{4,}-\d{5,}\.jsonl"
    r"|trackers/\d{4,}\.json|logs/[^/]+/events\.out\.tfevents\.[^/]+"
    r"|(?:eval/)?output/[0-9a-f]{32}/\d{5,}\.txt"
    r"|control/\d{13,}-[0-9a-f]{32}\.json|control/probe-[0-9a-f]{32}\.json"
)


def log_key(number: int) -> str:
    return f"{LOG_PREFIX}{number:08d}.json"


def log_number(key: str) -> int | None:
    """The entry number in `key`, or None for a stray file in the log's folder."""
    match = _LOG.fullmatch(key)
    return int(match[1]) if match else None


def checkpoint_folder(step: int, attempt: int) -> str:
    """`checkpoint-500`, and `checkpoint-500-a3` from attempt 2 on: no two attempts ever write the same key."""
    return f"{CHECKPOINT_PREFIX}{step}" if attempt == 1 else f"{CHECKPOINT_PREFIX}{step}-a{attempt}"


def checkpoint_name(folder: str) -> tuple[int, int] | None:
    """(step, attempt) of a folder that `checkpoint_folder` could have named, else None."""
    match = _CHECKPOINT.fullmatch(folder)
    if match is None:
        return None
    step, attempt = int(match[1]), int(match[2] or 1)
    return (step, attempt) if checkpoint_folder(step, attempt) == folder else None


def status_key(attempt: int) -> str:
    return f"{STATUS_PREFIX}{attempt:04d}.json"


def metrics_key(attempt: int, segment: int) -> str:
    """Attempt 3, steps 1001 to 2000: `metrics/0003-00002.jsonl`."""
    return f"{METRICS_PREFIX}{attempt:04d}-{segment:05d}.jsonl"


def metrics_segment(step: int) -> int:
    """The segment that the values of optimizer update `step` (1, 2, 3, …) belong to."""
    return (step - 1) // METRICS_SEGMENT_STEPS + 1


def trackers_key(attempt: int) -> str:
    return f"{TRACKERS_PREFIX}{attempt:04d}.json"


def control_key(time_ms: int, nonce: str) -> str:
    return f"{CONTROL_PREFIX}{time_ms:013d}-{nonce}.json"


def note_key(kind: str, nonce: str) -> str:
    return f"{NOTES_PREFIX}{kind}-{nonce}.json"


def note_kind(key: str) -> str | None:
    """The kind of the note under `key`, or None for a stray file among the notes."""
    match = _NOTE.fullmatch(key)
    return match[1] if match else None


def is_launch_note(name: str) -> bool:
    """Whether a file of this name in the notes' folder says that something was, or was about to be, launched."""
    return note_kind(f"{NOTES_PREFIX}{name}") == "launch"


def sample_key(step: int, attempt: int, number: int, asked: str | None = None) -> str:
    """Picture 0 that attempt 3 made with the LoRA of step 500: `samples/500-a3/0.png`.

    `asked` are the eight letters of a request for pictures: `samples/500-a3-1b2c3d4e/0.png`.
    """
    return f"{_samples_folder(step, attempt, asked)}/{number}.png"


def samples_list_key(step: int, attempt: int, asked: str | None = None) -> str:
    return f"{_samples_folder(step, attempt, asked)}/samples.json"


def is_sample(key: str) -> bool:
    """Whether `key` is of a picture made with the LoRA, or of the list of such pictures."""
    return _SAMPLE.fullmatch(key) is not None


def is_samples_list(key: str) -> bool:
    return is_sample(key) and key.endswith("/samples.json")


def evaluation_key(evaluation: str, name: str) -> str:
    """`eval/0123456789abcdef/checkpoint-500/0003.json`: how picture 3 of that checkpoint was scored."""
    return f"{EVALUATION_PREFIX}{evaluation}/{name}"


def evaluation_parts(key: str) -> tuple[str, str, str] | None:
    """(evaluation, checkpoint's folder or "", file) of a key that `evaluation_key` made, else None."""
    match = _EVALUATION.fullmatch(key)
    return (match[1], match[2] or "", match[3]) if match else None


def output_key(supervisor: str, number: int, *, prefix: str = OUTPUT_PREFIX) -> str:
    """A piece of what was printed under supervision; `supervisor` is the supervisor's own nonce.

    What an evaluation prints has a prefix of its own: the newest output below the other one is the training's.
    """
    return f"{prefix}{supervisor}/{number:05d}.txt"


def is_package(key: str) -> bool:
    """Whether `key` is of dbr's own wheel, or of the versions to install beside it."""
    return _PACKAGE.fullmatch(key) is not None


def job_file_key(launch_id: str) -> str:
    """The file that a launch gave to Slurm."""
    return f"{JOBS_PREFIX}{launch_id}/submit.slurm"


def is_job_file(key: str) -> bool:
    return _JOB_FILE.fullmatch(key) is not None


def _samples_folder(step: int, attempt: int, asked: str | None) -> str:
    return f"{SAMPLES_PREFIX}{step}-a{attempt}" + (f"-{asked}" if asked else "")


def is_hint(key: str) -> bool:
    """Whether `key` is of those that trainings and commands write for people: status, metrics, output, requests."""
    return _HINT.fullmatch(key) is not None
