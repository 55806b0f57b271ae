import pytest
import torch

from fuse_optim import RNGSnapshot


def test_random_numbers_are_replayed_and_then_go_on():
    torch.manual_seed(0)
    snapshot = RNGSnapshot([torch.device("cpu")])
    first, second = torch.rand(4), torch.rand(4)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(4), first)
    with snapshot.replay():
        assert torch.equal(torch.rand(4), first)
    assert torch.equal(torch.rand(4), second)


def test_it_can_be_replayed_again_and_after_an_exception():
    snapshot = RNGSnapshot()
    first, after = torch.rand(4), torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), snapshot.replay():
        1 / 0  # noqa: B018
    assert torch.equal(torch.get_rng_state(), after)
    for _ in range(2):
        with snapshot.replay():
            assert torch.equal(torch.rand(4), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_accelerator_is_replayed_too():
    device = torch.device("cuda", 0)
    snapshot = RNGSnapshot([device])
    first = torch.rand(4, device=device)
    with snapshot.replay():
        assert torch.equal(torch.rand(4, device=device), first)
