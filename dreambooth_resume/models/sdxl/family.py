"""What the files of an SDXL model say, checked before any weight is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.base import BasePrecision, ExistingLora, LatentScale, ModelFacts, PredictionType
from dreambooth_resume.models.lora_layers import LayerChoice, Layers, LayerSize, LoraSpec, layer_sizes, size_of
from dreambooth_resume.models.sdxl.demands import sdxl_demands
from dreambooth_resume.models.sdxl.single_file import check_single_file, part_shapes
from dreambooth_resume.models.sdxl.stock import TEXT_PARAMETERS, VAE_PARAMETERS, stock_unet_shapes
from dreambooth_resume.models.source import MODEL_FLAG, VAE_FLAG, Component, ModelSource, read_json
from dreambooth_resume.models.weights_header import tensor_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from dreambooth_resume.models.demands import Demands
    from dreambooth_resume.models.digests import SourceDigests
    from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
    from dreambooth_resume.models.sdxl.encoders import SdxlEncoders
    from dreambooth_resume.models.sdxl.generation import SdxlSampler
    from dreambooth_resume.models.sdxl.text_encoders import SdxlTextEncoders

LORA_TARGET_MODULES = ("to_k", "to_out.0", "to_q", "to_v")
# Outside the blocks lie the embeddings of time and size, and the first and last convolution: nobody trains a LoRA on
# them, and other programs don't read their names.
_BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
_CONV_BLOCKS = ("downsamplers", "resnets", "upsamplers")
_ADAPTED_DIMENSIONS = (2, 4)
TEXT_LORA_TARGET_MODULES = ("k_proj", "out_proj", "q_proj", "v_proj")
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_TOKENIZER_OPTIONAL = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
)


class SdxlFamily:
    """Stable Diffusion XL base models in Diffusers' layout."""

    name = "sdxl"
    components = (
        Component(name="scheduler", weights=None, files=(("scheduler_config.json",),)),
        Component(name="text_encoder", weights="model", files=(("config.json",),)),
        Component(name="text_encoder_2", weights="model", files=(("config.json",),)),
        Component(name="tokenizer", weights=None, files=_TOKENIZER_FILES, optional=_TOKENIZER_OPTIONAL),
        Component(name="tokenizer_2", weights=None, files=_TOKENIZER_FILES, optional=_TOKENIZER_OPTIONAL),
        Component(name="unet", weights="diffusion_pytorch_model", files=(("config.json",),)),
        Component(name="vae", weights="diffusion_pytorch_model", files=(("config.json",),)),
    )

    def check(self, source: ModelSource) -> ModelFacts:
        unet = read_json(source.folder / "unet" / "config.json")
        vae = read_json(source.vae_folder / "config.json")
        if (path := source.single_file_of("unet")) is not None:
            check_single_file(source, path, unet=unet, scheduler=_scheduler_config(source))
        _check_unet(unet, source)
        channels = int(vae.get("latent_channels", 4))
        if channels != unet["in_channels"]:
            raise BadInput(
                f"the VAE makes {channels} latent channels and the UNet takes {unet['in_channels']}",
                where=VAE_FLAG,
                fix="use a VAE that was made for SDXL, or leave the option out",
            )
        pixels_per_latent = 2 ** (len(vae.get("block_out_channels", (0, 0, 0, 0))) - 1)
        return ModelFacts(
            latent_channels=channels,
            pixels_per_latent=pixels_per_latent,
            latent_scale=_latent_scale(vae),
            num_train_timesteps=int(_scheduler_config(source).get("num_train_timesteps", 1000)),
            prediction_type=_prediction_type(source),
            picture_side=int(unet.get("sample_size") or 128) * pixels_per_latent,
            text_layers=min(_text_layers(source, name) for name in ("text_encoder", "text_encoder_2")),
            is_edm=is_edm(_scheduler_config(source)),
            empty_prompt_is_zeros=_negative_prompt_is_zeros(source),
        )

    def adapter_sizes(
        self, source: ModelSource | None, choice: LayerChoice, *, rank: int, alpha: float | None
    ) -> dict[str, dict[str, LayerSize]]:
        if choice.is_usual:
            return {}
        found = Layers(shapes=_adapted_shapes(source), usual=LORA_TARGET_MODULES, conv_blocks=_CONV_BLOCKS)
        return {"unet": layer_sizes(found, choice, rank=rank, alpha=alpha)}

    def adapter_parameters(self, source: ModelSource, spec: LoraSpec, *, text_encoders: bool = False) -> int:
        targets = {"unet": LORA_TARGET_MODULES}
        if text_encoders:
            targets |= dict.fromkeys(("text_encoder", "text_encoder_2"), TEXT_LORA_TARGET_MODULES)
        total = 0
        for component, layers in targets.items():
            sizes = spec.sizes.get(component, {})
            ends = tuple(f".{layer}.weight" for layer in layers)
            for name, shape in _weight_shapes(source, component):
                size = sizes.get(name.removesuffix(".weight"))
                if size is not None or (not sizes and name.endswith(ends)):
                    total += size_of(shape, size.rank if size else spec.rank, spec)
        return total

    def demands(
        self, source: ModelSource | None, spec: LoraSpec, *, height: int, width: int, text_encoders: bool = False
    ) -> Demands:
        if source is None:
            shapes = stock_unet_shapes()
            ranks = _ranks(shapes, spec)
            return sdxl_demands(
                None,
                ranks,
                height=height,
                width=width,
                adapter_parameters=sum(size_of(shapes[f"{name}.weight"], rank, spec) for name, rank in ranks.items()),
                text_parameters=TEXT_PARAMETERS,
                vae_parameters=VAE_PARAMETERS,
            )
        shapes = dict(_weight_shapes(source, "unet"))
        return sdxl_demands(
            shapes,
            _ranks(shapes, spec),
            height=height,
            width=width,
            adapter_parameters=self.adapter_parameters(source, spec, text_encoders=text_encoders),
            text_parameters=sum(_numbers(source, name) for name in ("text_encoder", "text_encoder_2")),
            vae_parameters=_numbers(source, "vae"),
        )

    def read_adapter(self, source: ModelSource, body: bytes, *, where: str) -> ExistingLora:
        from dreambooth_resume.models.sdxl.existing import read_existing

        unet_config = read_json(source.folder / "unet" / "config.json")
        return read_existing(body, where=where, unet_config=unet_config, shapes=_adapted_shapes(source))

    def prompt_key(self, digests: SourceDigests) -> str:
        return digests.of("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")

    def latents_key(self, digests: SourceDigests) -> str:
        return digests.of("vae")

    def generation_key(self, digests: SourceDigests) -> str:
        return digests.of(*(component.name for component in self.components))

    def encoders(self, source: ModelSource, *, device: torch.device) -> SdxlEncoders:
        from dreambooth_resume.models.sdxl.encoders import SdxlEncoders

        return SdxlEncoders(source, device=device)

    def sampler(self, source: ModelSource, *, device: torch.device) -> SdxlSampler:
        from dreambooth_resume.models.sdxl.generation import SdxlSampler

        return SdxlSampler(
            _scheduler_config(source), device=device, negative_prompt_is_zeros=_negative_prompt_is_zeros(source)
        )

    def load_denoiser(
        self,
        source: ModelSource,
        *,
        device: torch.device,
        weight_dtype: torch.dtype,
        gradient_checkpointing: bool,
        base_precision: BasePrecision | None = None,
        offload: bool = False,
    ) -> SdxlDenoiser:
        from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser, load_unet, noise_schedule

        facts = self.check(source)
        return SdxlDenoiser(
            load_unet(
                source,
                device=device,
                weight_dtype=weight_dtype,
                gradient_checkpointing=gradient_checkpointing,
                base_precision=base_precision,
                offload=offload,
            ),
            noise_schedule=noise_schedule(facts, _scheduler_config(source), device=device),
            latent_scale=facts.latent_scale,
            weight_dtype=weight_dtype,
        )

    def load_text_encoders(
        self,
        source: ModelSource,
        *,
        device: torch.device,
        weight_dtype: torch.dtype,
        gradient_checkpointing: bool,
        clip_skip: int | None = None,
    ) -> SdxlTextEncoders:
        from dreambooth_resume.models.sdxl.text_encoders import load_text_encoders

        return load_text_encoders(
            source,
            device=device,
            weight_dtype=weight_dtype,
            gradient_checkpointing=gradient_checkpointing,
            clip_skip=clip_skip,
        )

    def kohya_format(
        self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        from dreambooth_resume.models.sdxl.kohya import kohya_format

        return kohya_format(tensors, metadata)


def is_edm(scheduler_config: dict[str, Any]) -> bool:
    """Is it a model of the EDM formulation? As in Diffusers' script, its scheduler's name says so."""
    return "EDM" in str(scheduler_config.get("_class_name"))


def _check_unet(unet: dict[str, Any], source: ModelSource) -> None:
    where = f"{MODEL_FLAG} {source.name}"
    fix = "choose an SDXL base model, such as stabilityai/stable-diffusion-xl-base-1.0"
    if unet.get("addition_embed_type") != "text_time":
        raise BadInput("the UNet does not take SDXL's size and crop numbers, so this is not SDXL", where=where, fix=fix)
    if unet.get("in_channels", 4) != unet.get("out_channels", 4):
        raise BadInput(
            f"the UNet takes {unet['in_channels']} channels, so this is an inpainting model, which dbr can't train",
            where=where,
            fix=fix,
        )
    time_ids = unet["projection_class_embeddings_input_dim"] - 6 * unet["addition_time_embed_dim"]
    pooled = read_json(source.folder / "text_encoder_2" / "config.json").get("projection_dim", 512)
    if time_ids != pooled:
        raise BadInput(
            "the UNet takes other than six size and crop numbers, so this is SDXL's refiner, which dbr can't train",
            where=where,
            fix=fix,
        )


def _latent_scale(vae: dict[str, Any]) -> LatentScale:
    mean, std = vae.get("latents_mean"), vae.get("latents_std")
    return LatentScale(
        scaling_factor=float(vae.get("scaling_factor", 0.18215)),
        mean=None if mean is None else tuple(float(number) for number in mean),
        std=None if std is None else tuple(float(number) for number in std),
    )


def _text_layers(source: ModelSource, component: str) -> int:
    return int(read_json(source.folder / component / "config.json").get("num_hidden_layers", 12))


def _scheduler_config(source: ModelSource) -> dict[str, Any]:
    return read_json(source.folder / "scheduler" / "scheduler_config.json")


def _negative_prompt_is_zeros(source: ModelSource) -> bool:
    """Only the pipeline's own file says so, which a fetched model needn't have; SDXL's base has it true."""
    path = source.folder / "model_index.json"
    index = read_json(path) if path.is_file() else {}
    return bool(index.get("force_zeros_for_empty_prompt", True))


def _prediction_type(source: ModelSource) -> PredictionType:
    config = _scheduler_config(source)
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type == "epsilon":
        return "epsilon"
    if prediction_type == "v_prediction":
        return "v_prediction"
    raise BadInput(
        f"the model predicts {prediction_type!r}; dbr trains models that predict epsilon or v_prediction",
        where=f"{MODEL_FLAG} {source.name}",
        fix="choose another model",
    )


def _adapted_shapes(source: ModelSource | None) -> dict[str, tuple[int, ...]]:
    """The UNet's layers that can get an adapter, with the shapes of their weights."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in (_weight_shapes(source, "unet") if source else stock_unet_shapes().items())
        if name.endswith(".weight") and len(shape) in _ADAPTED_DIMENSIONS and name.startswith(_BLOCKS)
    }


def _ranks(shapes: Mapping[str, tuple[int, ...]], spec: LoraSpec) -> dict[str, int]:
    """The UNet's layers with an adapter, and its rank."""
    sizes = spec.sizes.get("unet", {})
    if sizes:
        return {name: size.rank for name, size in sizes.items()}
    ends = tuple(f".{layer}.weight" for layer in LORA_TARGET_MODULES)
    return {name.removesuffix(".weight"): spec.rank for name in shapes if name.endswith(ends)}


def _numbers(source: ModelSource, component: str) -> int:
    return sum(math.prod(shape) for _, shape in _weight_shapes(source, component))


def _weight_shapes(source: ModelSource, component: str) -> list[tuple[str, tuple[int, ...]]]:
    if (path := source.single_file_of(component)) is not None:
        return list(part_shapes(source, path, component).items())
    files = (file.path for file in source.files_of(component) if file.path.suffix == ".safetensors")
    return [entry for path in files for entry in tensor_shapes(path).items()]
