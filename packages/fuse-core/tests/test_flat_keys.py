import pytest

from fuse_core import provides


@pytest.mark.parametrize(
    ("written", "key", "expected"),
    [
        (["model.logits.cls"], "model.logits.cls", True),
        (["model.logits.cls"], "model.logits", True),
        (["model.features"], "model.features.layer4", True),
        (["model.logits.cls"], "model.logits.clas", False),
        (["model.logits.cls"], "model.log", False),
        (["model.log"], "model.logits.cls", False),
        ([], "model", False),
    ],
)
def test_a_key_is_provided_by_itself_by_keys_below_and_by_branches_above(written, key, expected):
    assert provides(written, key) is expected
    assert provides(iter(["data.image", *written]), key) is expected
