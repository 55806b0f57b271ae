"""The walkthrough's files as they are copied into a project: see `fuse_lightning.walkthrough.files`."""
