"""The walkthrough's files, which are copied into a project: see `fuse_lightning.walkthrough.files`."""
