"""The command line, `fuse-lightning`: trains from a YAML file, shows the wiring, and writes a project to start from.

It needs the extra: `pip install "fuse-lightning[cli]"`.
"""
