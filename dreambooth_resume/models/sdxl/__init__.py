"""Stable Diffusion XL: the only place that knows it."""
