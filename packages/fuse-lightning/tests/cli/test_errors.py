"""Messages name the command line's own keys and options."""

import pytest
from lightning_fabric.utilities.exceptions import MisconfigurationException

from fuse_lightning.cli.errors import short_message


@pytest.mark.parametrize(
    ("python", "configuration"),
    [
        ("Give LightningModuleDefault(losses={name: loss}).", "Give model.init_args.losses."),
        ("Set LightningModuleDefault(check='wiring').", "Set --model.init_args.check wiring."),
        ("LightningModuleDefault(losses=): 'side' is wrong.", "model.init_args.losses: 'side' is wrong."),
    ],
)
def test_an_argument_of_the_module_is_named_as_in_a_configuration(python, configuration):
    error = MisconfigurationException(f"No. {python}")
    error.add_note(python)
    message = short_message(error)
    assert message.startswith(f"No. {configuration}\n{configuration}\n")
