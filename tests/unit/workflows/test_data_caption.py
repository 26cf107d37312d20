"""`dbr data caption` with a tiny random BLIP of the real classes: what it writes, keeps and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dreambooth_resume.cli.main import main
from dreambooth_resume.workflows.data_caption import caption_pictures

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] [DEC] a dog in the snow red robot photo of".split()


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "vocab_size": len(WORDS),
        "encoder_hidden_size": 16,
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    config = BlipConfig(text_config=small | text, vision_config=small | {"image_size": 32, "patch_size": 16})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


ASKED = "<unk> <s> </s> <image> USER ASSISTANT Describe this picture say what it is a red robot in snow".split()


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that one talks to, of the real classes, tiny and random."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("llava")
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(ASKED)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=["<image>"],
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16, "projection_dim": 16}
    text = {"model_type": "llama", "vocab_size": len(ASKED), "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config=small | text,
        vision_config=small | vision,
        image_token_index=ASKED.index("<image>"),
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side),
        tokenizer,
        patch_size=16,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template="{% for one in messages %}USER {% for part in one['content'] %}{% if part['type'] == 'image' %}"
        "<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT ",
    ).save_pretrained(folder)
    return folder


def test_a_model_that_one_talks_to_is_asked_and_only_its_answer_is_written(
    llava: Path, blip: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "caption", str(folder), "--model", str(llava), "--json"]
    assert main(command) == 0
    first = {path.name: path.read_text() for path in folder.glob("*.txt")}
    assert set(first) == {"a.txt", "b.txt", "c.txt"}
    # Random weights give random words, as many as may be; the question and its marks are not among the first ones.
    assert all(0 < len(text.split()) <= 75 for text in first.values())
    assert main([*command, "--overwrite"]) == 0
    assert {path.name: path.read_text() for path in folder.glob("*.txt")} == first
    assert main([*command, "--overwrite", "--question", "say what it is"]) == 0
    assert {path.name: path.read_text() for path in folder.glob("*.txt")} != first
    capsys.readouterr()
    assert main(["data", "caption", str(folder), "--model", str(blip), "--question", "say what it is"]) == 2
    assert "is shown the picture alone, and asked nothing" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "c.png")):
        Image.new("RGB", (50, 40), (number * 90, 40, 200)).save(folder / name)
    return folder


def test_a_real_model_describes_each_picture_once(blip: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "b.caption").write_text("mine")
    command = ["data", "caption", str(folder), "--model", str(blip), "--prefix", "sks dog, "]
    assert main(command) == 0
    assert capsys.readouterr().out == "Wrote 2 captions; 1 picture had one.\n"
    texts = {path.name: path.read_text() for path in folder.glob("*.txt")}
    assert set(texts) == {"a.txt", "c.txt"}
    assert all(text.startswith("sks dog, ") and text.endswith("\n") for text in texts.values())
    assert {word for text in texts.values() for word in text.split()[2:]} <= set(WORDS)
    (folder / "a.txt").write_text("mended")
    (folder / "c.txt").unlink()
    assert main(command) == 0
    assert (folder / "a.txt").read_text() == "mended"
    assert (folder / "c.txt").read_text() == texts["c.txt"]
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_a_kill_between_two_pictures_loses_nothing_and_overwriting_is_asked_for(folder: Path) -> None:
    def killed(image: Image.Image) -> str:
        if list(folder.glob("*.txt")):
            raise KeyboardInterrupt
        return f"first, {image.width} wide"

    with pytest.raises(KeyboardInterrupt):
        caption_pictures(folder, killed)
    assert {path.name: path.read_text() for path in folder.glob("*.txt")} == {"a.txt": "first, 50 wide\n"}
    done = caption_pictures(folder, lambda _: "second")
    assert (done.written, done.kept) == (("b.jpg", "c.png"), ("a.png",))
    assert (folder / "a.txt").read_text() == "first, 50 wide\n"
    assert caption_pictures(folder, lambda _: "third", overwrite=True).written == ("a.png", "b.jpg", "c.png")
    assert (folder / "a.txt").read_text() == "third\n"


def test_a_file_that_comes_while_the_model_thinks_is_kept(folder: Path) -> None:
    def slow(_: Image.Image) -> str:
        (folder / "a.txt").write_text("mine")
        return "the model's"

    assert "a.png" in caption_pictures(folder, slow).kept
    assert (folder / "a.txt").read_text() == "mine"


def test_what_is_wrong_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cut.png").write_bytes(b"cut")
    assert [name for name, _ in caption_pictures(folder, lambda _: "x").unreadable] == ["cut.png"]
    (tmp_path / "no-model").mkdir()
    assert main(["data", "caption", str(folder), "--model", str(tmp_path / "no-model")]) == 2
    assert "can't be loaded" in capsys.readouterr().err
    assert main(["data", "caption", str(tmp_path / "nowhere"), "--model", "x"]) == 2
    assert "no such folder" in capsys.readouterr().err
