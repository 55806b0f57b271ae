"""The command line, `fuse-lightning`: trains from a YAML file, checks it, and writes a project to start from.

It needs the extra: `pip install "fuse-lightning[cli]"`.
"""
