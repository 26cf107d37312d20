"""kohya's settings as ours: its TOML of options, its TOML of data sets, or the flags of sdxl_train_network.py."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from dreambooth_resume.config.importing import kohya_names as names
from dreambooth_resume.config.importing.findings import About, Findings, Setting
from dreambooth_resume.config.schema import OPTIONS

SCRIPT = "sdxl_train_network.py"
_FOLDER = re.compile(r"(\d+)_(.+)")

Settings = dict[str, Setting]


def take_kohya(found: Findings, settings: Sequence[Setting], subsets: Sequence[Mapping[str, Setting]]) -> None:
    """All of them into `found`. `subsets`: the folders of a data set file, each with what holds for it."""
    given = {setting.name: setting for setting in settings}
    for name in ("config_file", "dataset_config"):
        given.pop(name, None)  # read already
    _take_the_plain_ones(found, given)
    _take_size(found, given)
    _take_rates(found, given)
    _take_optimizer(found, given)
    _take_length(found, given)
    _take_output(found, given)
    _take_network(found, given)
    _take_pictures(found, given, subsets)
    for setting in given.values():
        if setting.name in names.ANYWAY:
            found.say(About.ANYWAY, setting.theirs, names.ANYWAY[setting.name])
        elif setting.name in names.NOTHING:
            if setting.value not in (False, 0, None, "", "l2"):  # off there, too
                found.leave_out(setting, names.NOTHING[setting.name])
        elif setting.name not in names.SAME and setting.name not in names.BY_ITSELF:
            found.leave_out(setting, "unknown here, and in kohya's script as far as dbr knows it")


def _take_the_plain_ones(found: Findings, given: Settings) -> None:
    for name, ours in names.SAME.items():
        if name not in given or name in ("max_train_steps", "max_train_epochs", "train_batch_size", "num_repeats"):
            continue
        setting = given[name]
        value = setting.value
        if value is None or (name == "lr_scheduler" and str(value).startswith("adafactor")):
            continue
        if value is not False or ours in OPTIONS:  # what is off there and not available here is no loss
            found.take(ours, value, theirs=setting.theirs, otherwise=names.OTHERWISE.get(name))


def _default(found: Findings, given: Settings, name: str, ours: str) -> None:
    """Set what kohya's script takes where nothing is given."""
    value = names.DEFAULTS[name]
    if name not in given and value != OPTIONS[ours].default:
        found.take(ours, value, theirs=f"{name}, not given", otherwise=f"kohya's default is {value}")


def _take_size(found: Findings, given: Settings) -> None:
    if "network_weights" not in found.values:  # its rank and alpha are taken
        _default(found, given, "network_dim", "rank")
        _default(found, given, "network_alpha", "lora_alpha")
    if (batch := given.get("train_batch_size") or given.get("batch_size")) is not None:
        found.take("train_batch_size", batch.value, theirs=batch.theirs)
    else:
        _default(found, given, "train_batch_size", "train_batch_size")
    if (clip := given.get("max_grad_norm")) is not None:
        never = _number(clip.value) == 0
        words = "0 means no clipping there, and 1e9 here" if never else None
        found.take("max_grad_norm", 1e9 if never else clip.value, theirs=clip.theirs, otherwise=words)
    if (size := given.get("resolution")) is not None:
        sides = [int(float(side)) for side in re.split(r"[,x ]+", str(size.value).strip("[]() ")) if side]
        if len(set(sides)) > 1:
            text = f"pictures are square here, or as the buckets make them: resolution {sides[0]}"
            found.take("resolution", sides[0], theirs=size.theirs, otherwise=text)
        elif sides:
            found.take("resolution", sides[0], theirs=size.theirs)


def _take_rates(found: Findings, given: Settings) -> None:
    rate = given.get("unet_lr") or given.get("learning_rate")
    if rate is not None and rate.value is not None:
        found.take("learning_rate", rate.value, theirs=rate.theirs)
    else:
        _default(found, given, "learning_rate", "learning_rate")
    if (unet_only := given.get("network_train_unet_only")) is not None and unet_only.value is True:
        found.say(About.ANYWAY, unet_only.theirs, "train_text_encoder: false")
        return
    text, general = given.get("text_encoder_lr"), given.get("learning_rate")
    rates = _listed(text.value) if text is not None else [general.value if general else names.DEFAULTS["learning_rate"]]
    if all(_number(one) == 0 for one in rates):
        return
    theirs = text.theirs if text is not None else "network_train_unet_only, not given"
    found.take("train_text_encoder", True, theirs=theirs, otherwise="kohya trains the text encoders unless told not to")
    found.take("text_encoder_lr", rates[0], theirs=theirs)
    if len(set(map(str, rates))) > 1:
        found.take("text_encoder_2_lr", rates[1], theirs=theirs)


def _take_optimizer(found: Findings, given: Settings) -> None:
    kind = given.get("optimizer_type")
    is_8bit = "use_8bit_adam" in given and given["use_8bit_adam"].value is True
    called = str(kind.value) if kind is not None and kind.value else "AdamW8bit" if is_8bit else "AdamW"
    theirs = kind.theirs if kind is not None else "use_8bit_adam" if is_8bit else "optimizer_type, not given"
    ours = names.OPTIMIZERS.get(called.lower())
    if ours is None:
        found.say(About.NOTHING, f"{theirs} ({called})", f"the optimizers here are {', '.join(_optimizers())}")
        return
    found.take("optimizer", ours, theirs=theirs)
    if called.lower() == "adamw8bit":
        found.take("use_8bit_adam", True, theirs=theirs)
    if ours == "Adafactor":
        found.say(
            About.OTHERWISE, theirs, "kohya's finds its own rate unless relative_step is off; here learning_rate rules"
        )
    _take_optimizer_arguments(found, given, ours)
    warmup = given.get("lr_warmup_steps")
    if warmup is not None and 0 < (_number(warmup.value) or 0) < 1:
        found.take("lr_warmup_ratio", warmup.value, theirs=warmup.theirs)
    elif warmup is not None:
        found.take("lr_warmup_steps", warmup.value, theirs=warmup.theirs)
    elif "lr_scheduler" in given and given["lr_scheduler"].value != "constant":
        found.take("lr_warmup_steps", 0, theirs="lr_warmup_steps, not given", otherwise="kohya's default is 0")


def _take_optimizer_arguments(found: Findings, given: Settings, optimizer: str) -> None:
    setting = given.get("optimizer_args")
    words = _listed(setting.value) if setting is not None else []
    values: dict[str, object] = dict(names.OPTIMIZER_DEFAULTS[optimizer])
    asked = dict(str(word).partition("=")[::2] for word in words if "=" in str(word))
    for name, value in {**values, **asked}.items():
        theirs = f"{setting.theirs} {name}" if setting is not None and name in asked else f"{name}, not given"
        told = None if name in asked else f"{optimizer}'s own default is {value}"
        if name == "betas":
            theirs_and_ours = zip(
                re.split(r"[,\s]+", str(value).strip("()[] ")), _BETAS[optimizer == "Lion"], strict=False
            )
            for number, ours in theirs_and_ours:
                found.take(ours, number, theirs=theirs)
        elif name in names.OPTIMIZER_ARGUMENTS:
            found.take(names.OPTIMIZER_ARGUMENTS[name], value, theirs=theirs, otherwise=told)
            if name == "weight_decay" and found.values.get("train_text_encoder"):
                found.take("adam_weight_decay_text_encoder", value, theirs=theirs)
        elif name not in _ADAFACTORS_OWN or str(value).lower() != "false":
            found.say(About.NOTHING, theirs, f"an argument of the optimizer ({value})")


_BETAS = (("adam_beta1", "adam_beta2"), ("adam_beta1", "lion_beta2"))
"""Of all optimizers but Lion, and Lion's."""
_ADAFACTORS_OWN = ("relative_step", "scale_parameter", "warmup_init")
"""What recipes for a LoRA switch off, and is off here always."""


def _optimizers() -> tuple[str, ...]:
    return OPTIONS["optimizer"].choices


def _take_length(found: Findings, given: Settings) -> None:
    epochs = given.get("max_train_epochs")
    if epochs is not None and epochs.value is not None:
        found.take(
            "num_train_epochs", epochs.value, theirs=epochs.theirs, otherwise=names.OTHERWISE["max_train_epochs"]
        )
        if "max_train_steps" in given:
            found.say(About.OTHERWISE, given["max_train_steps"].theirs, "left out: max_train_epochs wins there")
    elif "max_train_steps" in given:
        found.take("max_train_steps", given["max_train_steps"].value, theirs=given["max_train_steps"].theirs)
    else:
        _default(found, given, "max_train_steps", "max_train_steps")


def _take_output(found: Findings, given: Settings) -> None:
    folder, name = given.get("output_dir"), given.get("output_name")
    if folder is not None and name is not None:
        path = f"{str(folder.value).rstrip('/')}/{name.value}"
        text = "a run has a folder of its own here: output_dir with output_name below it"
        found.take("output_dir", path, theirs=folder.theirs, otherwise=text)
    elif one := folder or name:
        found.take("output_dir", one.value, theirs=one.theirs)
    kind = given.get("save_model_as")
    if kind is None or kind.value == "safetensors":
        text = "kohya's file is made beside the one that Diffusers loads: output_kohya_format"
        theirs = kind.theirs if kind is not None else "save_model_as, not given"
        found.take("output_kohya_format", True, theirs=theirs, otherwise=text)
    else:
        found.leave_out(kind, "files are safetensors")
    if (repository := given.get("huggingface_repo_id")) is not None and repository.value:
        found.take("push_to_hub", True, theirs=repository.theirs)
        found.take("hub_model_id", repository.value, theirs=repository.theirs)


def _take_network(found: Findings, given: Settings) -> None:
    module = given.get("network_module")
    kind = _kind_of_lycoris(given)
    if kind is not None and module is not None:
        _take_lycoris(found, given.pop("network_module"), kind)
    elif module is not None and module.value not in ("networks.lora", None):
        found.leave_out(given.pop("network_module"), "another adapter than a LoRA")
    for name in ("fp8_base", "fp8_base_unet"):
        if (fp8 := given.get(name)) is not None and fp8.value is True:
            found.take(
                "base_precision", "fp8", theirs=fp8.theirs, otherwise="each row is scaled to the whole range here"
            )
    setting = given.get("network_args")
    takes_layers = "network_weights" not in found.values
    if takes_layers:
        text = "kohya's LoRA is on more linear layers than Diffusers'"
        theirs = f"network_module {module.value if module is not None and kind else 'networks.lora'}"
        found.take("lora_layers", names.LAYERS, theirs=theirs, otherwise=text)
    for word in _listed(setting.value) if setting is not None else []:
        name, _, value = str(word).partition("=")
        theirs = f"{setting.theirs} {name}" if setting is not None else name
        takes_no_layers = name.startswith("conv_") and not takes_layers
        if name == "algo" and kind is not None:
            continue
        if takes_no_layers:
            found.say(About.ANYWAY, theirs, "the layers of network_weights are taken")
        elif name in names.NETWORK_ARGUMENTS:
            found.take(names.NETWORK_ARGUMENTS[name], value, theirs=theirs)
        elif name.startswith("block_"):
            found.say(About.NOTHING, theirs, "a number for each of kohya's blocks; ranks of parts here: rank_pattern")
        else:
            found.say(About.NOTHING, theirs, f"an argument of the network ({value})")
    if takes_layers and "conv_dim" in found.values and "conv_alpha" not in found.values:
        found.take("conv_alpha", 1, theirs="conv_alpha, not given", otherwise="kohya's default is 1")
    if kind is not None:
        _leave_out_what_a_lora_has(found, kind)


def _kind_of_lycoris(given: Settings) -> str | None:
    """Our lora_type for the algo of a LyCORIS network; None for other networks, and for an algo that isn't here."""
    module, arguments = given.get("network_module"), given.get("network_args")
    if module is None or not str(module.value).startswith("lycoris.") or arguments is None:
        return None
    words = dict(str(word).partition("=")[::2] for word in _listed(arguments.value))
    return names.LYCORIS.get(words.get("algo", "").lower())


def _take_lycoris(found: Findings, module: Setting, kind: str) -> None:
    text = "LyCORIS takes the convolutions too, unless its preset says otherwise: for those add conv_dim"
    found.take("lora_type", kind, theirs=f"{module.theirs} {module.value}", otherwise=text)


def _leave_out_what_a_lora_has(found: Findings, kind: str) -> None:
    """What would be refused beside a LoHa or LoKr, and what means nothing without it."""
    if found.values.pop("train_text_encoder", None):
        for name in ("text_encoder_lr", "text_encoder_2_lr", "adam_weight_decay_text_encoder"):
            found.values.pop(name, None)
        found.say(About.NOTHING, "network_module", f"a {kind} is on the UNet alone here, not on the text encoders")
    for name in ("lora_dropout", "use_dora", "loraplus_lr_ratio", "base_precision"):
        if found.values.pop(name, None) is not None:
            found.say(About.NOTHING, found.origins[name], f"a {kind} has no {name} here")


def _take_pictures(found: Findings, given: Settings, subsets: Sequence[Mapping[str, Setting]]) -> None:
    crops = [*(one.get("random_crop") for one in subsets), given.get("random_crop")]
    if not any(crop is not None and crop.value is True for crop in crops):
        text = "kohya cuts the middle unless told to cut at random: center_crop"
        found.take("center_crop", True, theirs="random_crop, not given", otherwise=text)
    colours = next((one["color_aug"] for one in [*subsets, given] if _value(one, "color_aug", False) is True), None)
    for ours, most in names.COLOURS.items() if colours is not None else ():
        text = "as far as kohya changes them, in each of a picture's 8 variants here; there in a third of the pictures"
        found.take(ours, most, theirs=colours.theirs if colours else "", otherwise=text)
    own = [one for one in subsets if "is_reg" not in one or one["is_reg"].value is not True]
    regular = [one for one in subsets if "is_reg" in one and one["is_reg"].value is True]
    if (folder := given.get("train_data_dir")) is not None and folder.value and not own:
        _take_folders_with_repeats(found, folder)
    if (data := given.get("reg_data_dir")) is not None and data.value and not regular:
        regular = _folders_below(data)
    _take_folder(found, own)
    if regular:
        _take_class_folder(found, regular)


def _take_folders_with_repeats(found: Findings, setting: Setting) -> None:
    """kohya's folder of folders is read here as it is; only a prompt is needed all the same."""
    text = "folders such as 10_sks dog in it count as there; the words are the prompt of pictures without captions"
    found.take("instance_data_dir", setting.value, theirs=setting.theirs, otherwise=text)
    first = next((one["class_tokens"] for one in _folders_below(setting) if "class_tokens" in one), None)
    if first is not None:
        found.take("instance_prompt", first.value, theirs=first.theirs)


def _folders_below(setting: Setting) -> list[Mapping[str, Setting]]:
    """kohya's `FOLDER/10_sks dog`, if the folder is there; else the folder itself, for a human to look at."""
    root = Path(str(setting.value)).expanduser()
    matches = [(child, _FOLDER.fullmatch(child.name)) for child in sorted(root.iterdir())] if root.is_dir() else []
    folders = [
        {
            "image_dir": Setting(name="image_dir", value=str(child), theirs=setting.theirs),
            "num_repeats": Setting(name="num_repeats", value=int(match[1]), theirs=f"the folder {child.name}"),
            "class_tokens": Setting(name="class_tokens", value=match[2], theirs=f"the folder {child.name}"),
        }
        for child, match in matches
        if match is not None
    ]
    return list(folders) or [{"image_dir": setting}]


def _take_folder(found: Findings, subsets: Sequence[Mapping[str, Setting]]) -> None:
    if not subsets:
        return
    first = subsets[0]
    if len(subsets) > 1 and (parent := _parent_with_repeats(subsets)) is not None:
        _take_folders_with_repeats(found, parent)
        if (tokens := first.get("class_tokens")) is not None:
            found.take("instance_prompt", tokens.value, theirs=tokens.theirs)
        return
    if len(subsets) > 1:
        others = ", ".join(PurePosixPath(str(one["image_dir"].value)).name for one in subsets[1:] if "image_dir" in one)
        text = f"one folder is taken here; left out: {others}. Folders such as 10_sks dog in one folder are all read"
        found.say(About.NOTHING, f"{len(subsets)} folders of pictures", text)
    for name, ours in {"image_dir": "instance_data_dir", "num_repeats": "repeats"}.items():
        if name in first:
            found.take(ours, first[name].value, theirs=first[name].theirs)
    if (tokens := first.get("class_tokens")) is not None:
        found.take("instance_prompt", tokens.value, theirs=tokens.theirs)


def _parent_with_repeats(subsets: Sequence[Mapping[str, Setting]]) -> Setting | None:
    """The folder that holds all of these, if read as a folder of folders it gives the same pictures as often.

    Their names then have to say what the file says: the repeats, and the words. None if it would give others.
    """
    paths: list[PurePosixPath] = []
    for one in subsets:
        path = PurePosixPath(str(one["image_dir"].value)) if "image_dir" in one else None
        match = _FOLDER.fullmatch(path.name) if path is not None else None
        if path is None or match is None or _number(_value(one, "num_repeats", 1)) != int(match[1]):
            return None
        if str(_value(one, "class_tokens", match[2])) != match[2]:
            return None
        paths.append(path)
    parent = paths[0].parent
    folder = Path(str(parent)).expanduser()
    lying_there = {child.name for child in folder.iterdir() if child.is_dir()} if folder.is_dir() else set()
    others = {name for name in lying_there if _FOLDER.fullmatch(name)} - {path.name for path in paths}
    if others or len(set(paths)) < len(paths) or {path.parent for path in paths} != {parent}:
        return None
    return Setting(name="image_dir", value=str(parent), theirs=f"{len(subsets)} folders of pictures")


def _value(subset: Mapping[str, Setting], name: str, default: object) -> object:
    return subset[name].value if name in subset else default


def _take_class_folder(found: Findings, subsets: Sequence[Mapping[str, Setting]]) -> None:
    first = subsets[0]
    theirs = first["image_dir"].theirs if "image_dir" in first else "is_reg"
    found.take("with_prior_preservation", True, theirs=theirs)
    if "image_dir" in first:
        found.take("class_data_dir", first["image_dir"].value, theirs=theirs)
    if (tokens := first.get("class_tokens")) is not None:
        found.take("class_prompt", tokens.value, theirs=tokens.theirs)
    else:
        found.say(About.FILL_IN, theirs, 'class_prompt names the class, such as "a photo of a dog"')
    text = "num_class_images says how many are used here (100 by default); missing ones are made by the base model"
    found.say(About.OTHERWISE, theirs, text)


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
