"""Model families: how a base model is found, what it is made of, how it encodes, predicts and carries an adapter.

`base` says what a family must do, `families` lists them, `source` and `hub` find the files, `digests` names their
bytes, `lora` puts the adapter on, `export` gives it the names that other programs read. `sdxl/` is the only place that
knows SDXL. `tiny` builds a small random SDXL folder, and `tiny_pictures` the pictures that go with it.
"""
