"""Writes expected.json: the eight programs with fuse-med-ml 0.4.1. Run it in an environment that holds fuse-med-ml.

    python expected_from_fusemedml.py

No environment of this repository installs fuse-med-ml: the tests compare with the numbers that are stored.
"""

import importlib.metadata
import json
import sys
import tempfile
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def numbers(tensor: Any) -> list[float]:
    """The first values of a tensor or array."""
    return torch.as_tensor(tensor).detach().double().flatten()[:12].tolist()


def softmax_too(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and probabilities."""
    return logits, F.softmax(logits, dim=1)


class Programs:
    """The eight programs."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def loader(self, keys: list[str], *tensors: Tensor) -> DataLoader:
        from fuse.data.datasets.dataset_wrap_seq_to_dict import DatasetWrapSeqToDict
        from fuse.data.utils.collates import CollateDefault

        dataset = DatasetWrapSeqToDict(name="train", dataset=TensorDataset(*tensors), sample_keys=keys)
        dataset.create()
        return DataLoader(dataset, batch_size=4, collate_fn=CollateDefault())

    def run(
        self,
        model: nn.Module,
        losses: dict[str, Any],
        metrics: Any,
        loader: DataLoader,
        prediction: str,
        monitor: dict[str, str],
        optimizer: Any = lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    ) -> dict[str, Any]:
        """Train two epochs, predict from the last checkpoint, and return the table of predictions too."""
        import copy

        from fuse.dl.lightning.pl_funcs import convert_predictions_to_dataframe
        from fuse.dl.lightning.pl_module import LightningModuleDefault

        self.data.set_weights(model.parameters())
        folder = tempfile.mkdtemp()
        module = LightningModuleDefault(
            model_dir=folder,
            model=model,
            losses=losses,
            train_metrics=copy.deepcopy(metrics),
            validation_metrics=metrics,
            optimizers_and_lr_schs=optimizer(model.parameters()),
            best_epoch_source=monitor,
        )
        logger = pl.loggers.CSVLogger(folder)
        options = {"accelerator": "cpu", "logger": logger, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(max_epochs=2, num_sanity_val_steps=0, default_root_dir=folder, **options)
        trainer.fit(module, loader, loader)
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if "lr" not in name}
        module = LightningModuleDefault.load_from_checkpoint(
            f"{folder}/last.ckpt", model_dir=folder, model=model, map_location="cpu", strict=True
        )
        module.set_predictions_keys([prediction, "data.label"])
        predictions = pl.Trainer(**options).predict(module, loader)
        table = convert_predictions_to_dataframe(predictions)
        self.table = table
        return {"logged": logged, "predicted": numbers(table[prediction][0]), "columns": list(table.columns)}

    def accuracy(self, output: str) -> OrderedDict:
        from fuse.eval.metrics.classification.metrics_classification_common import MetricAccuracy
        from fuse.eval.metrics.classification.metrics_thresholding_common import MetricApplyThresholds

        return OrderedDict(
            operation_point=MetricApplyThresholds(pred=output),
            accuracy=MetricAccuracy(pred="results:metrics.operation_point.cls_pred", target="data.label"),
        )

    def auc(self, output: str) -> OrderedDict:
        from fuse.eval.metrics.classification.metrics_classification_common import MetricAUCROC

        return OrderedDict(auc=MetricAUCROC(pred=output, target="data.label", class_names=["no", "yes"]))

    def evaluate(self, metrics: OrderedDict) -> dict[str, float]:
        """Metrics from the table of predictions."""
        from fuse.eval.evaluator import EvaluatorDefault

        results = EvaluatorDefault().eval(ids=None, data=self.table, metrics=metrics, output_dir=None)
        return {key: float(results[key]) for key in results.keypaths() if isinstance(results[key], float)}

    # ------------------------------------------------------------------------------------------------ the programs

    def mnist_ready_made(self) -> dict[str, Any]:
        """A wrapped network with two outputs."""
        from fuse.dl.losses import LossDefault
        from fuse.dl.models.model_wrapper import ModelWrapSeqToDict

        model = ModelWrapSeqToDict(
            model=nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)),
            model_inputs=["data.image"],
            post_forward_processing_function=softmax_too,
            model_outputs=["model.logits.digit", "model.output.digit"],
        )
        output = "model.output.digit"
        loader = self.loader(
            ["data.image", "data.label"], self.data.images(20, 1, 8, 8, classes=4), self.data.labels(20, 4)
        )
        loss = LossDefault(pred="model.logits.digit", target="data.label", callable=F.cross_entropy, weight=1.0)
        monitor = {"monitor": "validation.metrics.accuracy", "mode": "max"}
        result = self.run(model, {"cls_loss": loss}, self.accuracy(output), loader, output, monitor)
        return result | {"evaluated": self.evaluate(self.accuracy(output))}

    def mnist_custom(self) -> dict[str, Any]:
        """A LightningModule of one's own, from the step functions."""
        import fuse.dl.lightning.pl_funcs as fuse_pl
        from fuse.dl.losses import LossDefault
        from fuse.dl.models.model_wrapper import ModelWrapSeqToDict

        data, accuracy = self.data, self.accuracy

        class Custom(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
                self.model = ModelWrapSeqToDict(
                    model=network,
                    model_inputs=["data.image"],
                    post_forward_processing_function=softmax_too,
                    model_outputs=["model.logits.digit", "model.output.digit"],
                )
                data.set_weights(self.model.parameters())
                loss = LossDefault(pred="model.logits.digit", target="data.label", callable=F.cross_entropy)
                self.losses = {"cls_loss": loss}
                self.validation_metrics = accuracy("model.output.digit")
                self.training_losses: list[Any] = []

            def training_step(self, batch_dict: Any, batch_idx: int) -> Tensor:
                batch_dict = self.model(batch_dict)
                total_loss = fuse_pl.step_losses(self.losses, batch_dict)
                self.training_losses.append(batch_dict["losses"])
                return total_loss

            def validation_step(self, batch_dict: Any, batch_idx: int) -> None:
                batch_dict = self.model(batch_dict)
                fuse_pl.step_metrics(self.validation_metrics, batch_dict)

            def predict_step(self, batch_dict: Any, batch_idx: int) -> Any:
                batch_dict = self.model(batch_dict)
                return fuse_pl.step_extract_predictions(["model.output.digit"], batch_dict)

            def on_train_epoch_end(self) -> None:
                fuse_pl.epoch_end_compute_and_log_losses(self, "train", self.training_losses)
                self.training_losses.clear()

            def on_validation_epoch_end(self) -> None:
                fuse_pl.epoch_end_compute_and_log_metrics(self, "validation", self.validation_metrics)

            def configure_optimizers(self) -> Any:
                return torch.optim.Adam(self.model.parameters(), lr=0.01)

        module = Custom()
        loader = self.loader(["data.image", "data.label"], data.images(20, 1, 8, 8, classes=4), data.labels(20, 4))
        options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        folder = tempfile.mkdtemp()
        trainer = pl.Trainer(max_epochs=2, num_sanity_val_steps=0, default_root_dir=folder, **options)
        trainer.fit(module, loader, loader)
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        table = fuse_pl.convert_predictions_to_dataframe(trainer.predict(module, loader))
        return {"logged": logged, "predicted": numbers(table["model.output.digit"][0]), "columns": list(table.columns)}

    def mammography(self) -> dict[str, Any]:
        """Two classes from an image, with inference and evaluation."""
        from fuse.dl.losses import LossDefault
        from fuse.dl.models import ModelMultiHead
        from fuse.dl.models.backbones import BackboneInceptionResnetV2
        from fuse.dl.models.heads import HeadGlobalPoolingClassifier

        model = ModelMultiHead(
            conv_inputs=(("data.image", 1),),
            backbone=BackboneInceptionResnetV2(input_channels_num=1, logical_units_num=1, pretrained_weights_url=None),
            heads=[
                HeadGlobalPoolingClassifier(
                    head_name="head_0",
                    conv_inputs=[("model.backbone_features", 320)],
                    layers_description=(8,),
                    num_classes=2,
                    pooling="avg",
                    dropout_rate=0.0,
                )
            ],
        )
        output = "model.output.head_0"
        loader = self.loader(
            ["data.image", "data.label"], self.data.images(8, 1, 80, 80, classes=2), self.data.labels(8, 2)
        )
        loss = LossDefault(pred="model.logits.head_0", target="data.label", callable=F.cross_entropy)
        monitor = {"monitor": "validation.metrics.auc.macro_avg", "mode": "max"}
        result = self.run(model, {"cls_loss": loss}, self.auc(output), loader, output, monitor, self.small_steps)
        return result | {"evaluated": self.evaluate(self.auc(output))}

    def skin_lesions(self) -> dict[str, Any]:
        """An image and tabular features."""
        from fuse.dl.losses import LossDefault
        from fuse.dl.models import ModelMultiHead
        from fuse.dl.models.backbones import BackboneResnet
        from fuse.dl.models.heads import HeadGlobalPoolingClassifier

        model = ModelMultiHead(
            conv_inputs=(("data.image", 3),),
            backbone=BackboneResnet(in_channels=3, name="resnet18"),
            heads=[
                HeadGlobalPoolingClassifier(
                    head_name="head_0",
                    conv_inputs=[("model.backbone_features", 512)],
                    tabular_data_inputs=[("data.clinical", 5)],
                    tabular_layers_description=(6,),
                    layers_description=(8,),
                    num_classes=3,
                    pooling="avg",
                    dropout_rate=0.0,
                )
            ],
        )
        output = "model.output.head_0"
        loader = self.loader(
            ["data.image", "data.clinical", "data.label"],
            self.data.images(8, 3, 64, 64, classes=3),
            self.data.scattered(8, 5),
            self.data.labels(8, 3),
        )
        loss = LossDefault(pred="model.logits.head_0", target="data.label", callable=F.cross_entropy)
        monitor = {"monitor": "validation.metrics.accuracy", "mode": "max"}
        result = self.run(model, {"cls_loss": loss}, self.accuracy(output), loader, output, monitor, self.small_steps)
        return result | {"evaluated": self.evaluate(self.accuracy(output))}

    def kidney(self) -> dict[str, Any]:
        """A volume and clinical values."""
        return self.volume("kidney", "clinical", channels=1, features=4)

    def covid(self) -> dict[str, Any]:
        """A volume, age and sex."""
        return self.volume("covid", "age_and_sex", channels=1, features=2)

    def volume(self, head: str, appended: str, channels: int, features: int) -> dict[str, Any]:
        from fuse.dl.losses import LossDefault
        from fuse.dl.models import ModelMultiHead
        from fuse.dl.models.backbones import BackboneResnet3D
        from fuse.dl.models.heads import Head3D

        layers = (6,) if head == "kidney" else ()
        model = ModelMultiHead(
            conv_inputs=(("data.volume", channels),),
            backbone=BackboneResnet3D(in_channels=channels, layers=[1, 1, 1, 1], first_channel_dim=4),
            heads=[
                Head3D(
                    head_name=head,
                    mode="classification",
                    num_outputs=2,
                    conv_inputs=[("model.backbone_features", 32)],
                    append_features=[(f"data.{appended}", features)],
                    append_layers_description=layers,
                    layers_description=(8,),
                    dropout_rate=0.0,
                    fused_dropout_rate=0.0,
                )
            ],
        )
        output = f"model.output.{head}"
        loader = self.loader(
            ["data.volume", f"data.{appended}", "data.label"],
            self.data.images(8, channels, 8, 32, 32, classes=2),
            self.data.scattered(8, features),
            self.data.labels(8, 2),
        )
        loss = LossDefault(pred=f"model.logits.{head}", target="data.label", callable=F.cross_entropy)
        monitor = {"monitor": "validation.metrics.auc.macro_avg", "mode": "max"}
        result = self.run(model, {"cls_loss": loss}, self.auc(output), loader, output, monitor, self.small_steps)
        return result | {"evaluated": self.evaluate(self.auc(output))}

    def prostate(self) -> dict[str, Any]:
        """A map of classes, with Dice on probabilities and cross-entropy."""
        from fuse.dl.losses import LossDefault
        from fuse.dl.losses.segmentation.loss_dice import BinaryDiceLoss
        from fuse.dl.models.model_wrapper import ModelWrapSeqToDict
        from fuse.eval.metrics.metrics_common import MetricDefault

        model = ModelWrapSeqToDict(
            model=nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1)),
            model_inputs=["data.volume"],
            post_forward_processing_function=softmax_too,
            model_outputs=["model.logits.seg", "model.output.seg"],
        )
        volumes = self.data.scattered(8, 1, 4, 8, 8)
        masks = (volumes[:, 0] > 0.3).long()
        one_hot = F.one_hot(masks, 2).movedim(-1, 1).float()
        loader = self.loader(["data.volume", "data.label", "data.one_hot"], volumes, masks, one_hot)
        losses = {
            "dice": LossDefault(pred="model.output.seg", target="data.one_hot", callable=BinaryDiceLoss()),
            "ce": LossDefault(pred="model.logits.seg", target="data.label", callable=F.cross_entropy, weight=0.5),
        }

        def voxel_accuracy(pred: Any, target: Any) -> float:
            import numpy as np

            return float((np.stack(pred).argmax(1) == np.stack(target)).mean())

        def metrics() -> OrderedDict:
            metric = MetricDefault(metric_func=voxel_accuracy, pred="model.output.seg", target="data.label")
            return OrderedDict(accuracy=metric)

        monitor = {"monitor": "validation.losses.total_loss", "mode": "min"}
        result = self.run(model, losses, metrics(), loader, "model.output.seg", monitor)
        return result | {"evaluated": self.evaluate(metrics())}

    def sequences(self) -> dict[str, Any]:
        """A transformer over the tokens of visits."""
        from fuse.dl.losses import LossDefault
        from fuse.dl.models import ModelMultiHead
        from fuse.dl.models.backbones.backbone_transformer import Transformer
        from fuse.dl.models.heads import Head1D
        from fuse.dl.models.model_wrapper import ModelWrapSeqToDict

        class FirstToken(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.transformer = Transformer(num_tokens=6, token_dim=8, depth=2, heads=2, mlp_dim=16, dim_head=4)

            def forward(self, tokens: Tensor) -> Tensor:
                return self.transformer(tokens)[:, 0]

        encoder = ModelWrapSeqToDict(
            model=FirstToken(), model_inputs=["data.tokens"], model_outputs=["model.backbone_features"]
        )
        head = Head1D(
            head_name="outcome",
            mode="classification",
            conv_inputs=[("model.backbone_features", 8)],
            layers_description=(6,),
            num_outputs=2,
            dropout_rate=0.0,
        )
        del ModelMultiHead  # its backbone_args fail in the forward
        model = nn.Sequential(encoder, head)
        output = "model.output.outcome"
        loader = self.loader(
            ["data.tokens", "data.label"], self.data.images(12, 6, 8, classes=2), self.data.labels(12, 2)
        )
        loss = LossDefault(pred="model.logits.outcome", target="data.label", callable=F.cross_entropy)
        monitor = {"monitor": "validation.metrics.auc.macro_avg", "mode": "max"}
        result = self.run(model, {"cls_loss": loss}, self.auc(output), loader, output, monitor)
        return result | {"evaluated": self.evaluate(self.auc(output))}

    @staticmethod
    def small_steps(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-3)


def main() -> None:
    """Run all and write the file."""
    warnings.filterwarnings("ignore")
    folder = Path(__file__).parent
    sys.path.insert(0, str(folder))
    import synthetic

    torch.set_num_threads(1)
    programs = Programs(synthetic)
    names = ("mnist_ready_made", "mnist_custom", "mammography", "skin_lesions")
    names += ("kidney", "covid", "prostate", "sequences")
    versions = {name: importlib.metadata.version(name) for name in ("fuse-med-ml", "torch", "pytorch-lightning")}
    results = {"versions": versions, **{name: getattr(programs, name)() for name in names}}
    (folder / "expected.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
