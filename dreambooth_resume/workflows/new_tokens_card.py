"""What the model card says of new tokens: which words they stand for, and how their file is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from dreambooth_resume.models.new_words import NewWords
from dreambooth_resume.runs.home import EMBEDDINGS_NAME


def new_words_of(options: Mapping[str, JsonValue]) -> NewWords:
    """The words of a run with these options; none if it trained no new tokens."""
    if not options.get("train_text_encoder_ti"):
        return NewWords(tokens_of={})
    tokens_each = options["num_new_tokens_per_abstraction"]
    assert isinstance(tokens_each, int), "run.json holds a number"
    return NewWords.of(str(options["token_abstraction"]).split(","), tokens_each=tokens_each)


def how_words_are_written(words: NewWords) -> str:
    """A paragraph for the trigger words; empty for none."""
    if not words.tokens:
        return ""
    pairs = "\n".join(
        f"- `{word}` of the training prompts is `{''.join(one)}`" for word, one in words.tokens_of.items()
    )
    return f"""
{pairs}

These tokens are in `{EMBEDDINGS_NAME}`: the LoRA and that file were trained together and are used together. In
AUTOMATIC1111 and ComfyUI put it into the folder `embeddings`; its name in a prompt stands for all of the tokens.
"""


def loading_of_embeddings(words: NewWords, name: str) -> str:
    """Lines of Python behind `pipeline.load_lora_weights`; empty for none. `name` is the repository's."""
    if not words.tokens:
        return ""
    tokens = json.dumps(list(words.tokens))
    return f"""
from huggingface_hub import hf_hub_download  # or the file's path, where it is on your disk
from safetensors.torch import load_file

embeddings = load_file(hf_hub_download("{name}", "{EMBEDDINGS_NAME}"))
for key, end in (("clip_l", ""), ("clip_g", "_2")):
    encoder, tokenizer = getattr(pipeline, f"text_encoder{{end}}"), getattr(pipeline, f"tokenizer{{end}}")
    pipeline.load_textual_inversion(embeddings[key], token={tokens}, text_encoder=encoder, tokenizer=tokenizer)
"""
