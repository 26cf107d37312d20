"""What a step trains on: pictures, crops, noise and timesteps, each a pure function of (seed, step, slot).

From the folder to a batch: `dataset` finds the pictures (`images` decodes them), `fingerprint` names the set, `inputs`
keeps a copy in the home, `plan` says which picture a slot gets, `transforms` how it is cropped, `cache` holds what was
encoded, `samples` and `batch` put a step together, `loader` computes steps ahead. All random numbers are `random`'s.
"""
