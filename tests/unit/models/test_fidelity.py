"""DINO and CLIP of the real classes, tiny and random: what an embedding promises, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.fidelity import Clip, Dino, similarity
from tests.fakes.scorers import build_clip, build_dino


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dino(tmp_path_factory.mktemp("scorers") / "dino")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return build_clip(tmp_path_factory.mktemp("scorers") / "clip", tiny_folder / "tokenizer")


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_picture_is_as_near_to_itself_as_can_be_and_no_other_is(dino: Path, clip: Path) -> None:
    for scorer in (Dino(str(dino)), Clip(str(clip))):
        one, other = scorer.embed(picture(1)), scorer.embed(picture(2))
        assert np.linalg.norm(one) == pytest.approx(1.0)
        assert similarity(one, scorer.embed(picture(1))) == pytest.approx(1.0)
        assert similarity(one, other) < 0.9999
        assert scorer.embed(picture(1).convert("RGBA")).tobytes() == one.tobytes()


def test_dinos_embedding_is_the_class_token_of_the_model_itself(dino: Path) -> None:
    import torch
    from transformers import ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    model = ViTModel.from_pretrained(dino, add_pooling_layer=False).eval()
    pixels = ViTImageProcessorPil.from_pretrained(dino)(images=picture(3), return_tensors="pt")
    with torch.no_grad():
        token = model(**pixels).last_hidden_state[0, 0].double().numpy()
    assert Dino(str(dino)).embed(picture(3)) == pytest.approx(token / np.linalg.norm(token), abs=1e-6)


def test_clip_compares_a_picture_with_a_text_as_its_own_class_does(clip: Path) -> None:
    import torch
    from transformers import CLIPModel, CLIPTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    scorer, model = Clip(str(clip)), CLIPModel.from_pretrained(clip).eval()
    tokens = CLIPTokenizerFast.from_pretrained(clip)("a red dog", return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(clip)(images=picture(4), return_tensors="pt")
    with torch.no_grad():
        logit = model(**tokens, **pixels).logits_per_image[0, 0] / model.logit_scale.exp()
    assert similarity(scorer.embed(picture(4)), scorer.embed_text("a red dog")) == pytest.approx(float(logit), abs=1e-5)
    assert similarity(scorer.embed_text("a red dog"), scorer.embed_text("a blue robot")) < 0.9999
    assert scorer.embed_text("a dog " * 200).shape == scorer.embed_text("a dog").shape  # cut at 77 tokens


def test_other_weights_have_another_digest_wherever_they_lie(dino: Path, tmp_path: Path) -> None:
    same, other = build_dino(tmp_path / "copy"), build_dino(tmp_path / "other", seed=9)
    first = Dino(str(dino)).digest
    assert Dino(str(same)).digest == first
    assert Dino(str(other)).digest != first


def test_what_is_no_such_model_or_a_pickle_is_bad_input(dino: Path, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a clip"):
        Dino(str(clip))
    with pytest.raises(BadInput, match="is a vit"):
        Clip(str(dino))
    with pytest.raises(BadInput, match="can't be loaded"):
        Dino(str(tmp_path / "none"))
    pickle = build_dino(tmp_path / "pickle")
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    with pytest.raises(BadInput, match="can't be loaded"):
        Dino(str(pickle))
