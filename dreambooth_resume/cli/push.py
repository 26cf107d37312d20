"""`dbr push HOME`: a run's LoRA, its card and its pictures on the Hugging Face Hub."""

from __future__ import annotations

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, add_step, checkpoint_meant, home_name, open_run
from dreambooth_resume.cli.output import print_json
from dreambooth_resume.models.hub_upload import HubUpload, check_repository_name
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.workflows.export import recorded_at
from dreambooth_resume.workflows.push import push_checkpoint


def run(words: list[str]) -> int:
    """Exit code 0. Raises BadInput without a token or a name, AccessDenied, HubUnreachable, CheckpointDamaged."""
    parser = CommandParser(
        "dbr push",
        description="Upload the LoRA of a checkpoint to the Hugging Face Hub, with its model card and its pictures, in "
        "one commit; verified against the log before, and compared with what the Hub has after. What is there already "
        "costs nothing. The token is that of HF_TOKEN or `hf auth login`.",
        fix="dbr push HOME --hub_model_id you/dog-lora",
    )
    add_home(parser)
    add_step(parser)
    parser.add_argument(
        "--hub-model-id",
        metavar="NAME",
        help="the repository; left out: the run's, else the home's name in your account",
    )
    parser.add_argument(
        "--resumable",
        action="store_true",
        help="with the training state: --resume_from_checkpoint NAME/checkpoint-500 goes on from it in an empty home; "
        "without the pictures",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    storage, _ = open_run(arguments)
    log = read_log(storage)
    ref = checkpoint_meant(log, arguments.step, where=storage.describe())
    recorded = recorded_at(storage, log, ref).get("hub_model_id")
    name = arguments.hub_model_id or (str(recorded) if recorded else home_name(storage))
    check_repository_name(name)
    hub = HubUpload(token=None)
    hub.check(where="dbr push")
    address = push_checkpoint(storage, log, ref, name=name, hub=hub, resumable=arguments.resumable)
    if arguments.json:
        print_json({"address": address, "checkpoint": ref.folder, "step": ref.step})
        return 0
    print(f"{ref.folder} is on the Hub: {address}")
    return 0
