"""What a model asks of a machine, counted from the shapes of its weights: no weight is read, and no torch needed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """Numbers, operations and memory for training on one picture of one size.

    Operations are floating-point ones: a multiplication with its addition counts as two. Bytes are those of a picture.
    """

    is_stock: bool
    """Counted for the family's published model, because the files of the one that was named are not on this machine."""
    denoiser_parameters: int
    linear_parameters: int
    """Of them, those in linear layers of its blocks: what base_precision keeps in fewer bits."""
    text_parameters: int
    vae_parameters: int
    adapter_parameters: int
    forward_flops: float
    """Of the denoiser with its adapter."""
    backward_flops: float
    """Gradients of the activations and of the adapter: the frozen weights need none."""
    recomputed_flops: float
    """What gradient checkpointing computes again."""
    encode_flops: float
    """Of the VAE, picture to latents."""
    decode_flops: float
    """Of the VAE, latents to picture."""
    encoding_bytes: float
    """What the VAE needs at work on a picture, beside its weights."""
    kept_bytes: float
    """What the forward pass keeps for the backward pass, in half precision, attention computed by a fused kernel."""
    kept_bytes_float32: float
    checkpointed_bytes: float
    """The same with gradient checkpointing."""
    checkpointed_bytes_float32: float
    recomputed_bytes: float
    """What is computed again at once at most."""
