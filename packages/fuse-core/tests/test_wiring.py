import pickle
from enum import Enum

import pytest
from torch import nn

from fuse_core import NDict, WiringError, check_wiring


class Model:
    def __init__(self, reads=("data.image",), writes=("model.logits.cls",)):
        self.reads = reads
        self.writes = writes


class Loss:
    def __init__(self, *reads):
        self.reads = reads


class Metric(Loss):
    pass


class Undeclared:
    pass


BATCH = NDict({"data": {"sample_id": ["a"], "image": 1, "label": 2}})


def test_what_fits_gives_a_table_of_keys():
    wiring = check_wiring(
        {
            "lenet": Model(),
            "ce": Loss("model.logits.cls", "data.label"),
            "auc": Metric("model.logits.cls", "data.label"),
        },
        BATCH,
    )
    assert str(wiring).splitlines() == [
        "key               written by     read by",
        "data.sample_id    the batch      -",
        "data.image        the batch      Model 'lenet'",
        "data.label        the batch      Loss 'ce', Metric 'auc'",
        "model.logits.cls  Model 'lenet'  Loss 'ce', Metric 'auc'",
    ]


def test_mistakes_in_model_loss_and_metric_are_reported_at_once():
    with pytest.raises(WiringError) as info:
        check_wiring(
            [
                Model(reads=("data.imgae",)),
                Loss("model.logits.clas", "data.label"),
                Metric("model.logits.cls", "data.lable"),
            ],
            BATCH,
        )
    title, model, loss, metric = str(info.value).splitlines()
    assert title == "3 problems in how components are wired:"
    reads = "reads {!r}, which nothing before it provides. Nearest keys: {!r} ({})"
    assert model.startswith("- Model " + reads.format("data.imgae", "data.image", "in the batch"))
    assert loss.startswith("- Loss " + reads.format("model.logits.clas", "model.logits.cls", "written by Model"))
    assert metric.startswith("- Metric " + reads.format("data.lable", "data.label", "in the batch"))
    assert len(info.value.problems) == 3


def test_two_writers_of_a_key_are_a_problem():
    with pytest.raises(
        WiringError, match=r"'model\.logits\.cls' is written by Model 0 and again by Model 1\. Give one"
    ):
        check_wiring([Model(), Model()], BATCH)


def test_overwriting_a_key_of_the_batch_is_none():
    wiring = check_wiring([Model(writes=("data.image",))], BATCH)
    assert wiring.writers["data.image"] == "Model"


def test_a_key_that_is_written_later_says_so():
    with pytest.raises(WiringError, match=r"Loss reads 'model\.logits\.cls'.* Model writes it, but runs later: move"):
        check_wiring([Loss("model.logits.cls"), Model()], BATCH)


def test_branches_can_be_read():
    check_wiring([Loss("data")], BATCH)


def test_keys_of_a_branch_that_a_component_writes_can_be_read():
    check_wiring([Model(writes=("model.features",)), Loss("model.features.layer4")], BATCH)
    with pytest.raises(WiringError, match=r"'data\.image\.part'"):
        check_wiring([Loss("data.image.part")], BATCH)


def test_an_undeclared_component_is_skipped_with_a_note():
    wiring = check_wiring([Undeclared(), Loss("data.label", "model.made.by.it")], BATCH)
    first, second = wiring.notes
    assert first == "Undeclared declares neither reads nor writes and was skipped."
    assert second.startswith("Loss reads 'model.made.by.it', which nothing before it provides.")
    assert second.endswith("Undeclared, which declares no keys, may write it.")
    assert f"note: {first}" in str(wiring)


def test_an_undeclared_component_excuses_nothing_before_it():
    with pytest.raises(WiringError, match="1 problem in"):
        check_wiring([Loss("nothing"), Undeclared()], BATCH)


def test_an_undeclared_component_does_not_excuse_misspelt_keys_of_the_batch():
    with pytest.raises(WiringError, match=r"Loss reads 'data\.lable'.*'data\.label'"):
        check_wiring([Undeclared(), Loss("data.lable")], BATCH)


def test_components_may_come_in_a_module_dict():
    class Module(nn.Module):
        reads = ("nothing",)

    with pytest.raises(WiringError, match="Module 'a' reads 'nothing'"):
        check_wiring(nn.ModuleDict({"a": Module()}), BATCH)


def test_the_batch_may_be_any_mapping():
    check_wiring([Loss("data.label")], {"data": {"label": 1}})


def test_strings_are_not_taken_for_sequences_of_keys():
    with pytest.raises(TypeError, match=r"Model\.reads takes a sequence of keys, got the string 'data\.image'"):
        check_wiring([Model(reads="data.image")], BATCH)
    with pytest.raises(TypeError, match="available_keys takes a sequence of keys"):
        check_wiring([], "data.image")


def test_functions_go_by_their_names():
    def read_image(batch_dict):
        return batch_dict

    read_image.reads = ("data.imgae",)
    with pytest.raises(WiringError, match=r"read_image reads 'data\.imgae'"):
        check_wiring([read_image], BATCH)


def test_no_keys_at_all():
    with pytest.raises(WiringError, match="There are: no keys at all"):
        check_wiring([Loss("x")], [])


def test_the_error_pickles():
    error = WiringError(["one", "two"])
    assert (
        str(pickle.loads(pickle.dumps(error))) == str(error) == "2 problems in how components are wired:\n- one\n- two"
    )


def test_the_drawing_joins_components_by_keys():
    wiring = check_wiring({'the "net"': Model(), "ce": Loss("model.logits.cls", "data.label")}, BATCH)
    assert wiring.to_mermaid().splitlines() == [
        "flowchart LR",
        '    c0["the batch"]',
        "    c1[\"Model 'the &quot;net&quot;'\"]",
        "    c2[\"Loss 'ce'\"]",
        '    k0(["data.image"])',
        "    c0 --> k0",
        "    k0 --> c1",
        '    k1(["data.label"])',
        "    c0 --> k1",
        "    k1 --> c2",
        '    k2(["model.logits.cls"])',
        "    c1 --> k2",
        "    k2 --> c2",
    ]


def test_branches_are_drawn_without_a_writer():
    assert 'k0(["data"])\n    k0 --> c0' in check_wiring([Loss("data")], BATCH).to_mermaid()


class Declares:
    def __init__(self, **keys):
        vars(self).update(keys)


def test_a_branch_that_replaces_keys_of_another_component_is_a_problem():
    components = {"a": Model(), "b": Model(writes=["model.logits"]), "loss": Loss("model.logits.cls")}
    message = (
        r"1 problem .*\n- Model 'b' writes the branch 'model\.logits', which replaces '.*cls', written by Model 'a'\."
    )
    with pytest.raises(WiringError, match=message):
        check_wiring(components, BATCH)


def test_a_component_may_declare_a_branch_and_its_keys():
    check_wiring([Model(writes=("model.logits.cls", "model.logits")), Loss("model.logits.cls")], BATCH)


def test_a_component_that_reads_only_what_it_writes_is_named():
    with pytest.raises(
        WiringError, match=r"Model reads 'model\.x', .* Only Model writes it, after reading it: correct one"
    ):
        check_wiring([Model(reads=["model.x"], writes=["model.x"])], BATCH)


def test_optional_keys_are_read_if_they_are_there():
    head = Declares(optional_reads=["data.label", "data.mask"])
    assert check_wiring({"head": head}, BATCH).readers == {"data.label": ["Declares 'head'"]}


def test_removed_keys_cannot_be_read_but_can_be_written_again():
    remover = Declares(removes=["model"])
    with pytest.raises(WiringError, match=r"Loss reads 'model\.logits\.cls', .* provides\. Declares removes it\."):
        check_wiring([Model(), remover, Loss("model.logits.cls")], BATCH)
    wiring = check_wiring({"a": Model(), "remover": remover, "b": Model(), "loss": Loss("model.logits.cls")}, BATCH)
    assert wiring.writers["model.logits.cls"] == "Model 'b'"


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ((key for key in ["data.image"]), r"Loss\.reads is an iterator, which can be read only once\. Use a tuple"),
        (lambda: ["data.image"], r"Loss\.reads is a method\. Use a tuple of keys, or a property that returns one"),
        ([1], r"Loss\.reads holds 1 of type int\. Keys are strings"),
        (["data.image", None], r"Loss\.reads holds None of type NoneType\. Keys are strings"),
        (7, r"Loss\.reads takes a sequence of keys, got 7"),
    ],
)
def test_keys_that_are_no_sequence_of_strings_name_the_component(reads, message):
    loss = Loss()
    loss.reads = reads
    with pytest.raises(TypeError, match=message):
        check_wiring([loss], BATCH)


def test_an_empty_optional_reads_alone_declares_nothing():
    class Undecided:
        reads, writes, optional_reads = None, None, ()

    assert check_wiring([Undecided()], ["data.x"]).notes == [
        "Undecided declares neither reads nor writes and was skipped."
    ]


def test_a_removed_key_of_a_branch_that_a_component_wrote_cannot_be_read():
    components = [Model(writes=["model"]), Declares(removes=["model.x"]), Loss("model.x")]
    with pytest.raises(WiringError, match=r"1 problem .*\n- Loss reads 'model\.x', .* Declares removes it\."):
        check_wiring(components, BATCH)
    check_wiring([*components[:2], Loss("model.y"), Declares(writes=["model.x"]), Loss("model.x.below")], BATCH)


def test_removing_a_key_that_is_not_there_is_noted():
    wiring = check_wiring([Declares(removes=["data.imgae", "data.image"])], BATCH)
    assert wiring.notes == ["Declares removes 'data.imgae', which nothing before it provides."]


def test_a_class_of_keys_may_be_declared_whole():
    class Key(str, Enum):  # noqa: UP042, StrEnum prints itself as its string
        IMAGE = "data.image"
        LABEL = "data.label"

    assert check_wiring([Loss(*Key), Declares(reads=Key)], BATCH).readers == {
        "data.image": ["Loss", "Declares"],
        "data.label": ["Loss", "Declares"],
    }
    with pytest.raises(TypeError, match=r"Declares\.reads takes .* string 'data\.image'\. Use \['data\.image'\]"):
        check_wiring([Declares(reads=Key.IMAGE)], BATCH)
