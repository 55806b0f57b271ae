import pytest


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ({"monitr": "x"}, TypeError, r"`ModelCheckpoint` has no argument 'monitr'\. Did you mean 'monitor'\?"),
        ({"monitor": "x", "savetopk": 2}, TypeError, r"has no argument 'savetopk'\. Did you mean 'save_top_k'\?"),
        (
            {"monitor": "x", "qqq": 2},
            TypeError,
            r"`ModelCheckpoint` has no argument 'qqq'\. Its arguments: dirpath, filename, monitor, ",
        ),
        ({"monitor": "x", "mode": "mim"}, ValueError, "takes the mode 'min' or 'max', got 'mim'"),
        ({"mode": "min"}, ValueError, "needs a monitor, the name of a logged value"),
        ({"monitor": 3}, ValueError, "needs a monitor, the name of a logged value"),
        ("validation.losses.mse", TypeError, "takes a dict of ModelCheckpoint arguments, or several; got 'validation"),
        ([{"monitor": "x"}, {"monitor": "x"}], ValueError, "names the monitor 'x' twice"),
    ],
)
def test_a_best_epoch_source_that_is_wrong_fails_at_construction(make_module, source, error, message):
    with pytest.raises(error, match=message):
        make_module(best_epoch_source=source)
