"""The end of a run on the Hub. Whatever happens here, the result is in the home already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from dreambooth_resume.config.options.reporting import ReportingOptions
from dreambooth_resume.errors import AccessDenied
from dreambooth_resume.models.hub import HubUnreachable
from dreambooth_resume.models.hub_upload import HubUpload, check_repository_name
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.home import (
    CARD_NAME,
    CHECKPOINT_PREFIX,
    EMBEDDINGS_NAME,
    KOHYA_NAME,
    STATE_TENSORS_NAME,
    WEIGHTS_NAME,
)
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.notes import post_note, read_notes
from dreambooth_resume.runs.samples import read_samples
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.workflows.hub_checkpoint import resumable_files
from dreambooth_resume.workflows.model_card import final_samples, model_card, publish_card, training_facts
from dreambooth_resume.workflows.results import to_embeddings, to_kohya


def check_push(
    options: ReportingOptions,
    sources: Mapping[str, str],
    reporter: Reporter,
    *,
    name: str,
    hub: HubUpload | None = None,
) -> None:
    """Before anything is trained: raises BadInput without a token or with a `name` that no repository can have,
    AccessDenied for a token that can't write.

    A Hub that doesn't answer now may do so at the end, so that is only said.
    """
    if not options.push_to_hub:
        return
    check_repository_name(name)
    try:
        (hub or HubUpload(token=options.hub_token)).check(where=sources.get("push_to_hub", "push_to_hub"))
    except HubUnreachable as error:
        reporter.message(f"{error}. Training begins; the upload is tried at the end.")


def push(
    storage: Storage,
    log: Log,
    ref: CheckpointRef,
    options: ReportingOptions,
    *,
    name: str,
    names: Sequence[str],
    hub: HubUpload | None = None,
) -> str | None:
    """Upload the finished run's LoRA, card and pictures once; the repository's address, None if they are there already.

    `name` is the repository's, `names` are the result's files. Raises AccessDenied, BadInput or HubUnreachable, each of
    which says that the result is safe and what to type.
    """
    weights = ref.file_named(WEIGHTS_NAME)
    done: dict[str, JsonValue] = {"repo": name, "sha256": weights.sha256}
    if any(note.values == done for note in read_notes(storage, "pushed")):
        return None
    samples = final_samples(storage, ref.step)
    files = {
        CARD_NAME: publish_card(storage, log, ref, name=name),
        **{one: storage.read(one) for one in names},
        **{key: storage.read(key) for key in (samples.pictures if samples else ())},
    }
    try:
        address = (hub or HubUpload(token=options.hub_token)).upload(name, files)
    except (AccessDenied, HubUnreachable) as error:
        raise type(error)(f"{error}. {_safe(storage)}") from None
    post_note(storage, "pushed", f"uploaded to {address}", values=done)
    return address


def push_checkpoint(
    storage: Storage, log: Log, ref: CheckpointRef, *, name: str, hub: HubUpload, resumable: bool = False
) -> str:
    """Upload any checkpoint's LoRA to the repository `name`, with a card and the pictures of its step; the address.

    `resumable`: with all that a run needs to go on from it, in place of an earlier such checkpoint. Raises
    CheckpointDamaged, AccessDenied, BadInput or HubUnreachable.
    """
    files = dict(files_of(storage, log, ref, name=name))
    is_result = log.finished is not None and log.finished.checkpoint == ref.number
    if is_result:
        files[CARD_NAME] = publish_card(storage, log, ref, name=name)
    if resumable:
        files |= resumable_files(storage, log, ref)
    address = hub.upload(name, files, message=f"Step {ref.step}", replaces=CHECKPOINT_PREFIX if resumable else None)
    if is_result:
        done: dict[str, JsonValue] = {"repo": name, "sha256": ref.file_named(WEIGHTS_NAME).sha256}
        if not any(note.values == done for note in read_notes(storage, "pushed")):
            post_note(storage, "pushed", f"uploaded to {address}", values=done)
    return address


def files_of(storage: Storage, log: Log, ref: CheckpointRef, *, name: str) -> Mapping[str, bytes]:
    """What a repository shows of a checkpoint: the LoRA as its log entry has it, a card, the pictures of its step."""
    from dreambooth_resume.checkpoint.reader import read_checked  # imports torch, which a finished run needs not

    facts = training_facts(storage, log, ref)
    samples = next((made for made in reversed(read_samples(storage, step=ref.step)) if not made.asked), None)
    weights = read_checked(storage, ref.file_named(WEIGHTS_NAME))
    files = {
        CARD_NAME: model_card(name, ref, facts, samples).encode(),
        WEIGHTS_NAME: weights,
        **{key: storage.read(key) for key in (samples.pictures if samples else ())},
    }
    if facts.options.get("output_kohya_format"):
        files[KOHYA_NAME] = b"".join(to_kohya(weights).parts)
    if facts.options.get("train_text_encoder_ti"):
        state = read_checked(storage, ref.file_named(STATE_TENSORS_NAME))
        files[EMBEDDINGS_NAME] = b"".join(to_embeddings(state).parts)
    return files


def _safe(storage: Storage) -> str:
    return (
        f"The run is finished and its result is safe in {storage.describe()}: the same command with --resume latest "
        "trains nothing and uploads it"
    )
