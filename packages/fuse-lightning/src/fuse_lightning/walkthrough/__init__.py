"""The walkthrough: a whole training run on handwritten digits, from images to a confusion matrix.

Run it with `python -m fuse_lightning.walkthrough`; read it in the order data, network, training, evaluation. It needs
the extra: `pip install "fuse-lightning[walkthrough]"`.
"""
