"""The walkthrough: a complete training run on handwritten digits, from images to a page of results.

Run it with `python -m fuse_lightning.walkthrough`. Read it in `template`, starting with `run.py`. The command
`fuse-lightning template DIR` copies it as a project of your own. It needs the extra:
`pip install "fuse-lightning[walkthrough]"`.
"""
