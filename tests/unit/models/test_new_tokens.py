"""New tokens: which words stand for them, what is trained of them, and that Diffusers loads what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.export import embedding_tensors
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.new_tokens import NewTokens, is_new_tokens
from dreambooth_resume.models.new_words import NewWords
from dreambooth_resume.models.sdxl.text_encoders import SdxlTextEncoders
from dreambooth_resume.models.source import ModelSource, resolve_source

WORDS = NewWords.of(("TOK", "TOK2"), tokens_each=2)
PROMPT = "a photo of TOK in the TOK2 picture"
ENCODERS = ("text_encoder", "text_encoder_2")


def drawn(number: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(number).standard_normal(shape, dtype=np.float32)


@pytest.fixture
def loaded(tiny_source: ModelSource) -> Callable[[torch.dtype], SdxlTextEncoders]:
    def load(dtype: torch.dtype = torch.float32) -> SdxlTextEncoders:
        encoders = family_named(tiny_source.family).load_text_encoders(
            tiny_source, device=torch.device("cpu"), weight_dtype=dtype, gradient_checkpointing=False
        )
        assert isinstance(encoders, SdxlTextEncoders)
        return encoders

    return load


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a photo of TOK", "a photo of <s0><s1>"),
        ("TOK2's TOK, TOK", "<s2><s3>'s <s0><s1>, <s0><s1>"),
        ("in TOKYO, tok and STOK", "in TOKYO, tok and STOK"),
        ("", ""),
    ],
)
def test_whole_words_are_read_as_their_tokens(prompt: str, read: str) -> None:
    assert WORDS.in_place(prompt) == read


def test_words_may_be_anything_and_the_longest_is_meant() -> None:
    words = NewWords.of(("my.dog", "my.dog-2", "<it>"), tokens_each=1)
    assert words.in_place("my.dog-2 my.dog mysdog <it>") == "<s1> <s0> mysdog <s2>"
    assert words.missing_in(["a my.dog", "b"]) == ("my.dog-2", "<it>")
    assert words.tokens == ("<s0>", "<s1>", "<s2>")


def test_the_rows_are_the_draw_at_the_spread_of_the_encoders_own(loaded: Callable[..., SdxlTextEncoders]) -> None:
    encoders = loaded()
    spreads = {part: model.get_input_embeddings().weight.std().item() for part, model in encoders.models.items()}  # type: ignore[operator,union-attr]
    new = encoders.add_words(WORDS, normal_draw=drawn)
    assert list(new.rows) == ["text_encoder.new_tokens", "text_encoder_2.new_tokens"]
    for number, part in enumerate(ENCODERS):
        rows = new.rows[f"{part}.new_tokens"]
        assert rows.dtype == torch.float32
        assert is_new_tokens(f"{part}.new_tokens")
        np.testing.assert_allclose(rows.detach().numpy(), drawn(number, (4, 32)) * spreads[part], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_only_the_new_rows_get_a_gradient_and_all_others_stay_to_the_last_bit(
    loaded: Callable[[torch.dtype], SdxlTextEncoders], dtype: torch.dtype
) -> None:
    encoders = loaded(dtype)
    new = encoders.add_words(WORDS, normal_draw=drawn)
    before = {
        f"{part}.{name}": tensor.detach().clone()
        for part, model in encoders.models.items()
        for name, tensor in model.named_parameters()
        if not name.endswith(".rows")
    }
    optimizer = torch.optim.AdamW(list(new.rows.values()), lr=1.0, weight_decay=0.5)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        embeds, pooled = encoders.encode(encoders.tokenize([PROMPT]))
    (embeds.float().square().mean() + pooled.float().square().mean()).backward()
    for name, rows in new.rows.items():
        assert rows.grad is not None, name
        assert (rows.grad.abs().sum(dim=1) > 0).all(), name
    optimizer.step()
    for part, model in encoders.models.items():
        trained = [name for name, tensor in model.named_parameters() if tensor.requires_grad]
        assert [name.rpartition(".")[2] for name in trained] == ["rows"]
        for name, tensor in model.named_parameters():
            if not name.endswith(".rows"):
                assert torch.equal(tensor, before[f"{part}.{name}"]), name


def test_a_prompt_without_the_words_is_read_as_before(loaded: Callable[..., SdxlTextEncoders]) -> None:
    plain, extended = loaded(), loaded()
    extended.add_words(WORDS, normal_draw=drawn)
    for one, other in zip(
        plain.encode(plain.tokenize(["a red robot"])), extended.encode(extended.tokenize(["a red robot"])), strict=True
    ):
        assert torch.equal(one, other)


def test_diffusers_reads_the_file_and_encodes_the_prompt_as_the_training_does(
    loaded: Callable[..., SdxlTextEncoders], tiny_source: ModelSource
) -> None:
    encoders = loaded()
    new = encoders.add_words(WORDS, normal_draw=drawn)
    with torch.no_grad():
        embeds, pooled = encoders.encode(encoders.tokenize([PROMPT]))
    file = embedding_tensors({part: new.rows[f"{part}.new_tokens"] for part in ENCODERS})
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_source.folder)
    for key, end in (("clip_l", ""), ("clip_g", "_2")):
        pipeline.load_textual_inversion(
            file[key].clone(),
            token=list(WORDS.tokens),
            text_encoder=getattr(pipeline, f"text_encoder{end}"),
            tokenizer=getattr(pipeline, f"tokenizer{end}"),
        )
    theirs, _, theirs_pooled, _ = pipeline.encode_prompt(WORDS.in_place(PROMPT), do_classifier_free_guidance=False)
    torch.testing.assert_close(embeds, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(pooled, theirs_pooled, rtol=0, atol=1e-6)
    with torch.no_grad():
        other, _ = encoders.encode(encoders.tokenize(["a photo of dog in the dog picture"]))
    assert not torch.allclose(embeds, other)


def scripts_retract(rows: torch.Tensor, std: float) -> torch.Tensor:
    """What `retract_embeddings` of Diffusers' advanced script does to the new rows."""
    off_ratio = std / rows.std()
    return rows * (off_ratio**0.1)


def test_the_spread_is_held_as_in_diffusers_advanced_script() -> None:
    rows = torch.nn.Parameter(torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) * 3)
    new = NewTokens(rows={"text_encoder.new_tokens": rows}, spreads={"text_encoder.new_tokens": 0.5})
    wanted = scripts_retract(rows.detach(), 0.5)
    new.hold_spread(torch.tensor(1.0))
    torch.testing.assert_close(rows.detach(), wanted)
    before = rows.detach().clone()
    new.hold_spread(torch.tensor(float("inf")))  # a step that overflowed updated nothing
    assert torch.equal(rows.detach(), before)
    rows.requires_grad_(False)
    new.hold_spread(torch.tensor(1.0))  # behind the pivot
    assert torch.equal(rows.detach(), before)


def test_a_model_whose_tokenizer_has_new_tokens_already_is_refused(model_copy: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(model_copy / "tokenizer_2")
    tokenizer.add_tokens(["<other>"])
    tokenizer.save_pretrained(model_copy / "tokenizer_2")
    source = resolve_source(str(model_copy), hub=HuggingFaceHub())
    encoders = family_named(source.family).load_text_encoders(
        source, device=torch.device("cpu"), weight_dtype=torch.float32, gradient_checkpointing=False
    )
    with pytest.raises(BadInput, match="new tokens already"):
        encoders.add_words(NewWords.of(("TOK",), tokens_each=2), normal_draw=drawn)


def test_only_what_everybody_reads_is_exported() -> None:
    with pytest.raises(ValueError, match="are wanted"):
        embedding_tensors({"text_encoder": torch.zeros(2, 32)})


def test_the_words_are_no_reason_to_load_torch() -> None:
    import subprocess
    import sys

    program = "import sys, dreambooth_resume.models.new_words; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "False", done.stderr
