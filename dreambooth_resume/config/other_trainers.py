"""What other trainers call our options, so that their users are told the name here and not merely "unknown".

From kohya's sd-scripts, ai-toolkit, SimpleTuner, OneTrainer, AutoTrain, LLaMA-Factory, TRL and Lightning. A target may
be a name of `not_yet.py`.
"""

from __future__ import annotations

# Our name -> theirs. Turned round below; a name stands once.
_THEIR_NAMES: dict[str, str] = {
    "pretrained_model_name_or_path": "base_model base_model_name model model_id model_name model_name_or_path"
    " model_path name_or_path pretrained_model pretrained_model_name",
    "pretrained_vae_model_name_or_path": "vae vae_model vae_name vae_path vae_override",
    "revision": "model_revision",
    "variant": "model_variant",
    "cache_dir": "hf_cache_dir hub_cache_dir model_cache_dir",
    "instance_data_dir": "data data_dir data_path dataset dataset_dir dataset_path folder_path image_dir image_folder"
    " image_path images instance_data_root instance_dir instance_images train_data train_data_dir train_dir",
    "instance_prompt": "class_tokens concept_prompt default_caption instance_token prompt token trigger trigger_word",
    "caption_strategy": "caption_ext caption_extension caption_extention caption_source prompt_source",
    "resolution": "image_size max_resolution size train_resolution",
    "use_aspect_ratio_buckets": "aspect_ratio_bucketing bucketing enable_bucket enable_buckets",
    "aspect_ratio_buckets": "bucket_list buckets",
    "center_crop": "centre_crop crop square_crop",
    "random_flip": "flip flip_aug flip_x horizontal_flip random_hflip",
    "random_rotate": "enable_random_rotate random_rotate_max_angle random_rotation rotate rotation",
    "random_brightness": "brightness enable_random_brightness random_brightness_max_strength",
    "random_contrast": "contrast enable_random_contrast random_contrast_max_strength",
    "random_saturation": "enable_random_saturation random_saturation_max_strength saturation",
    "random_hue": "color_aug color_jitter enable_random_hue hue random_hue_max_strength",
    "repeats": "balancing dataset_repeats n_repeats num_repeats",
    "image_interpolation_mode": "interpolation resize_interpolation resize_mode",
    "cache_latents": "cache_latents_to_disk latent_caching pre_compute vae_cache",
    "skip_bad_images": "skip_corrupt_images skip_errors skip_invalid",
    "rank": "dim linear lora_dim lora_r lora_rank network_dim r",
    "lora_alpha": "alpha linear_alpha network_alpha",
    "lora_dropout": "dropout dropout_probability network_dropout",
    "lora_layers": "layer_filter only_if_contains target_modules unet_target_modules",
    "lora_unet_blocks": "lora_blocks target_blocks unet_blocks",
    "conv_dim": "conv conv_lora_dim conv_rank network_conv_dim",
    "conv_alpha": "conv_lora_alpha network_conv_alpha",
    "rank_pattern": "block_dims network_block_dims",
    "alpha_pattern": "block_alphas network_block_alphas",
    "optimizer": "optim optimizer_name optimizer_type",
    "learning_rate": "base_lr learn_rate lr unet_lr",
    "lr_scheduler": "learning_rate_scheduler lr_schedule lr_scheduler_type schedule scheduler scheduler_type",
    "lr_warmup_steps": "learning_rate_warmup_steps lr_warmup num_warmup_steps warmup warmup_steps",
    "lr_warmup_ratio": "warmup_ratio",
    "text_encoder_2_lr": "learning_rate_te2 te2_lr text_encoder2_lr text_encoder_2_learning_rate",
    "loraplus_lr_ratio": "loraplus_ratio lora_plus_lr_ratio",
    "lion_beta2": "lion_b2",
    "lr_num_cycles": "lr_scheduler_num_cycles num_cycles",
    "lr_power": "lr_scheduler_power power",
    "adam_beta1": "beta1 optimizer_beta1",
    "adam_beta2": "beta2 optimizer_beta2",
    "adam_weight_decay": "optimizer_weight_decay wd weight_decay",
    "adam_epsilon": "adam_eps eps epsilon",
    "max_grad_norm": "clip_grad clip_grad_norm grad_clip gradient_clip gradient_clip_val gradient_clipping max_grad"
    " max_gradient_norm max_norm",
    "train_batch_size": "batch batch_size bs micro_batch_size per_device_train_batch_size per_gpu_train_batch_size",
    "gradient_accumulation_steps": "accumulate_grad_batches accumulation_steps grad_accum grad_accumulation_steps"
    " gradient_accumulation",
    "num_train_epochs": "epoch epochs max_epochs max_train_epochs n_epochs num_epochs train_epochs",
    "max_train_steps": "iterations max_iter max_iters max_steps num_iterations num_train_steps steps total_steps"
    " train_steps training_steps",
    "seed": "manual_seed random_seed train_seed",
    "mixed_precision": "bf16 dtype precision train_dtype weight_dtype",
    "base_precision": "base_model_precision do_fp8_training fp8_base fp8_base_unet qtype quantize quantization",
    "gradient_checkpointing": "activation_checkpointing disable_gradient_checkpointing grad_checkpointing"
    " use_gradient_checkpointing",
    "allow_tf32": "tf32",
    "output_dir": "logdir out out_dir output output_folder output_name output_path project_name run_dir save_dir"
    " save_path training_folder workspace workspace_dir",
    "checkpointing_steps": "backup_after checkpoint_every checkpoint_frequency checkpoint_interval"
    " checkpoint_step_interval checkpoint_steps every_n_train_steps save_every save_every_n_steps save_freq"
    " save_interval save_steps",
    "checkpoints_total_limit": "checkpoints_limit keep_last max_checkpoints max_step_saves_to_keep rolling_backup_count"
    " save_last_n_steps save_last_n_steps_state save_top_k save_total_limit",
    "resume_from_checkpoint": "auto_resume checkpoint checkpoint_path ckpt_path continue_last_backup load_checkpoint"
    " resume_checkpoint resume_from resume_path resume_training",
    "take_over": "force steal_lock takeover",
    "dataloader_num_workers": "dataloader_threads dataloader_workers max_data_loader_n_workers num_loader_workers"
    " num_workers preprocessing_num_workers workers",
    "prefetch_factor": "dataloader_prefetch dataloader_prefetch_factor prefetch",
    "torch_threads": "cpu_threads intra_op_threads num_cpu_threads num_cpu_threads_per_process num_threads threads",
    "max_hours": "max_time max_train_hours time_limit",
    "max_cost": "budget max_budget max_price",
    "max_interruptions": "max_failures max_restarts",
    "price_per_hour": "hourly_price",
    "progress_seconds": "log_every log_interval logging_interval logging_steps tqdm_mininterval",
    "caption_dropout": "caption_dropout_probability caption_dropout_rate proportion_empty_prompts ucg_rate",
    "caption_separator": "tag_delimiter tag_separator",
    "keep_tokens": "keep_tags keep_tags_count tag_dropout_keep",
    "shuffle_caption": "enable_tag_shuffling shuffle_captions shuffle_tags shuffle_tokens tag_shuffle",
    # Not available here yet, either; told by the name under which they will be.
    "enable_xformers_memory_efficient_attention": "xformers",
    "hub_token": "hf_token huggingface_token",
    "network_weights": "pretrained_lora_path init_lora lora_weights",
    "output_kohya_format": "lora_format save_model_as",
    "push_to_hub": "push_checkpoints_to_hub",
    "report_to": "log_with tensorboard tracker use_wandb wandb",
    "snr_gamma": "min_snr_gamma",
    "loss_type": "loss loss_fn",
    "masked_training": "alpha_mask mask_loss masked_loss",
    "unmasked_weight": "mask_min_value unmasked_area_weight",
    "huber_c": "huber_delta huber_param",
    "huber_schedule": "loss_schedule",
    "debiased_estimation_loss": "debiased_estimation",
    "noise_offset": "offset_noise offset_noise_weight",
    "input_perturbation": "ip_noise_gamma perturbation_noise_weight",
    "min_timestep": "min_denoising_steps min_t",
    "max_timestep": "max_denoising_steps max_t",
    "weighting_scheme": "timestep_distribution timestep_sampling timestep_type",
    "logit_mean": "noising_bias",
    "logit_std": "noising_weight",
    "train_text_encoder_frac": "stop_text_encoder_training text_encoder_stop_training_after",
    "train_text_encoder_ti": "pivotal_tuning textual_inversion train_embeddings",
    "storage_uri": "bucket s3_bucket s3_uri",
    "text_encoder_lr": "learning_rate_te1 te_lr text_encoder_learning_rate",
    "use_8bit_adam": "adam8bit",
    "use_ema": "ema ema_on",
    "ema_decay": "ema_beta ema_rate",
    "validation_data_dir": "eval_data_dir eval_dir val_data_dir validation_dir",
    "validation_prompt": "sample_prompt validation_prompts",
    "validation_prompts_file": "sample_prompts user_prompt_library validation_prompt_library",
    "validation_steps": "eval_steps sample_every sample_every_n_steps sample_steps validation_step_interval",
    "with_prior_preservation": "prior_preservation prior_reg reg_data_dir",
}

OTHER_TRAINERS: dict[str, str] = {theirs: ours for ours, names in _THEIR_NAMES.items() for theirs in names.split()}

# Names whose users need more than another name.
NO_COUNTERPART: dict[str, str] = {
    "attention_slicing": "torch's attention needs no slices; for less memory gradient_checkpointing or base_precision",
    "bnb_quantization_config_path": "there is no file for it: base_precision nf4 or int8",
    "block_size": "pictures have no sequence length; their size is resolution",
    "bucket_no_upscale": "pictures are enlarged where they are smaller than their bucket; list smaller shapes in"
    " aspect_ratio_buckets",
    "bucket_reso_steps": "list the shapes themselves: aspect_ratio_buckets",
    "bucket_tolerance": "list the shapes themselves: aspect_ratio_buckets",
    "cutoff_len": "pictures have no sequence length; their size is resolution",
    "cpu_offload": "what isn't needed is off the device always",
    "enable_vae_slicing": "pictures are encoded and decoded one by one always",
    "enable_vae_tiling": "the VAE decodes in tiles by itself where memory runs out",
    "fp16": "it is a value of mixed_precision: mixed_precision fp16",
    "load_in_4bit": "it is a value of base_precision: base_precision nf4",
    "load_in_8bit": "it is a value of base_precision: base_precision int8",
    "lora": "a LoRA is what is trained always; its size is rank",
    "max_bucket_reso": "list the shapes themselves: aspect_ratio_buckets",
    "max_length": "pictures have no sequence length; their size is resolution",
    "max_seq_len": "pictures have no sequence length; their size is resolution",
    "max_seq_length": "pictures have no sequence length; their size is resolution",
    "max_token_length": "prompts have the 77 tokens of SDXL's text encoders; the size of pictures is resolution",
    "min_bucket_reso": "list the shapes themselves: aspect_ratio_buckets",
    "low_vram": "what isn't needed is off the device always; for less memory base_precision nf4",
    "lowvram": "what isn't needed is off the device always; for less memory base_precision nf4",
    "offload": "text encoders and VAE are on the device only while they encode or decode, always; for less memory"
    " base_precision nf4 and gradient_checkpointing",
    "overwrite_output_dir": "nothing is ever overwritten; for a new run give another output_dir",
    "save_state": "every checkpoint has the whole state; how often is checkpointing_steps",
    "skip_until_initial_step": "a resume goes on with the next step of the same order always",
    "upcast_before_saving": "the LoRA is trained and saved in float32 always",
}
