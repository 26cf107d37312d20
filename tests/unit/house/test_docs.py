"""What the documents say is so: links, commands, exit codes, flags, messages, options."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from dreambooth_resume import errors
from dreambooth_resume.config.messages import format_error
from dreambooth_resume.data.cache import CACHE_PREFIX
from dreambooth_resume.data.inputs import INPUTS_LIST, INPUTS_PREFIX
from dreambooth_resume.runs import home

SCRIPT_FLAGS = """
pretrained_model_name_or_path pretrained_vae_model_name_or_path revision variant dataset_name dataset_config_name
instance_data_dir cache_dir image_column caption_column repeats class_data_dir instance_prompt class_prompt
validation_prompt num_validation_images validation_epochs do_edm_style_training with_prior_preservation
prior_loss_weight num_class_images output_dir output_kohya_format seed resolution center_crop random_flip
train_text_encoder train_batch_size sample_batch_size num_train_epochs max_train_steps checkpointing_steps
checkpoints_total_limit resume_from_checkpoint gradient_accumulation_steps gradient_checkpointing learning_rate
text_encoder_lr scale_lr lr_scheduler snr_gamma lr_warmup_steps lr_num_cycles lr_power dataloader_num_workers optimizer
use_8bit_adam adam_beta1 adam_beta2 prodigy_beta3 prodigy_decouple adam_weight_decay adam_weight_decay_text_encoder
adam_epsilon prodigy_use_bias_correction prodigy_safeguard_warmup max_grad_norm push_to_hub hub_token hub_model_id
logging_dir allow_tf32 report_to mixed_precision prior_generation_precision local_rank
enable_xformers_memory_efficient_attention rank lora_dropout use_dora image_interpolation_mode
""".split()


@pytest.fixture(scope="module")
def documents(project_files: list[Path]) -> list[Path]:
    return [path for path in project_files if path.suffix == ".md"]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_links_between_documents_lead_somewhere(documents: list[Path], root: Path) -> None:
    broken = []
    for document in documents:
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (document.parent / name) if name else document
            if not path.exists():
                broken.append(f"{document.relative_to(root)}: {target}")
            elif anchor and anchor not in map(_anchor, re.findall(r"^#+ (.*)$", path.read_text(), re.M)):
                broken.append(f"{document.relative_to(root)}: {target} (no such heading)")
    assert not broken


def test_the_flag_table_has_every_flag_of_the_script_once(root: Path) -> None:
    rows = re.findall(r"^\| `--(\w+)` \|", (root / "README.md").read_text(), re.M)
    assert len(SCRIPT_FLAGS) == 72
    assert sorted(rows) == sorted(SCRIPT_FLAGS)


def test_the_exit_code_table_is_that_of_the_error_tree(root: Path) -> None:
    table = (root / "README.md").read_text().split("## Exit codes")[1].split("\n## ")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    raised = {value.exit_code for value in classes if issubclass(value, errors.DbrError)}
    assert documented == raised | {0}


def _templates(path: Path) -> list[str]:
    """The string literals in a Python file, joined as the language joins them; NUL stands for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            found.append("".join(str(part) for part in parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_messages_in_troubleshooting_are_those_of_the_code(root: Path, python_files: list[Path]) -> None:
    sources = [path for path in python_files if path.is_relative_to(root / "dreambooth_resume")]
    templates = [template for path in sources for template in _templates(path)]
    templates += [(root / "Makefile").read_text().replace("$(1)", "\0")]
    headings = re.findall(r"^### `([^`]+)`$", (root / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(headings) >= 15
    gone = []
    for heading in headings:
        pattern = ".*".join(re.escape(part.strip()) for part in heading.split("…"))
        if not any(re.search(pattern, template, re.S) for template in templates):
            gone.append(heading)
    assert not gone


def _error_classes(cls: type[errors.DbrError] = errors.DbrError) -> list[type[errors.DbrError]]:
    """The whole tree, as far as modules that need no torch define it."""
    launchers = ("launch.programs", "launch.aws.asking", "launch.hf_jobs.launcher")
    for module in ("models.hub", "workflows.demo", "workflows.lives", *launchers):
        import_module(f"dreambooth_resume.{module}")
    return [cls, *(below for sub in cls.__subclasses__() for below in _error_classes(sub))]


def _any_error(cls: type[errors.DbrError]) -> errors.DbrError:
    if issubclass(cls, errors.NonFinite):
        return cls("why", step=4)
    error = cls.__new__(cls)
    # Some kinds want more facts, which the heading does not depend on.
    errors.BadInput.__init__(error, "what") if isinstance(error, errors.BadInput) else None
    return error


def test_every_kind_of_error_has_a_heading_of_its_own_in_troubleshooting_and_prints_it(root: Path) -> None:
    page = (root / "docs" / "troubleshooting.md").read_text()
    headings = [_anchor(found) for found in re.findall(r"^#+ (.*)$", page, re.M)]
    assert len(headings) == len(set(headings))
    classes = _error_classes()
    assert len(classes) >= 16
    for cls in classes:
        assert cls.anchor in headings, cls
        assert format_error(_any_error(cls)).endswith(f"\n  more: dbr help {cls.anchor}")
    own = [cls for cls in classes if "anchor" in vars(cls)]
    assert set(own) >= {value for value in vars(errors).values() if isinstance(value, type) and value in classes}
    kinds = page.split("## By kind of error")[1].split("\n## ")[0]
    assert {_anchor(found) for found in re.findall(r"^### (.*)$", kinds, re.M)} == {cls.anchor for cls in own}
    for part in re.split(r"^### ", kinds, flags=re.M)[1:]:
        exit_code = int(re.search(r"\nExit (\d+)", part)[1])  # type: ignore[index]
        assert {cls.exit_code for cls in classes if cls.anchor == _anchor(part.splitlines()[0])} == {exit_code}


def test_every_symptom_names_the_command_that_finds_it(root: Path) -> None:
    page = (root / "docs" / "troubleshooting.md").read_text()
    symptoms = re.split(r"^### ", page.split("## By symptom")[1].split("\n## ")[0], flags=re.M)[1:]
    assert len(symptoms) >= 13
    assert not [part.splitlines()[0] for part in symptoms if not re.search(r"`(dbr|hf|which|nvidia-smi) ?", part)]


def test_remarks_on_a_curve_lead_to_a_heading(root: Path) -> None:
    source = (root / "dreambooth_resume" / "insight" / "trends.py").read_text()
    anchors = set(re.findall(r'anchor="([^"]+)"', source))
    headings = set(map(_anchor, re.findall(r"^### (.*)$", (root / "docs" / "troubleshooting.md").read_text(), re.M)))
    assert anchors
    assert anchors <= headings


def _shell_commands(text: str) -> list[str]:
    """Command lines in the fenced blocks of a document, continued lines joined, comments dropped."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if language in {"", "bash", "sh", "console"}:
            found += [line.strip() for line in block.replace("\\\n", " ").splitlines()]
    return found


def test_make_targets_in_documents_exist(documents: list[Path], root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.M))
    for document in documents:
        text = document.read_text()
        named = set(re.findall(r"`make ((?:[A-Z_]+=\S* )*)([a-z-]+)`", text))
        named |= {("", line.split()[1]) for line in _shell_commands(text) if line.startswith("make ")}
        assert {target for _, target in named} <= targets, document


def test_the_home_format_names_every_kind_of_key(root: Path) -> None:
    text = (root / "docs" / "home-format.md").read_text()
    names = [home.RUN, *home.CHECKPOINT_FILES]
    prefixes = [value for name, value in vars(home).items() if name.endswith("_PREFIX")]
    assert len(prefixes) >= 5
    for key in [*names, *prefixes, CACHE_PREFIX, INPUTS_PREFIX, INPUTS_LIST]:
        assert f"`{key}" in text, key
