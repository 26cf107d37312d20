"""An SDXL DreamBooth LoRA trainer whose runs can be killed at any moment and resumed to the same bytes.

Start at cli/main.py (what a user types), training/trainer.py (the loop) or runs/log.py (what a run is). There is
nothing to import from here: every name is imported from the module that defines it.
"""
