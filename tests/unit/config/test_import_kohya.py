"""`dbr config import` of kohya's TOML files and flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.config.importing import kohya_names as names
from dreambooth_resume.config.importing.findings import About, Findings
from dreambooth_resume.config.importing.read import read_file
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

# Every option of sdxl_train_network.py, and every key of its data set files (sd-scripts, August 2026).
THEIR_NAMES = """
adaptive_noise_scale alpha_mask async_upload base_weights base_weights_multiplier blocks_to_swap bucket_no_upscale
bucket_reso_steps cache_info cache_latents cache_latents_to_disk cache_text_encoder_outputs
cache_text_encoder_outputs_to_disk caption_dropout_every_n_epochs caption_dropout_rate caption_extension
caption_extention caption_prefix caption_separator caption_suffix caption_tag_dropout_rate clip_skip color_aug
conditioning_data_dir config_file cpu_offload_checkpointing dataset_class dataset_repeats
ddp_gradient_as_bucket_view ddp_static_graph ddp_timeout debiased_estimation_loss debug_dataset dim_from_weights
disable_mmap_load_safetensors dynamo_backend enable_bucket enable_wildcard face_crop_aug_range flip_aug fp8_base
fp8_base_unet full_bf16 full_fp16 fused_backward_pass gradient_accumulation_steps gradient_checkpointing highvram
huber_c huber_scale huber_schedule huggingface_path_in_repo huggingface_repo_id huggingface_repo_type
huggingface_repo_visibility huggingface_token in_json initial_epoch initial_step ip_noise_gamma
ip_noise_gamma_random_strength keep_tokens keep_tokens_separator learning_rate log_config log_prefix
log_tracker_config log_tracker_name log_with logging_dir logit_mean logit_std loss_type lowram lr_decay_steps
lr_scheduler lr_scheduler_args lr_scheduler_min_lr_ratio lr_scheduler_num_cycles lr_scheduler_power
lr_scheduler_timescale lr_scheduler_type lr_warmup_steps masked_loss max_bucket_reso max_data_loader_n_workers
max_grad_norm max_timestep max_token_length max_train_epochs max_train_steps max_validation_steps mem_eff_attn
min_bucket_reso min_snr_gamma min_timestep mixed_precision mode_scale multires_noise_discount
multires_noise_iterations network_alpha network_args network_dim network_dropout network_module
network_train_text_encoder_only network_train_unet_only network_weights no_half_vae no_metadata noise_offset
noise_offset_random_strength optimizer_args optimizer_schedulefree_wrapper optimizer_type output_config output_dir
output_name perlin_noise persistent_data_loader_workers pretrained_model_name_or_path prior_loss_weight random_crop
reg_data_dir resize_interpolation resolution resume resume_from_huggingface sample_at_first sample_every_n_epochs
sample_every_n_steps sample_prompts sample_sampler save_every_n_epochs save_every_n_steps save_last_n_epochs
save_last_n_epochs_state save_last_n_steps save_last_n_steps_state save_model_as save_n_epoch_ratio save_precision
save_state save_state_on_train_end save_state_to_huggingface scale_v_pred_loss_like_noise_pred scale_weight_norms
schedulefree_wrapper_args sdpa secondary_separator seed shuffle_caption skip_cache_check skip_until_initial_step
text_encoder_batch_size text_encoder_lr token_warmup_min token_warmup_step tokenizer_cache_dir torch_compile
train_batch_size train_data_dir training_comment unet_lr use_8bit_adam use_lion_optimizer use_safetensors v2
v_parameterization v_pred_like_loss vae vae_batch_size validate_every_n_epochs validate_every_n_steps
validation_seed validation_split wandb_api_key wandb_run_name weighted_captions weighting_scheme xformers
zero_terminal_snr
batch_size num_repeats custom_attributes class_tokens is_reg image_dir network_multiplier dataset_config
""".split()

OPTIONS_TOML = """
[model_arguments]
pretrained_model_name_or_path = "sdxl.safetensors"
no_half_vae = true
[training_arguments]
output_dir = "out"
output_name = "mydog"
network_dim = 32
unet_lr = 1e-3
text_encoder_lr = [5e-5, 1e-5]
learning_rate = 1e-4
optimizer_type = "AdamW8bit"
optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99", "foo=1"]
lr_scheduler = "cosine"
mixed_precision = "bf16"
network_module = "networks.lora"
network_args = ["conv_dim=4", "dora_wd=True"]
max_train_epochs = 10
max_train_steps = 999
min_snr_gamma = 5
clip_skip = 2
max_grad_norm = 0
seed = 42
dataset_config = "data.toml"
wandb_api_key = "abcdef"
made_up = 3
"""

DATA_TOML = """
[general]
keep_tokens = 1
[[datasets]]
resolution = [1024, 1024]
batch_size = 3
  [[datasets.subsets]]
  image_dir = "data/dog"
  class_tokens = "sks dog"
  num_repeats = 10
  flip_aug = true
  [[datasets.subsets]]
  is_reg = true
  image_dir = "data/reg"
  class_tokens = "dog"
"""


def imported(tmp_path: Path, **files: str) -> Findings:
    """What the first of the files says; the others lie beside it."""
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    return read_file(tmp_path / next(iter(files)).replace("_", "."))


def said(found: Findings, about: About) -> dict[str, str]:
    return {remark.theirs: remark.text for remark in found.remarks if remark.about is about}


def test_options_and_the_data_set_that_they_name_make_one_run(tmp_path: Path) -> None:
    found = imported(tmp_path, config_toml=OPTIONS_TOML, data_toml=DATA_TOML)
    assert found.values | {"keep_tokens": 1} == {
        "pretrained_model_name_or_path": "sdxl.safetensors",
        "output_dir": "out/mydog",
        "rank": 32,
        "lora_alpha": 1.0,
        "learning_rate": 1e-3,
        "train_text_encoder": True,
        "text_encoder_lr": 5e-5,
        "text_encoder_2_lr": 1e-5,
        "conv_dim": 4,
        "use_8bit_adam": True,
        "adam_weight_decay": 0.1,
        "adam_weight_decay_text_encoder": 0.1,
        "adam_beta2": 0.99,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 0,
        "mixed_precision": "bf16",
        "use_dora": True,
        "lora_layers": "to_k,to_q,to_v,to_out.0,ff.net.0.proj,ff.net.2,proj_in,proj_out",
        "conv_alpha": 1.0,
        "num_train_epochs": 10,
        "snr_gamma": 5.0,
        "max_grad_norm": 1e9,
        "seed": 42,
        "output_kohya_format": True,
        "center_crop": True,
        "train_batch_size": 3,
        "random_flip": True,
        "instance_data_dir": "data/dog",
        "instance_prompt": "sks dog",
        "repeats": 10,
        "with_prior_preservation": True,
        "class_data_dir": "data/reg",
        "class_prompt": "dog",
        "keep_tokens": 1,
    }


def test_what_has_no_counterpart_and_what_is_so_anyway_is_named(tmp_path: Path) -> None:
    found = imported(tmp_path, config_toml=OPTIONS_TOML, data_toml=DATA_TOML)
    nothing = said(found, About.NOTHING)
    assert {"optimizer_args foo", "clip_skip (2)", "made_up (3)", "wandb_api_key"} <= set(nothing)
    assert {"no_half_vae", "network_module", "resolution"} <= set(said(found, About.ANYWAY))
    otherwise = said(found, About.OTHERWISE)
    assert otherwise["network_alpha, not given"] == "kohya's default is 1"
    assert "max_train_epochs wins" in otherwise["max_train_steps"]


def test_a_data_set_file_alone_is_read(tmp_path: Path) -> None:
    found = imported(tmp_path, data_toml=DATA_TOML)
    assert found.values["instance_data_dir"] == "data/dog"
    assert found.values["learning_rate"] == 2e-6  # kohya's default, which is not ours
    assert "pretrained_model_name_or_path" in said(found, About.FILL_IN)


def test_flags_of_kohyas_script_are_read_and_win_over_its_file(tmp_path: Path) -> None:
    line = (
        "accelerate launch --num_cpu_threads_per_process 1 sdxl_train_network.py --config_file config --network_dim=8 "
        "--network_train_unet_only --optimizer_type prodigy --optimizer_args decouple=True d_coef=2"
    )
    found = imported(tmp_path, train_sh=line, config_toml=OPTIONS_TOML, data_toml=DATA_TOML)
    assert found.values["rank"] == 8
    assert found.values["optimizer"] == "prodigy"
    assert found.values["prodigy_safeguard_warmup"] is False  # the package's own default
    assert "train_text_encoder" not in found.values
    assert found.values["instance_data_dir"] == "data/dog"
    assert "--optimizer_args d_coef" in said(found, About.NOTHING)


def test_folders_with_repeats_in_their_names_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / "img" / "10_sks dog").mkdir(parents=True)
    (tmp_path / "reg" / "1_dog").mkdir(parents=True)
    text = f'train_data_dir = "{tmp_path}/img"\nreg_data_dir = "{tmp_path}/reg"\n'
    found = imported(tmp_path, config_toml=text)
    assert found.values["instance_data_dir"] == str(tmp_path / "img")
    assert found.values["instance_prompt"] == "sks dog"
    assert "repeats" not in found.values  # the folder's own name says so
    assert (found.values["class_data_dir"], found.values["class_prompt"]) == (str(tmp_path / "reg" / "1_dog"), "dog")
    elsewhere = imported(tmp_path, config_toml='train_data_dir = "not/here"\n')
    assert elsewhere.values["instance_data_dir"] == "not/here"
    assert "instance_prompt" in said(elsewhere, About.FILL_IN)


SEVERAL_TOML = """
[[datasets]]
  [[datasets.subsets]]
  image_dir = "{root}/10_sks dog"
  num_repeats = 10
  class_tokens = "sks dog"
  [[datasets.subsets]]
  image_dir = "{root}/1_sks dog in snow"
"""


def test_several_folders_whose_names_say_what_the_file_says_are_their_parent(tmp_path: Path) -> None:
    root = tmp_path / "img"
    text = SEVERAL_TOML.format(root=root)
    found = imported(tmp_path, data_toml=text)
    assert (found.values["instance_data_dir"], found.values["instance_prompt"]) == (str(root), "sks dog")
    assert "repeats" not in found.values
    assert not [theirs for theirs in said(found, About.NOTHING) if "folders" in theirs]
    for name in ("10_sks dog", "1_sks dog in snow", "notes"):
        (root / name).mkdir(parents=True)
    assert imported(tmp_path, data_toml=text).values["instance_data_dir"] == str(root)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("num_repeats = 10", "num_repeats = 5"),
        ('class_tokens = "sks dog"', 'class_tokens = "ohwx dog"'),
        ("/1_sks dog in snow", "/snow"),
        ("/1_sks dog in snow", "/more/1_sks dog in snow"),
        ("/1_sks dog in snow", "/10_sks dog"),
    ],
)
def test_other_folders_are_not_their_parent(tmp_path: Path, before: str, after: str) -> None:
    """It would give other pictures, as often as the names say, or with other words."""
    text = SEVERAL_TOML.format(root=tmp_path)
    assert before in text
    found = imported(tmp_path, data_toml=text.replace(before, after))
    assert found.values["instance_data_dir"] == str(tmp_path / "10_sks dog")
    assert "2 folders of pictures" in said(found, About.NOTHING)


def test_a_folder_with_repeats_that_the_file_leaves_out_is_not_let_in(tmp_path: Path) -> None:
    root = tmp_path / "img"
    (root / "3_a third one").mkdir(parents=True)
    found = imported(tmp_path, data_toml=SEVERAL_TOML.format(root=root))
    assert found.values["instance_data_dir"] == str(root / "10_sks dog")


def test_lion_its_betas_a_warm_up_by_ratio_and_loraplus_are_taken(tmp_path: Path) -> None:
    lines = (
        'optimizer_type = "Lion"',
        'optimizer_args = ["betas=0.95,0.98"]',
        'lr_scheduler = "cosine"',
        "lr_warmup_steps = 0.1",
        'network_args = ["loraplus_lr_ratio=16"]',
        'loss_type = "huber"',
        "ip_noise_gamma = 0.05",
        "min_timestep = 100",
    )
    typed = "\n".join(lines) + "\n"
    values = imported(tmp_path, config_toml=typed).values
    expected = {
        "optimizer": "Lion",
        "adam_beta1": 0.95,
        "lion_beta2": 0.98,
        "lr_warmup_ratio": 0.1,
        "loraplus_lr_ratio": 16.0,
        "loss_type": "huber",
        "input_perturbation": 0.05,
        "min_timestep": 100,
    }
    assert {name: values.get(name) for name in expected} == expected
    adafactor = 'optimizer_type = "Adafactor"\noptimizer_args = ["relative_step=False", "scale_parameter=False"]\n'
    found = imported(tmp_path, config_toml=adafactor)
    assert found.values["optimizer"] == "Adafactor"
    assert not any("relative_step" in name for name in said(found, About.NOTHING))


def test_the_layers_of_a_lora_to_begin_from_are_its_own(tmp_path: Path) -> None:
    lines = ('network_weights = "old.safetensors"', "dim_from_weights = true", 'network_args = ["conv_dim=4"]')
    found = imported(tmp_path, config_toml="\n".join((*lines, "fp8_base = true", "")))
    assert (found.values["network_weights"], found.values["base_precision"]) == ("old.safetensors", "fp8")
    assert not {"rank", "lora_alpha", "lora_layers", "conv_dim"} & set(found.values)
    assert {"network_args conv_dim", "dim_from_weights"} <= set(said(found, About.ANYWAY))


def test_an_optimizer_that_is_not_here_is_said(tmp_path: Path) -> None:
    found = imported(tmp_path, config_toml='optimizer_type = "DAdaptation"\n')
    assert "AdamW" in said(found, About.NOTHING)["optimizer_type (DAdaptation)"]


def test_what_newer_versions_have_is_taken_over(tmp_path: Path) -> None:
    text = """
optimizer_type = "Lion"
optimizer_args = ["betas=0.95,0.98"]
lr_scheduler = "cosine"
lr_warmup_steps = 0.1
network_args = ["loraplus_lr_ratio=16", "rank_dropout=0.1"]
fp8_base = true
loss_type = "huber"
huber_schedule = "exponential"
ip_noise_gamma = 0.1
max_timestep = 900
sample_prompts = "prompts.txt"
"""
    found = imported(tmp_path, config_toml=text)
    expected = {
        "optimizer": "Lion",
        "adam_beta1": 0.95,
        "lion_beta2": 0.98,
        "lr_warmup_ratio": 0.1,
        "loraplus_lr_ratio": 16.0,
        "base_precision": "fp8",
        "loss_type": "huber",
        "huber_schedule": "exponential",
        "input_perturbation": 0.1,
        "max_timestep": 900,
        "validation_prompts_file": "prompts.txt",
    }
    assert expected.items() <= found.values.items()
    assert "lr_warmup_steps" not in found.values
    assert "network_args rank_dropout" in said(found, About.NOTHING)


def test_a_file_that_names_itself_or_one_that_is_gone_ends(tmp_path: Path) -> None:
    found = imported(tmp_path, config_toml='dataset_config = "config.toml"\nnetwork_dim = 8\n')
    assert found.values["rank"] == 8
    gone = imported(tmp_path, config_toml='dataset_config = "gone"\n')
    assert "gone.toml is not there" in said(gone, About.FILL_IN)["dataset_config"]


@pytest.mark.parametrize(
    "text", ["datasets = 3\ngeneral = 4\n", "[[datasets]]\nsubsets = [1, 2]\n", "resolution = 'x'\n"]
)
def test_odd_values_are_no_crash(tmp_path: Path, text: str) -> None:
    assert imported(tmp_path, config_toml=text).remarks


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not TOML"):
        imported(tmp_path, config_toml="network_dim: 8")


def test_every_name_of_theirs_is_known_once() -> None:
    tables = [set(names.SAME), set(names.ANYWAY), set(names.NOTHING), set(names.BY_ITSELF)]
    assert set(THEIR_NAMES) - set().union(*tables) == set()
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert set(names.OTHERWISE) <= set(names.SAME)


def test_every_right_hand_name_is_an_option() -> None:
    ours = {*names.SAME.values(), *names.OPTIMIZER_ARGUMENTS.values(), *names.NETWORK_ARGUMENTS.values()}
    assert ours | set(names.COLOURS) <= set(OPTIONS)
    assert set(names.OPTIMIZERS.values()) == set(names.OPTIMIZER_DEFAULTS) <= set(OPTIONS["optimizer"].choices)


def test_a_lokr_of_lycoris_is_taken_without_its_text_encoders(tmp_path: Path) -> None:
    text = (
        'network_module = "lycoris.kohya"\nnetwork_dim = 16\nlearning_rate = 1e-4\n'
        'network_args = ["algo=lokr", "factor=8", "conv_dim=4", "preset=full", "dora_wd=True"]\n'
    )
    found = imported(tmp_path, config_toml=text)
    chosen = {name: found.values[name] for name in ("lora_type", "lokr_factor", "rank", "conv_dim")}
    assert chosen == {"lora_type": "lokr", "lokr_factor": 8, "rank": 16, "conv_dim": 4}
    assert not {"train_text_encoder", "text_encoder_lr", "use_dora"} & set(found.values)
    nothing = said(found, About.NOTHING)
    assert "UNet alone" in nothing["network_module"]
    assert {"network_args preset", "network_args dora_wd"} <= set(nothing)
    other = imported(tmp_path, config_toml=text.replace("algo=lokr", "algo=boft"))
    assert "lora_type" not in other.values
    assert 'network_module ("lycoris.kohya")' in said(other, About.NOTHING)


@pytest.mark.parametrize(
    ("options", "folders", "is_on"),
    [
        ("color_aug = true\n", DATA_TOML, True),
        ("", DATA_TOML.replace("flip_aug = true", "color_aug = true"), True),
        ("color_aug = false\n", DATA_TOML, False),
    ],
)
def test_changed_colours_are_taken_as_far_as_they_go(tmp_path: Path, options: str, folders: str, is_on: bool) -> None:
    found = imported(tmp_path, config_toml=options + OPTIONS_TOML, data_toml=folders)
    expected = {"random_hue": 0.09, "random_brightness": 0.05} if is_on else {}
    colours = {name: value for name, value in found.values.items() if name in names.COLOURS}
    assert colours == expected
    assert any("in each of a picture's 8 variants" in one.text for one in found.remarks) == is_on
