"""`dbr export HOME --format kohya`: the LoRA of a checkpoint as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, add_step, checkpoint_meant, home_name, open_run
from dreambooth_resume.cli.output import print_json
from dreambooth_resume.cli.wording import size
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.workflows.export import Export, ExportDtype, export_embeddings, export_weights, write_export
from dreambooth_resume.workflows.export_header import Layout


def run(words: list[str]) -> int:
    """Exit code 0. Raises BadInput, and CheckpointDamaged before anything is written."""
    parser = CommandParser(
        "dbr export",
        description="Write the LoRA of a checkpoint as one .safetensors file, verified against the log, with what "
        "programs want to know of it in its header (ModelSpec 1.0.1 and sd-scripts' fields). Needs no base model. The "
        "same weights give the same bytes. New tokens (train_text_encoder_ti) go into a second file, "
        "FILE_emb.safetensors.",
        fix="dbr export HOME --format kohya --to dog.safetensors",
    )
    add_home(parser)
    add_step(parser)
    parser.add_argument(
        "--format",
        choices=get_args(Layout),
        required=True,
        help="diffusers: for pipe.load_lora_weights; kohya: for ComfyUI, AUTOMATIC1111, Forge, InvokeAI, SD.Next",
    )
    parser.add_argument(
        "--to", metavar="FILE", help="a file, or a folder that is there; left out: NAME-STEP-FORMAT.safetensors here"
    )
    parser.add_argument(
        "--dtype",
        choices=get_args(ExportDtype),
        default="fp32",
        help="left out: fp32, as trained; fp16 is half as large",
    )
    parser.add_argument("--title", metavar="TEXT", help="the name that programs show; left out: that of the home")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    storage, _ = open_run(arguments)
    log = read_log(storage)
    ref = checkpoint_meant(log, arguments.step, where=storage.describe())
    name = home_name(storage)
    export = Export(layout=arguments.format, dtype=arguments.dtype, title=arguments.title or name)
    blob = export_weights(storage, log, ref, export)
    path = Path(arguments.to or ".").expanduser()
    if path.is_dir():
        path /= f"{name}-{ref.step}-{arguments.format}.safetensors"
    write_export(blob, path)
    tokens = None
    if (embeddings := export_embeddings(storage, log, ref, arguments.dtype)) is not None:
        tokens = path.with_name(f"{path.stem}_emb.safetensors")
        write_export(embeddings, tokens)
    if arguments.json:
        made = {"file": str(path), "checkpoint": ref.folder, "size_bytes": blob.size_bytes, "sha256": blob.sha256}
        print_json({**made, "embeddings": str(tokens) if tokens else None})
        return 0
    print(
        f"{path}: {ref.folder} in {arguments.format} format, {arguments.dtype}, {size(blob.size_bytes)}\n"
        f"SHA-256 {blob.sha256}"
    )
    if tokens is not None:
        print(f"{tokens}: the new tokens, which belong to it")
    return 0
