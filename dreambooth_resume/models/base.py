"""What a model family must do, and the values that it hands out.

A family reads the folder of a base model (`check`, without weights), encodes prompts and pictures (`Encoders`, loaded
when first asked and freed again) and predicts noise (`Denoiser`). Where the text encoders are trained too, it encodes
prompts at every step (`TextEncoders`). Training knows only these; nothing here knows a family.

Letters at the end of a tensor's name: B batch, C channels, H and W height and width, T train timesteps, N prompts,
S tokens, D width of an embedding, P width of the pooled one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from dreambooth_resume.models.demands import Demands
    from dreambooth_resume.models.digests import SourceDigests
    from dreambooth_resume.models.lora_layers import LayerChoice, LayerSize, LoraSpec
    from dreambooth_resume.models.new_tokens import NewTokens
    from dreambooth_resume.models.new_words import NewWords
    from dreambooth_resume.models.source import Component, ModelSource

PredictionType = Literal["epsilon", "v_prediction"]
BasePrecision = Literal["nf4", "int8", "fp8"]
"""What the linear layers of a frozen denoiser may be kept in, beside the precision of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentScale:
    """From what the VAE gives to what the denoiser takes: (latents - mean) * scaling_factor / std.

    `mean` and `std` have a number a channel; most models have neither, and then it is latents * scaling_factor.
    """

    scaling_factor: float
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the configuration files of a base model say; known before any weight is read."""

    latent_channels: int
    pixels_per_latent: int
    """Pixels along one side of a picture for each latent (8)."""
    latent_scale: LatentScale
    num_train_timesteps: int
    prediction_type: PredictionType
    picture_side: int = 1024
    """Height and width of the pictures that the model makes by itself, in pixels."""
    text_layers: int = 0
    """Layers of the text encoder that has fewer of them."""
    is_edm: bool = False
    """Was the model made in the EDM formulation? It can be trained in no other."""
    empty_prompt_is_zeros: bool = True
    """Was it made with zeros in place of the empty prompt's embeddings?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingLora:
    """A LoRA that was trained elsewhere: its matrices by the names of a run's parameters, float32, and their sizes.

    `sizes` are those of `LoraSpec.sizes`, of every part that the file has.
    """

    values: Mapping[str, torch.Tensor]
    sizes: Mapping[str, Mapping[str, LayerSize]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdmSchedule:
    """Noise levels for training in the EDM formulation (Karras et al. 2022, arXiv:2206.00364), largest first.

    sigmas_T and conditions_T: float32 [train timesteps], on the training device; the second is what the denoiser is
    told of the first. `sigma_data` is that of an EDM model, and None for one that was made with alphas.
    """

    sigmas_T: torch.Tensor
    conditions_T: torch.Tensor
    sigma_data: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """How much signal is left at each timestep, and what the denoiser is asked to predict.

    alphas_cumprod_T: float32 [train timesteps], on the training device; empty for an EDM model, which has none.
    """

    prediction_type: PredictionType
    alphas_cumprod_T: torch.Tensor
    edm: EdmSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How a picture is made; the numbers are the defaults of Diffusers' StableDiffusionXLPipeline."""

    height: int
    width: int
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    edm_style: bool = False


class Denoiser(Protocol):
    """A frozen denoiser on its device; `lora.add_lora` puts the part that trains on its `module`."""

    @property
    def module(self) -> torch.nn.Module: ...

    @property
    def noise_schedule(self) -> NoiseSchedule: ...

    @property
    def latent_scale(self) -> LatentScale: ...

    @property
    def weight_dtype(self) -> torch.dtype: ...

    @property
    def lora_target_modules(self) -> tuple[str, ...]:
        """Ends of the names of the linear layers that get an adapter."""
        ...

    @property
    def export_prefix(self) -> str:
        """What Diffusers calls this part in a LoRA file ("unet")."""
        ...

    def predict(
        self,
        noisy_latents_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        *,
        prompt_embeds_BSD: torch.Tensor,
        pooled_prompt_embeds_BP: torch.Tensor,
        time_ids_B6: torch.Tensor,
    ) -> torch.Tensor:
        """What the noise schedule's prediction type asks for, float32 [batch, channels, height, width]."""
        ...


class Encoders(Protocol):
    """Prompts and pictures to what the denoiser reads. Nothing is loaded until asked for; `free` drops what was."""

    def encode_prompt(
        self, prompt: str, *, clip_skip: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """prompt_embeds [tokens, width] and pooled_prompt_embeds [width], always computed in float32.

        `clip_skip` leaves out so many more of the last layers than the model was made with.
        """
        ...

    def encode_pixels(self, pixels_CHW: torch.Tensor | NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of one picture's latents, float32 [channels, height, width], on the device.

        pixels_CHW: [3, height, width] in -1..1. One picture a call: encoding several at once gives other last bits.
        """
        ...

    def decode_latents(self, latents_CHW: torch.Tensor) -> NDArray[np.uint8]:
        """A picture [height, width, 3] of one sampler's latents [channels, height, width]."""
        ...

    def set_aside(self) -> None:
        """Move what was loaded to main memory: the device is free for training, and nothing is read again."""
        ...

    def free(self) -> None: ...


class Sampler(Protocol):
    """Makes latents of pictures with a loaded denoiser, whatever adapter is on it."""

    @property
    def negative_prompt_is_zeros(self) -> bool:
        """Whether the model was made to be steered away from zeros; else from the empty prompt's embeddings."""
        ...

    def sample(
        self,
        denoiser: Denoiser,
        *,
        noise_BCHW: torch.Tensor,
        prompt_BSD_BP: tuple[torch.Tensor, torch.Tensor],
        negative_BSD_BP: tuple[torch.Tensor, torch.Tensor] | None,
        settings: SamplingSettings,
        should_stop: Callable[[], bool],
    ) -> torch.Tensor | None:
        """Latents for `Encoders.decode_latents`; None if `should_stop` said so between two denoising steps.

        Draws nothing: the pictures are a pure function of the noise, the prompts and the weights.
        """
        ...


class TextEncoders(Protocol):
    """Frozen text encoders on their device, for a LoRA or new tokens in them: gradients flow through what they do."""

    @property
    def lora_parts(self) -> Mapping[str, torch.nn.Module]:
        """What gets an adapter, by what stands in front of its parameters' names ("text_encoder.text_model").

        The first component is what Diffusers calls this part in a LoRA file. The names do not depend on the version of
        a library: they are in every checkpoint.
        """
        ...

    @property
    def lora_target_modules(self) -> tuple[str, ...]:
        """Ends of the names of the linear layers that get an adapter."""
        ...

    @property
    def models(self) -> Mapping[str, torch.nn.Module]:
        """Each whole encoder, by what a pipeline calls it ("text_encoder")."""
        ...

    def add_words(
        self, words: NewWords, *, normal_draw: Callable[[int, tuple[int, int]], NDArray[np.float32]]
    ) -> NewTokens:
        """Put the words' tokens into the tokenizers, and trained rows for them behind the encoders' embeddings.

        The rows are `normal_draw(number of the encoder, shape)`, standard normal, times the standard deviation of the
        encoder's own embeddings. From now on `tokenize` reads the words as their tokens. Raises BadInput if the model
        has such tokens already.
        """
        ...

    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, ...]:
        """int64 [prompts, tokens] for each encoder, on its device."""
        ...

    def encode(self, tokens_BS: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """prompt_embeds [batch, tokens, width] and pooled_prompt_embeds [batch, width], with gradients.

        tokens_BS: int64 [batch, tokens] for each encoder, rows of what `tokenize` gave. In train mode, with the global
        generator's dropout.
        """
        ...


class Family(Protocol):
    """One kind of base model."""

    @property
    def name(self) -> str: ...

    @property
    def components(self) -> tuple[Component, ...]:
        """The parts of the model's folder that training reads."""
        ...

    def check(self, source: ModelSource) -> ModelFacts:
        """The facts, from the configuration files alone. Raises BadInput for a model that can't be trained."""
        ...

    def adapter_sizes(
        self, source: ModelSource | None, choice: LayerChoice, *, rank: int, alpha: float | None
    ) -> Mapping[str, Mapping[str, LayerSize]]:
        """`LoraSpec.sizes` for this choice, from the headers of the weight files; empty for the usual one.

        For None those of the family's published model.

        Raises BadInput for a layer or block that the model lacks.
        """
        ...

    def adapter_parameters(self, source: ModelSource, spec: LoraSpec, *, text_encoders: bool = False) -> int:
        """How many numbers such an adapter has, from the headers of the weight files."""
        ...

    def demands(
        self, source: ModelSource | None, spec: LoraSpec, *, height: int, width: int, text_encoders: bool = False
    ) -> Demands:
        """What training on pictures of this size asks of a machine; of the family's published model for None.

        `text_encoders`: they are trained too. Of a published model their adapter is not counted.
        """
        ...

    def read_adapter(self, source: ModelSource, body: bytes, *, where: str) -> ExistingLora:
        """A LoRA file, of this program or another. Raises BadInput for what isn't one for this model."""
        ...

    def prompt_key(self, digests: SourceDigests) -> str:
        """Names everything in the model that a prompt's embedding depends on."""
        ...

    def latents_key(self, digests: SourceDigests) -> str:
        """Names everything in the model that a picture's latents depend on."""
        ...

    def generation_key(self, digests: SourceDigests) -> str:
        """Names everything in the model that a picture depends on which it makes."""
        ...

    def encoders(self, source: ModelSource, *, device: torch.device) -> Encoders: ...

    def sampler(self, source: ModelSource, *, device: torch.device) -> Sampler: ...

    def load_denoiser(
        self,
        source: ModelSource,
        *,
        device: torch.device,
        weight_dtype: torch.dtype,
        gradient_checkpointing: bool,
        base_precision: BasePrecision | None = None,
        offload: bool = False,
    ) -> Denoiser:
        """`offload`: the frozen weights are in main memory, and on the device only while they are used."""
        ...

    def load_text_encoders(
        self,
        source: ModelSource,
        *,
        device: torch.device,
        weight_dtype: torch.dtype,
        gradient_checkpointing: bool,
        clip_skip: int | None = None,
    ) -> TextEncoders: ...

    def kohya_format(
        self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
    ) -> tuple[Mapping[str, torch.Tensor], Mapping[str, str]]:
        """The adapter that Diffusers loads, tensors and header, as AUTOMATIC1111 and ComfyUI name it."""
        ...
