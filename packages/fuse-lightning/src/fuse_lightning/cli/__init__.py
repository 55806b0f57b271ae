"""The command line, `fuse-lightning`: training from a YAML file, a key table, a project to start from.

It needs the extra: `pip install "fuse-lightning[cli]"`.
"""
