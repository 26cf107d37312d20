"""`dbr config import`: a command line of Diffusers' script, or kohya's TOML, as options of ours."""
