import fuse_core


def test_everything_exported_is_there():
    assert all(hasattr(fuse_core, name) for name in fuse_core.__all__)


def test_dir_shows_the_public_names_alone():
    assert dir(fuse_core) == sorted(fuse_core.__all__)
