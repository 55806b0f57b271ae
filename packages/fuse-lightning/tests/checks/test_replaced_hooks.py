import warnings

import pytest

from fuse_lightning import LightningModuleDefault


def test_a_hook_of_a_subclass_without_super_is_warned_of():
    with pytest.warns(UserWarning, match=r"Mine.on_validation_epoch_start replaces .* Call super"):

        class Mine(LightningModuleDefault):
            def on_validation_epoch_start(self):
                self.shown = 0


def test_hooks_with_super_and_what_may_be_replaced_are_not_warned_of():
    with warnings.catch_warnings(action="error"):

        class Mine(LightningModuleDefault):
            def on_train_epoch_end(self):
                super().on_train_epoch_end()

            def on_train_batch_end(self, outputs, batch, batch_idx):
                self.shown = 0

            def training_step(self, batch_dict, batch_idx):
                return self(batch_dict)["model.loss"]

            def lr_scheduler_step(self, scheduler, metric):
                scheduler.step(self.current_epoch)

            def on_before_optimizer_step(self, optimizer):
                """Lightning's own does nothing."""
