"""The walkthrough: a whole training run on handwritten digits, from images to a page of results.

Run it with `python -m fuse_lightning.walkthrough`; read it in `template`, from `run.py` on. `fuse-lightning template
DIR` copies it as a project of your own. It needs the extra: `pip install "fuse-lightning[walkthrough]"`.
"""
