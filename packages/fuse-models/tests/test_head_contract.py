"""What every head does, whichever inputs it has: it writes its keys, trains, compiles, and keeps its state."""

import pytest
import torch
import torch._dynamo.testing
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fuse_core import NDict, check_wiring
from fuse_models import Head1D, Head3D, HeadDenseSegmentation, HeadGlobalPoolingClassifier, ModelWrapDictToSeq

TORCH_2_6 = torch.__version__.startswith("2.6.")
SPATIAL = {Head1D: (), HeadGlobalPoolingClassifier: (3, 4), Head3D: (2, 3, 4), HeadDenseSegmentation: (3, 4)}
VECTORS = {HeadDenseSegmentation: "post_concat_inputs"}

every_head = pytest.mark.parametrize("head_class", SPATIAL, ids=lambda head_class: head_class.__name__)
heads_of_vectors = pytest.mark.parametrize(
    "head_class", [Head1D, HeadGlobalPoolingClassifier, Head3D], ids=lambda head_class: head_class.__name__
)


def batch_of(head_class, number=3):
    generator = torch.Generator().manual_seed(0)
    return NDict(
        {
            "model.backbone_features": torch.randn(number, 6, *SPATIAL[head_class], generator=generator),
            "model.more": torch.randn(number, 2, *SPATIAL[head_class], generator=generator),
            "data.clinical": torch.randn(number, 4, generator=generator),
            "data.age": torch.rand(number, generator=generator),
        }
    )


def make(head_class, outputs=3, **options):
    """A head with all kinds of inputs, unless told otherwise."""
    options.setdefault("conv_inputs", [("model.backbone_features", 6), ("model.more", 2)])
    vectors = VECTORS.get(head_class, "append_features")
    options.setdefault(vectors, [("data.clinical", 4), ("data.age", 1)])
    number = "num_outputs" if head_class in (Head1D, Head3D) else "num_classes"
    return head_class(**{"head_name": "cls", "layers_description": (8,), number: outputs} | options)


@every_head
def test_classification_writes_logits_and_probabilities(head_class):
    batch = batch_of(head_class)
    result = make(head_class)(batch)
    assert result is batch
    logits, output = batch["model.logits.cls"], batch["model.output.cls"]
    assert logits.shape == (3, 3, *(SPATIAL[head_class] if head_class is HeadDenseSegmentation else ()))
    torch.testing.assert_close(output, logits.softmax(1))


@heads_of_vectors
def test_regression_writes_the_output_only(head_class):
    batch = make(head_class, outputs=1, mode="regression")(batch_of(head_class))
    assert batch["model.output.cls"].shape == (3, 1)
    assert "model.logits" not in batch


@every_head
def test_it_declares_what_it_reads_and_writes(head_class):
    head = make(head_class)
    keys = ("model.backbone_features", "model.more", "data.clinical", "data.age")
    assert head.reads == keys
    assert head.writes == ("model.logits.cls", "model.output.cls")
    check_wiring([head], keys)


@heads_of_vectors
def test_regression_declares_the_output_only(head_class):
    assert make(head_class, mode="regression").writes == ("model.output.cls",)


@every_head
@pytest.mark.parametrize("appended", [True, False])
def test_it_overfits_a_batch_of_8_and_every_parameter_learns(head_class, appended):
    torch.manual_seed(0)
    vectors = VECTORS.get(head_class, "append_features")
    head = make(head_class, outputs=2, dropout_rate=0.0, **({} if appended else {vectors: None}))
    batch = batch_of(head_class, 8)
    locations = batch["model.backbone_features"].shape[2:] if head_class is HeadDenseSegmentation else ()
    labels = torch.randint(2, (8, *locations)) if not locations else (batch["model.more"][:, 0] > 0).long()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(100):
        loss = nn.functional.cross_entropy(head(batch.copy())["model.logits.cls"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert all(parameter.grad.count_nonzero() > 0 for parameter in head.parameters())


@heads_of_vectors
def test_it_overfits_a_regression(head_class):
    torch.manual_seed(0)
    head = make(head_class, outputs=1, mode="regression", dropout_rate=0.0, append_layers_description=(4,))
    batch, target = batch_of(head_class, 8), torch.randn(8, 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(200):
        loss = nn.functional.mse_loss(head(batch.copy())["model.output.cls"], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert all(parameter.grad.count_nonzero() > 0 for parameter in head.parameters())


@every_head
def test_several_feature_maps_are_one_with_their_channels_side_by_side(head_class):
    batch = batch_of(head_class)
    head = make(head_class).eval()
    joined = make(head_class, conv_inputs=[("model.joined", 8)]).eval()
    joined.load_state_dict(head.state_dict())
    batch["model.joined"] = torch.cat([batch["model.backbone_features"], batch["model.more"]], dim=1)
    torch.testing.assert_close(head(batch.copy())["model.logits.cls"], joined(batch.copy())["model.logits.cls"])


@every_head
def test_a_sample_gives_the_same_whatever_the_others_are(head_class):
    """FuseMedML's heads concatenate on the batch axis."""
    batch, head = batch_of(head_class), make(head_class).eval()
    alone = NDict({key: value[1:2] for key, value in batch.items()})
    torch.testing.assert_close(head(batch)["model.logits.cls"][1:2], head(alone)["model.logits.cls"])


@every_head
def test_a_shared_classifier_serves_several_heads(head_class):
    vectors = VECTORS.get(head_class, "append_features")
    shared = nn.Conv2d(6, 5, 1) if head_class is HeadDenseSegmentation else nn.Linear(6, 5)
    options = {"conv_inputs": [("model.backbone_features", 6)], vectors: None, "shared_classifier_head": shared}
    first, second = make(head_class, head_name="a", **options), make(head_class, head_name="b", **options)
    batch = second.eval()(first.eval()(batch_of(head_class)))
    assert batch["model.logits.a"].shape[1] == 5
    assert batch["model.logits.a"].equal(batch["model.logits.b"])
    assert len(list(nn.ModuleList([first, second]).parameters())) == 2


def test_a_shared_classifier_that_is_an_empty_sequence_is_used():
    head = Head1D(conv_inputs=[("x", 4)], shared_classifier_head=nn.Sequential())
    x = torch.randn(2, 4)
    assert head({"x": x})["model.logits.head_0"].equal(x)


@every_head
def test_a_state_dict_gives_another_head_the_same_output(head_class):
    first, second = make(head_class).eval(), make(head_class).eval()
    second.load_state_dict(first.state_dict())
    names = list(first.state_dict())
    expected = first(batch_of(head_class))["model.logits.cls"]
    assert second(batch_of(head_class))["model.logits.cls"].equal(expected)
    assert list(first.state_dict()) == names


no_dict_subclass = pytest.mark.skipif(TORCH_2_6, reason="torch 2.6 cannot trace writes to a subclass of dict")


@every_head
@pytest.mark.parametrize("kind", [dict, pytest.param(NDict, marks=no_dict_subclass)])
def test_it_compiles_in_one_graph(head_class, kind):
    torch._dynamo.reset()
    head = make(head_class).eval()
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    expected = head(batch_of(head_class))["model.output.cls"]
    torch.testing.assert_close(compiled(kind(batch_of(head_class)))["model.output.cls"], expected)


@every_head
def test_batches_of_any_size_need_two_compilations(head_class):
    """The second, when the compiler has learned that the size changes, is for all others."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(make(head_class), fullgraph=True, backend=counter)
    for number in (2, 3, 5, 7):
        assert len(compiled(dict(batch_of(head_class, number)))["model.output.cls"]) == number
    assert counter.frame_count == 2


@every_head
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_runs_under_autocast_near_full_precision(head_class, dtype):
    head = make(head_class).eval()
    expected = head(batch_of(head_class))["model.output.cls"]
    with torch.autocast("cpu", dtype=dtype), torch.inference_mode():
        batch = head(batch_of(head_class))
    assert batch["model.logits.cls"].dtype == dtype
    torch.testing.assert_close(batch["model.output.cls"].float(), expected, rtol=0.05, atol=0.02)


@every_head
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.bool])
def test_vectors_of_any_type_are_taken(head_class, dtype):
    batch, head = batch_of(head_class), make(head_class).eval()
    batch["data.clinical"] = (batch["data.clinical"] > 0).to(dtype)
    result = head(batch.copy())["model.logits.cls"]
    batch["data.clinical"] = batch["data.clinical"].float()
    assert result.equal(head(batch)["model.logits.cls"])


@every_head
def test_a_head_of_double_precision_keeps_it(head_class):
    batch = NDict({key: value.double() for key, value in batch_of(head_class).items()})
    assert make(head_class).double()(batch)["model.logits.cls"].dtype == torch.float64


@every_head
def test_no_value_is_read_back_from_the_device(head_class):
    """On the meta device tensors have no values, so that looking at one is an error."""
    batch = NDict({key: value.to("meta") for key, value in batch_of(head_class).items()})
    make(head_class).to("meta")(batch)["model.logits.cls"].sum().backward()


@every_head
def test_it_leaves_its_inputs_as_they_are(head_class):
    batch, before = batch_of(head_class), batch_of(head_class)
    make(head_class)(batch)
    assert all(batch[key].equal(value) for key, value in before.items())


@every_head
def test_the_callers_lists_are_copied(head_class):
    inputs = [("model.backbone_features", 6)]
    head = make(head_class, conv_inputs=inputs)
    inputs.append(("model.absent", 2))
    head(batch_of(head_class))
    assert "model.absent" not in head.reads


# ----------------------------------------------------------------------------------------------------------- bad input


@every_head
def test_other_channels_than_declared_name_the_key_and_both_numbers(head_class):
    batch = batch_of(head_class)
    batch["model.more"] = batch["model.more"][:, :1]
    name = head_class.__name__
    with pytest.raises(ValueError, match=rf"{name} 'cls' expects 'model\.more' to have 2 channels .* shape is \(3, 1"):
        make(head_class)(batch)


@every_head
@pytest.mark.parametrize("shape", [(3, 5), (3,), (3, 4, 1)])
def test_vectors_of_another_shape_than_declared_name_the_key_and_both(head_class, shape):
    batch = batch_of(head_class)
    batch["data.clinical"] = torch.zeros(shape)
    message = r"'cls' expects 'data\.clinical' to be vectors of size 4, .* but its shape is \(3,"
    with pytest.raises(ValueError, match=message):
        make(head_class)(batch)


@every_head
@pytest.mark.parametrize("key", ["model.more", "data.clinical"])
def test_inputs_that_are_no_tensors_are_named(head_class, key):
    batch = batch_of(head_class)
    batch[key] = ["a", "b", "c"]
    with pytest.raises(ValueError, match=rf"'cls' expects '{key}' to (have 2 channels|be vectors).*, but it is a list"):
        make(head_class)(batch)


@every_head
def test_inputs_of_another_number_of_samples_are_named(head_class):
    batch, vectors = batch_of(head_class), VECTORS.get(head_class, "append_features")
    batch["data.clinical"], batch["data.age"] = torch.zeros(2, 4), torch.zeros(2)
    with pytest.raises(ValueError, match=rf"'cls' concatenates .* got 'conv_inputs' \(3, 8.*'{vectors}' \(2, 5"):
        make(head_class)(batch)
    batch["data.age"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"'cls' concatenates .* got 'data\.clinical' \(2, 4\), 'data\.age' \(3, 1\)"):
        make(head_class)(batch)


@every_head
@pytest.mark.parametrize("head_name", ["", None])
def test_a_head_needs_a_name(head_class, head_name):
    with pytest.raises(ValueError, match=rf"{head_class.__name__}\(head_name=\) takes a non-empty string, got"):
        make(head_class, head_name=head_name)


@every_head
def test_a_head_without_inputs_is_refused(head_class):
    vectors = VECTORS.get(head_class, "append_features")
    with pytest.raises(ValueError, match=rf"{head_class.__name__} 'cls' has no .*Give conv_inputs=\[\(key, "):
        make(head_class, conv_inputs=None, **{vectors: None})


@every_head
def test_inputs_without_their_channels_are_refused(head_class):
    with pytest.raises(ValueError, match=r"\(conv_inputs=\) takes \(key, size\) pairs, .* got 'model\.more' alone"):
        make(head_class, conv_inputs=["model.more"])


@every_head
@pytest.mark.parametrize("inputs", [("model.more", 2), [("model.more", 0)], [3]])
def test_inputs_are_a_sequence_of_pairs(head_class, inputs):
    with pytest.raises(ValueError, match=rf"{head_class.__name__}\(conv_inputs=\) takes"):
        make(head_class, conv_inputs=inputs)


@every_head
def test_a_shared_classifier_is_a_module(head_class):
    with pytest.raises(TypeError, match=rf"{head_class.__name__}\(shared_classifier_head=\) takes a module or None"):
        make(head_class, shared_classifier_head=torch.relu)


@heads_of_vectors
@pytest.mark.parametrize("mode", ["segmentation", None])
def test_an_unknown_mode_is_refused(head_class, mode):
    with pytest.raises(
        ValueError, match=rf"\(mode=\) takes one of 'classification', 'multilabel', 'regression', got {mode!r}"
    ):
        make(head_class, mode=mode)


@every_head
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": 0}, r"\(num_(outputs|classes)=\) takes a positive integer, got 0"),
        (
            {"layers_description": (8, 0)},
            r"\(layers_description=\) takes a sequence of positive integers, got \(8, 0\)",
        ),
        ({"layers_description": 8}, r"\(layers_description=\) takes a sequence of positive integers, got 8"),
        ({"dropout_rate": None}, r"\(dropout_rate=\) takes a number from 0 up to, not including, 1, got None"),
        ({"dropout_rate": 1.5}, r"\(dropout_rate=\) takes a number from 0 up to, not including, 1, got 1\.5"),
    ],
)
def test_arguments_out_of_range(head_class, options, message):
    with pytest.raises(ValueError, match=head_class.__name__ + message):
        make(head_class, **options)


@heads_of_vectors
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"append_layers_description": (0,)}, r"\(append_layers_description=\) takes a sequence of .*, got \(0,\)"),
        ({"append_dropout_rate": -0.1}, r"\(append_dropout_rate=\) takes a number from 0 .* got -0\.1"),
    ],
)
def test_arguments_of_the_appended_part_out_of_range(head_class, options, message):
    with pytest.raises(ValueError, match=head_class.__name__ + message):
        make(head_class, **options)


# -------------------------------------------------------------------------------------------------------------- shapes


@given(
    head_class=st.sampled_from([HeadGlobalPoolingClassifier, Head3D]),
    number=st.integers(1, 3),
    maps=st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(1, 4), max_size=3)), max_size=3),
    vectors=st.lists(st.integers(1, 4), max_size=2),
    outputs=st.integers(1, 4),
    pooling=st.sampled_from(["avg", "max"]),
)
def test_pooling_heads_take_any_number_of_inputs_of_any_rank(head_class, number, maps, vectors, outputs, pooling):
    """The maps may differ in rank and size: each is pooled by itself."""
    batch = {f"model.f{i}": torch.randn(number, channels, *shape) for i, (channels, shape) in enumerate(maps)}
    conv_inputs = [(key, value.shape[1]) for key, value in batch.items()]
    append_features = [(f"data.v{i}", size) for i, size in enumerate(vectors)]
    batch.update({key: torch.randn(number, size) for key, size in append_features})
    if not batch:
        return
    head = make(head_class, outputs, conv_inputs=conv_inputs, append_features=append_features, pooling=pooling)
    assert head(batch)["model.output.cls"].shape == (number, outputs)


@given(
    number=st.integers(1, 2),
    spatial=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    vectors=st.lists(st.integers(1, 3), max_size=2),
    kernel=st.sampled_from([None, 1, 2]),
)
def test_dense_heads_take_maps_of_any_rank(number, spatial, vectors, kernel):
    batch = {"model.f": torch.randn(number, 3, *spatial)}
    post_concat_inputs = [(f"data.v{i}", size) for i, size in enumerate(vectors)]
    batch.update({key: torch.randn(number, size) for key, size in post_concat_inputs})
    head = HeadDenseSegmentation(
        "cls", [("model.f", 3)], 2, post_concat_inputs=post_concat_inputs, maxpool_kernel=kernel
    )
    assert head(batch)["model.output.cls"].shape == (number, 2, *[size // (kernel or 1) for size in spatial])


class Int8Linear(nn.Module):
    """Weights of 8 bits with a scale; computes in the input's precision."""

    def __init__(self, linear, bias):
        super().__init__()
        self.scale = linear.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias if bias else None

    def forward(self, x):
        return nn.functional.linear(x, self.weight.float() * self.scale, self.bias)


@pytest.mark.parametrize("bias", [True, False])
def test_int8_layers_do_not_truncate_appended_vectors(bias):
    head = Head1D("risk", "regression", [("x", 4)], 1, [("clinical", 3)], layers_description=())
    head.classifier[0] = Int8Linear(head.classifier[0], bias)
    batch = {"x": torch.rand(2, 4), "clinical": torch.tensor([[0.9, 0.4, -0.8], [0.1, 0.7, 0.2]])}
    expected = head.classifier(torch.cat([batch["x"], batch["clinical"]], dim=1))
    torch.testing.assert_close(head(batch)["model.output.risk"], expected)


@every_head
def test_fx_traces_heads_with_declared_channels(head_class):
    vectors = VECTORS.get(head_class, "append_features")
    keys = ["model.backbone_features", "model.more", "data.clinical"]
    appended = None if head_class is HeadDenseSegmentation else [("data.clinical", 4)]
    head = make(head_class, **{vectors: appended}).eval()
    plain = ModelWrapDictToSeq(head, "model.output.cls", keys)
    inputs = [batch_of(head_class)[key] for key in keys]
    torch.testing.assert_close(torch.fx.symbolic_trace(plain)(*inputs), plain(*inputs))


def test_fx_traces_a_number_for_each_sample():
    head = Head1D("risk", "regression", [("x", 4)], 1, [("age", 1)], optional_inputs={"age": "learned"})
    plain = ModelWrapDictToSeq(head, "model.output.risk", ["x", "age"])
    traced = torch.fx.symbolic_trace(plain.eval())
    for age in (torch.rand(3), torch.rand(3, 1)):
        inputs = torch.rand(3, 4), age
        torch.testing.assert_close(traced(*inputs), plain(*inputs))
