"""Token embeddings that are trained: rows of their own behind a frozen table, which stays as it is to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

ROWS_NAME = "new_tokens"
"""Last component of the names of such parameters: "text_encoder.new_tokens"."""

# As in Diffusers' advanced script: how much of the way back to the table's spread is gone after each update.
_PULL = 0.1


def is_new_tokens(name: str) -> bool:
    """Is it the name of a parameter that holds new tokens' embeddings?"""
    return name.endswith(f".{ROWS_NAME}")


class ExtendedEmbedding(torch.nn.Module):
    """A text encoder's token embeddings with trained rows behind them; `rows` are float32 [new tokens, width]."""

    def __init__(self, table: torch.nn.Embedding, rows: torch.nn.Parameter) -> None:
        super().__init__()
        self.table = table
        self.rows = rows

    @property
    def weight(self) -> torch.Tensor:
        """The frozen table, for whoever asks for the encoder's dtype or device there."""
        return self.table.weight

    def forward(self, tokens_BS: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width] in the table's dtype, as a pipeline computes with."""
        known = self.table.num_embeddings
        embedded: torch.Tensor = self.table(tokens_BS.clamp(max=known - 1))
        # Not by an index: its backward pass adds up what one token gets in any order.
        for number, row_D in enumerate(self.rows.to(embedded.dtype).unbind()):
            embedded = torch.where((tokens_BS == known + number).unsqueeze(-1), row_D, embedded)
        return embedded


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokens:
    """The trained rows by parameter name, and the standard deviation that each encoder's own embeddings have."""

    rows: Mapping[str, torch.nn.Parameter]
    spreads: Mapping[str, float]

    @torch.no_grad()
    def hold_spread(self, grad_norm: torch.Tensor) -> None:
        """Called after an update: pull the rows' standard deviation towards the encoder's own, by a tenth in its log.

        Source: `retract_embeddings` of Diffusers' train_dreambooth_lora_sdxl_advanced.py. After a step whose gradient
        overflowed (its norm is not finite) nothing was updated, and nothing is pulled.
        """
        for name, rows in self.rows.items():
            if rows.requires_grad:
                factor = (self.spreads[name] / rows.std()) ** _PULL
                rows.mul_(torch.where(torch.isfinite(grad_norm), factor, 1.0))


def extend(model: Any, rows_RD: torch.Tensor) -> torch.nn.Parameter:
    """Put rows behind the token embeddings of one of transformers' text models; the parameter that trains.

    rows_RD: float32 [new tokens, width]. Their ids are those behind the table's.
    """
    table = model.get_input_embeddings()
    rows = torch.nn.Parameter(rows_RD.to(table.weight.device, torch.float32))
    model.set_input_embeddings(ExtendedEmbedding(table, rows))
    return rows


def spread_of(model: Any) -> float:
    """Standard deviation of all token embeddings that the model has of its own."""
    return float(model.get_input_embeddings().weight.float().std())
