"""New tokens in a saved state: their names, and what of them is the result."""

from __future__ import annotations

import torch

from dreambooth_resume.checkpoint.tensors import deserialise, serialise
from dreambooth_resume.training.state import result_tokens
from dreambooth_resume.workflows.results import to_embeddings


def state(**more: torch.Tensor) -> bytes:
    tensors = {
        "lora.down.lora_A.weight": torch.ones(2, 2),
        "tokens.text_encoder": torch.full((2, 3), 1.0),
        "tokens.text_encoder_2": torch.full((2, 5), 2.0),
        **more,
    }
    return b"".join(serialise(tensors, {}).parts)


def test_the_file_of_embeddings_has_the_rows_of_the_state() -> None:
    made = deserialise(b"".join(to_embeddings(state()).parts))
    assert {name: tuple(rows.shape) for name, rows in made.items()} == {"clip_l": (2, 3), "clip_g": (2, 5)}
    assert made["clip_g"].unique().tolist() == [2.0]


def test_where_an_average_is_kept_it_is_the_result() -> None:
    body = state(**{f"ema.text_encoder{end}.new_tokens": torch.full((2, 3), 7.0) for end in ("", "_2")})
    assert [rows.unique().tolist() for rows in result_tokens(deserialise(body)).values()] == [[7.0], [7.0]]


def test_a_state_without_new_tokens_has_none() -> None:
    assert result_tokens({"lora.down.lora_A.weight": torch.ones(2, 2)}) == {}
