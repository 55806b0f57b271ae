from fuse_core import did_you_mean, nearest_keys


def test_the_nearest_name_is_asked_for():
    assert did_you_mean("gama", ["alpha", "gamma"]) == " Did you mean 'gamma'?"


def test_several_names_are_joined_by_or():
    assert did_you_mean("spam", ["spar", "span"], n=2) == " Did you mean 'spar' or 'span'?"


def test_nothing_is_said_where_no_name_is_near():
    assert did_you_mean("gamma", ["reduction"]) == ""


def test_branches_are_candidates_for_the_nearest_key():
    assert nearest_keys("modle", ["model.logits.cls"]) == ["model"]


def test_branches_are_among_the_nearest():
    assert nearest_keys("model.logit", ["model.logits.cls", "data.image"])[0] == "model.logits"
