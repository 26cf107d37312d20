"""kohya's names (sd-scripts, sdxl_train_network.py and its data set files), and what they are here.

Every name of theirs stands in one table, or is looked at by `kohya.py` itself (BY_ITSELF). A target may be a name of
`not_yet.py`: then the import says so.
"""

from __future__ import annotations

SAME: dict[str, str] = {
    "pretrained_model_name_or_path": "pretrained_model_name_or_path",
    "vae": "pretrained_vae_model_name_or_path",
    "network_dim": "rank",
    "network_alpha": "lora_alpha",
    "network_dropout": "lora_dropout",
    "network_weights": "network_weights",
    "lr_scheduler": "lr_scheduler",
    "lr_scheduler_num_cycles": "lr_num_cycles",
    "lr_scheduler_power": "lr_power",
    "train_batch_size": "train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "mixed_precision": "mixed_precision",
    "seed": "seed",
    "max_train_steps": "max_train_steps",
    "max_train_epochs": "num_train_epochs",
    "max_data_loader_n_workers": "dataloader_num_workers",
    "torch_compile": "torch_compile",
    "dynamo_backend": "dynamo_backend",
    "xformers": "enable_xformers_memory_efficient_attention",
    "min_snr_gamma": "snr_gamma",
    "noise_offset": "noise_offset",
    "ip_noise_gamma": "input_perturbation",
    "debiased_estimation_loss": "debiased_estimation_loss",
    "loss_type": "loss_type",
    "huber_c": "huber_c",
    "huber_schedule": "huber_schedule",
    "min_timestep": "min_timestep",
    "max_timestep": "max_timestep",
    "sample_prompts": "validation_prompts_file",
    "prior_loss_weight": "prior_loss_weight",
    "save_every_n_steps": "checkpointing_steps",
    "save_every_n_epochs": "save_every_n_epochs",
    "logging_dir": "logging_dir",
    "log_with": "report_to",
    "sample_every_n_steps": "validation_steps",
    "sample_every_n_epochs": "validation_epochs",
    "cache_latents": "cache_latents",
    "cache_latents_to_disk": "cache_latents",
    "flip_aug": "random_flip",
    "num_repeats": "repeats",
    "dataset_repeats": "repeats",
    "keep_tokens": "keep_tokens",
    "shuffle_caption": "shuffle_caption",
    "caption_separator": "caption_separator",
    "caption_dropout_rate": "caption_dropout",
    "enable_bucket": "use_aspect_ratio_buckets",
    "alpha_mask": "masked_training",
    "huggingface_token": "hub_token",
}
"""Their name -> ours, with the value as it is."""

OTHERWISE: dict[str, str] = {
    "seed": "the same seed gives other numbers here: every draw is a function of the seed and the step",
    "max_train_epochs": "every step has its full number of pictures here, also over the end of an epoch, so epochs may "
    "make fewer steps",
    "max_data_loader_n_workers": "threads here, and they never change the result",
    "min_snr_gamma": "class pictures are not weighted here",
    "save_every_n_steps": "every one of them can be resumed here",
    "sample_every_n_epochs": "here also after the first epoch",
    "alpha_mask": "outside of it the loss counts 0.1 here, by unmasked_weight, and each picture as much as any other",
    "shuffle_caption": "8 orders of each caption are drawn here, and a step picks one",
    "caption_dropout_rate": "a dropped caption is zeros here, as in SDXL's own training, and the empty prompt there",
    "flip_aug": "drawn for each step here, and kept in the cache as a variant",
}
"""Of SAME: what differs about it, to be said."""

ANYWAY: dict[str, str] = {
    "caption_extension": "files that end in .txt or .caption beside the pictures are read",
    "caption_extention": "files that end in .txt or .caption beside the pictures are read",
    "dim_from_weights": "the rank of network_weights is taken always",
    "cache_text_encoder_outputs": "prompts are encoded once where the text encoders don't train",
    "cache_text_encoder_outputs_to_disk": "prompts' embeddings are kept in the run's home",
    "disable_mmap_load_safetensors": "nothing depends on how files are read",
    "mem_eff_attn": "torch's own memory-efficient attention is used",
    "network_module": "a LoRA is what is trained",
    "no_half_vae": "the VAE always computes in float32",
    "no_metadata": "files name rank and alpha, and nothing of the machine",
    "persistent_data_loader_workers": "there are threads, which stay",
    "save_precision": "results are in float32, as the LoRA that trains",
    "save_state": "every checkpoint has the whole state",
    "save_state_on_train_end": "the last checkpoint has the whole state",
    "sdpa": "torch's own attention is used",
    "skip_cache_check": "the cache goes by content",
    "skip_until_initial_step": "a resume goes on with the next step of the same order",
    "use_safetensors": "files are safetensors",
    "vae_batch_size": "the VAE encodes one picture a call, so that the cache never changes a bit",
    "debug_dataset": "`dbr train` names what it reads",
}
"""What it asks for happens here always."""

NOTHING: dict[str, str] = {
    "adaptive_noise_scale": "noise adapted to the latents",
    "async_upload": "uploads never wait here",
    "base_weights": "LoRAs merged into the base model before the training",
    "base_weights_multiplier": "LoRAs merged into the base model before the training",
    "blocks_to_swap": "a number of blocks in main memory; here all of the UNet's layers or none: offload",
    "bucket_no_upscale": "buckets that never enlarge a picture",
    "bucket_reso_steps": "the step between buckets is 64; aspect_ratio_buckets lists shapes of your own",
    "cache_info": "a file with the pictures' sizes; sizes are kept in the home",
    "caption_dropout_every_n_epochs": "epochs without captions",
    "caption_prefix": "text before each caption",
    "caption_suffix": "text behind each caption",
    "caption_tag_dropout_rate": "dropping single tags",
    "clip_skip": "kohya's SDXL script ignores it, so nothing is lost",
    "conditioning_data_dir": "a folder of masks: put them beside the pictures as NAME-mask.png: masked_training",
    "cpu_offload_checkpointing": "activations in main memory",
    "custom_attributes": "attributes of a subset",
    "dataset_class": "a data set in Python",
    "ddp_gradient_as_bucket_view": "several processes",
    "ddp_static_graph": "several processes",
    "ddp_timeout": "several processes",
    "enable_wildcard": "captions with alternatives",
    "face_crop_aug_range": "crops around faces",
    "full_bf16": "gradients in bfloat16: the LoRA trains in float32",
    "full_fp16": "gradients in float16: the LoRA trains in float32",
    "fused_backward_pass": "an optimizer inside the backward pass",
    "highvram": "memory is used as far as it reaches",
    "huber_scale": "the Huber loss",
    "huggingface_path_in_repo": "a folder of the repository",
    "huggingface_repo_type": "another kind of repository than a model's",
    "huggingface_repo_visibility": "the repository is made as your account makes them",
    "in_json": "kohya's file of captions: write metadata.jsonl, and give dataset_name",
    "initial_epoch": "a resume knows its own place",
    "initial_step": "a resume knows its own place",
    "ip_noise_gamma_random_strength": "input perturbation of random strength",
    "keep_tokens_separator": "a separator of the tags that stay in front",
    "log_config": "the configuration is in the run's home, and trackers get it",
    "log_prefix": "a prefix of log folders",
    "log_tracker_config": "a tracker's own file",
    "log_tracker_name": "the tracker's name of the run is made from output_dir",
    "logit_mean": "for other models than SDXL there; here it is an option of SDXL too: weighting_scheme",
    "logit_std": "for other models than SDXL there; here it is an option of SDXL too: weighting_scheme",
    "lowram": "memory is used as far as it reaches",
    "lr_decay_steps": "a decay of its own length",
    "lr_scheduler_args": "a scheduler's own arguments",
    "lr_scheduler_min_lr_ratio": "a least learning rate",
    "lr_scheduler_timescale": "the inverse square root's scale",
    "lr_scheduler_type": "a scheduler by its import path",
    "masked_loss": "masks are files beside the pictures here, NAME-mask.png: masked_training",
    "max_bucket_reso": "the longest side of a bucket",
    "max_token_length": "prompts have the 77 tokens of SDXL's text encoders",
    "max_validation_steps": "the length of a validation",
    "min_bucket_reso": "the shortest side of a bucket",
    "mode_scale": "for other models than SDXL there; here it is an option of SDXL too: weighting_scheme",
    "multires_noise_discount": "noise of several sizes",
    "multires_noise_iterations": "noise of several sizes",
    "network_multiplier": "a LoRA's strength by data set",
    "network_train_text_encoder_only": "a LoRA on the text encoders alone: the UNet's trains always",
    "noise_offset_random_strength": "noise offset of random strength",
    "optimizer_schedulefree_wrapper": "schedule-free around another optimizer",
    "output_config": "writes kohya's own file",
    "perlin_noise": "Perlin noise",
    "resize_interpolation": "image_interpolation_mode has names of its own: lanczos is the default",
    "resume": "kohya's state can't be resumed here; a LoRA of it can begin a run: network_weights",
    "resume_from_huggingface": "kohya's state can't be resumed here",
    "sample_at_first": "pictures before the first step",
    "sample_sampler": "pictures are made with DPM-Solver++",
    "save_last_n_epochs": "it counts epochs; how many checkpoints stay is checkpoints_total_limit",
    "save_last_n_epochs_state": "it counts epochs; how many checkpoints stay is checkpoints_total_limit",
    "save_last_n_steps": "it counts steps; how many checkpoints stay is checkpoints_total_limit",
    "save_last_n_steps_state": "it counts steps; how many checkpoints stay is checkpoints_total_limit",
    "save_n_epoch_ratio": "saves as a part of the epochs",
    "save_state_to_huggingface": "states on the Hub",
    "scale_v_pred_loss_like_noise_pred": "weights of the loss for v-prediction",
    "scale_weight_norms": "a limit of the weights' norms",
    "schedulefree_wrapper_args": "schedule-free around another optimizer",
    "secondary_separator": "a second separator of tags",
    "text_encoder_batch_size": "prompts are encoded one a call",
    "token_warmup_min": "captions that grow",
    "token_warmup_step": "captions that grow",
    "tokenizer_cache_dir": "tokenizers come with the base model",
    "training_comment": "a comment in the file",
    "use_lion_optimizer": "Lion",
    "v2": "Stable Diffusion 2",
    "v_parameterization": "whether a model predicts v is read from its own configuration",
    "v_pred_like_loss": "a loss like v-prediction's",
    "validate_every_n_epochs": "a validation loss is measured when pictures are: validation_steps",
    "validate_every_n_steps": "a validation loss is measured when pictures are: validation_steps",
    "validation_seed": "a validation loss has fixed noise of its own",
    "validation_split": "pictures of a validation loss have a folder of their own: validation_data_dir",
    "wandb_api_key": "a secret does not belong in a file; type: wandb login",
    "wandb_run_name": "the tracker's name of the run is made from output_dir",
    "weighted_captions": "weights of words in captions",
    "weighting_scheme": "for other models than SDXL there; here it is an option of SDXL too: weighting_scheme",
    "zero_terminal_snr": "a noise schedule that ends without signal",
}
"""What it asks for, for which there is nothing here."""

BY_ITSELF = frozenset(
    """
    learning_rate unet_lr text_encoder_lr network_train_unet_only optimizer_type use_8bit_adam optimizer_args
    network_args lr_warmup_steps max_grad_norm output_dir output_name save_model_as resolution random_crop
    train_data_dir reg_data_dir image_dir class_tokens is_reg batch_size huggingface_repo_id
    color_aug config_file dataset_config metadata_file fp8_base fp8_base_unet
    """.split()
)
"""Names whose meaning depends on others: `kohya.py` looks at them."""

OPTIMIZERS: dict[str, str] = {
    "adamw": "AdamW",
    "adamw8bit": "AdamW",
    "prodigy": "prodigy",
    "lion": "Lion",
    "adafactor": "Adafactor",
    "adamwschedulefree": "AdamWScheduleFree",
}
"""Their optimizer_type in lower case -> our optimizer."""

OPTIMIZER_ARGUMENTS: dict[str, str] = {
    "weight_decay": "adam_weight_decay",
    "eps": "adam_epsilon",
    "beta3": "prodigy_beta3",
    "decouple": "prodigy_decouple",
    "use_bias_correction": "prodigy_use_bias_correction",
    "safeguard_warmup": "prodigy_safeguard_warmup",
}
"""Names in optimizer_args -> ours; `betas` has two numbers and is split."""

COLOURS: dict[str, float] = {"random_hue": 0.09, "random_brightness": 0.05}
"""What color_aug changes at most: the hue by 16 of 180 degrees, and the brightness by a gamma of 0.95 to 1.05."""

LYCORIS: dict[str, str] = {"loha": "loha", "lokr": "lokr"}
"""Its algo -> our lora_type."""

NETWORK_ARGUMENTS: dict[str, str] = {
    "conv_dim": "conv_dim",
    "factor": "lokr_factor",
    "conv_alpha": "conv_alpha",
    "dora_wd": "use_dora",
    "loraplus_lr_ratio": "loraplus_lr_ratio",
}
"""Names in network_args -> ours."""

LAYERS = "to_k,to_q,to_v,to_out.0,ff.net.0.proj,ff.net.2,proj_in,proj_out"
"""The UNet's linear layers that its LoRA is on."""

DEFAULTS: dict[str, object] = {
    "network_dim": 4,
    "network_alpha": 1,
    "train_batch_size": 1,
    "learning_rate": 2e-6,
    "max_train_steps": 1600,
}
"""What their script takes where nothing is given, and we don't."""

OPTIMIZER_DEFAULTS: dict[str, dict[str, object]] = {
    "AdamW": {"weight_decay": 0.01},
    "Lion": {"weight_decay": 0.0},
    "Adafactor": {"weight_decay": 0.0},
    "AdamWScheduleFree": {"weight_decay": 0.0},
    "prodigy": {"weight_decay": 0.0, "use_bias_correction": False, "safeguard_warmup": False},
}
"""The optimizers' own, which kohya's script leaves as they are; by our name of the optimizer."""
