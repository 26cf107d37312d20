"""Hugging Face Jobs: a machine of the Hub for a limited time."""
