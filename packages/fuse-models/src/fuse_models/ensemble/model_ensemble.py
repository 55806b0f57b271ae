"""Several models over the same batch_dict, and what they predict together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
import torch.fx
from torch import Tensor, nn

from ..argument_checks import check_option
from ..conv_inputs import BatchDict, is_symbolic
from ..declared_keys import declared_keys
from ..weights.trained_model import load_trained_model
from .combine_predictions import AVERAGES, Average, Kind, average_predictions, majority_vote, standard_deviation
from .members import EXECUTIONS, EnsembleMembers, Execution
from .predicted_keys import check_classes, check_guessed_kind, kinds_of, predicted_keys

torch.fx.wrap("average_predictions")  # one step of a graph: they look at dtypes
torch.fx.wrap("majority_vote")
torch.fx.wrap("standard_deviation")


class ModelEnsemble(nn.Module):
    """Runs several models and writes each one's predictions, their average, majority vote and standard deviation.

    For each prediction key K it writes

    - `K_ensemble_<i>`, the prediction of model i;
    - `K_ensemble_average`, the average, of the same kind as K: if K holds logits, so does the average;
    - `K_ensemble_majority_vote`, the class that most models score highest, an index at each location (int64, K's shape
      without the classes). Ties go to the class with the higher average, then to the lower index. For labels: 0 or 1
      for each label (int64, K's shape), by the same rule;
    - `K_ensemble_std`, the standard deviation of K over the models: sqrt(mean_i (K_i - mean K)^2). The divisor is the
      number of models, so that a single model has 0.

    Each model gets its own copy of the batch_dict and does not see what the others write. The batch_dict keeps all its
    values; only the keys above are added.

    **Execution.** `"sequential"` runs the models one after another. `"vmap"` runs models of one architecture in one
    vectorized pass over their stacked weights (`torch.func.vmap`), which is faster for many small models on small
    inputs. The results are equal up to rounding. In each call it compares the models, because attributes may change,
    and refuses models that differ in anything but the values of their weights. It runs them one after another where
    vectorizing would change the results: in training mode, with hooks, and while a compiler or exporter traces. It
    does not suit models that keep something from a forward, such as attention maps as an attribute, and under
    autocast it may give float32 where a model alone gives half precision.

    Args:
        models: modules that take the batch_dict and return it with their predictions added.
        prediction_keys: the keys K, as a sequence or as `{key: kind}`. None uses each `model.output.<head>` that all
            models declare in `writes`. The kinds:

            - `"probabilities"` of classes that exclude one another, as after a softmax, or their `"logits"`;
            - `"labels"`, independent probabilities, as after a sigmoid, or their `"label_logits"`. One label of shape
              (N,) or (N, 1) is fine;
            - `"values"`, as of a regression: averaged and not voted on.

            A kind that is not given is taken from the models' `prediction_kinds`, which those with our heads have.
            Otherwise keys below `model.logits` hold logits and all others probabilities; the latter are checked to sum
            to 1. With None, outputs without `model.logits.<head>` are then values.
        average: `"probabilities"` averages the models' probabilities; `"logits"` averages their logits, which is the
            normalized geometric mean of their probabilities. Both averages work for both kinds of K.
        average_weights: a positive weight for each model in the average; None for equal weights.
        classes_axis: the axis of the classes in K. Maps of shape (N, C, H, W) are voted on at each location.
        execution: see above.
        low_memory: whether to keep the models on the CPU and to move them to the device of the batch one at a time.
            Predictions then have no gradients.

    Attributes:
        models: the models, which may be appended, replaced or deleted later.
        prediction_keys: the kind of each K.
        reads: the keys that the models read; None if a model declares neither `reads` nor `writes`.
        writes: the keys above.

    Raises:
        NestedKeyError: a model did not write a prediction key, or the batch_dict lacks an input.
        TypeError: a model is no module, or predictions are not floating-point tensors.
        ValueError: an option is unknown, a model does not declare a prediction key, predictions differ in shape or do
            not fit their kind, there are not as many weights as models, or `execution="vmap"` and the architectures
            differ.

    Example:
        >>> import torch
        >>> from fuse_core import NDict
        >>> from fuse_models import ModelWrapSeqToDict
        >>> def member():
        ...     network = nn.Sequential(nn.Linear(8, 3), nn.Softmax(dim=1))
        ...     return ModelWrapSeqToDict(model=network, model_inputs=["data.x"], model_outputs=["model.output.cls"])
        >>> ensemble = ModelEnsemble([member() for _ in range(5)], ["model.output.cls"]).eval()
        >>> batch = ensemble(NDict({"data.x": torch.rand(4, 8)}))
        >>> batch["model.output.cls_ensemble_average"].shape, batch["model.output.cls_ensemble_majority_vote"].shape
        (torch.Size([4, 3]), torch.Size([4]))
    """

    __jit_unused_properties__: ClassVar = ["reads", "writes", "prediction_kinds"]  # torch.jit.trace would compile them

    def __init__(
        self,
        models: Sequence[nn.Module],
        prediction_keys: Sequence[str] | Mapping[str, Kind] | None = None,
        *,
        average: Average = "probabilities",
        average_weights: Sequence[float] | None = None,
        classes_axis: int = 1,
        execution: Execution = "sequential",
        low_memory: bool = False,
    ) -> None:
        super().__init__()
        members = list(models) if isinstance(models, Iterable) else []
        if not members or not all(isinstance(member, nn.Module) for member in members):
            raise TypeError(
                f"ModelEnsemble(models=) takes a non-empty sequence of modules, got {models!r}. For the folders of "
                f"runs use ModelEnsemble.from_directories."
            )
        check_option(average, AVERAGES, "ModelEnsemble(average=)")
        check_option(execution, EXECUTIONS, "ModelEnsemble(execution=)")
        if low_memory and execution == "vmap":
            raise ValueError("ModelEnsemble(execution='vmap') needs all models at once. Use low_memory=False.")
        self.prediction_keys, self._guessed = predicted_keys(members, prediction_keys)
        self._told = frozenset(prediction_keys) if isinstance(prediction_keys, Mapping) else frozenset()
        self.execution: Execution = execution
        self.low_memory = low_memory
        self.models: Any = nn.ModuleList(members)  # becomes EnsembleMembers
        if execution == "vmap":
            cast(EnsembleMembers, self.models).check_one_architecture()
        self.average_weights: Tensor | None
        self.register_buffer("average_weights", _normalised(average_weights), persistent=False)
        self._check_weights()
        self.average: Average = average
        self.classes_axis = classes_axis

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "models" and isinstance(value, nn.ModuleList | list | tuple):
            value = EnsembleMembers(list(value))
            value.low_memory = self.low_memory
        super().__setattr__(name, value)

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The keys that the models read."""
        reads: dict[str, None] = {}
        for model in self.models:
            declared = declared_keys(model)
            if declared is None:
                return None
            reads.update(dict.fromkeys(declared[0]))
        return tuple(reads)

    @property
    def writes(self) -> tuple[str, ...]:
        """The keys of each model's predictions and of those of all together."""
        return tuple(
            f"{key}_ensemble_{name}"
            for key, kind in self.prediction_keys.items()
            for name in (*range(len(self.models)), "average", "std", *(["majority_vote"] if kind != "values" else []))
        )

    @property
    def prediction_kinds(self) -> dict[str, str]:
        """The kind of each model's predictions and of their average, for an ensemble of ensembles."""
        names = (*range(len(self.models)), "average")
        return {f"{key}_ensemble_{name}": kind for key, kind in self.prediction_keys.items() for name in names}

    def forward(self, batch_dict: BatchDict) -> BatchDict:
        """The same batch_dict with the predictions of each model and of all together written to it."""
        self._check_weights()  # models may have been appended
        self._check_kinds()  # heads may have been replaced
        of_keys = self.models(batch_dict, tuple(self.prediction_keys), self.execution)
        for (key, kind), (own, predictions) in zip(self.prediction_keys.items(), of_keys, strict=True):
            if kind in ("probabilities", "logits") and not is_symbolic(predictions):
                check_classes(key, predictions.shape[1:], self.classes_axis)
            if kind == "probabilities" and key in self._guessed and self._may_look_at(predictions):
                check_guessed_kind(key, predictions, self.classes_axis)
            for i, prediction in enumerate(own):
                batch_dict[f"{key}_ensemble_{i}"] = prediction
            average = average_predictions(predictions, kind, self.average, self.classes_axis, self.average_weights)
            batch_dict[f"{key}_ensemble_average"] = average
            batch_dict[f"{key}_ensemble_std"] = standard_deviation(predictions)
            if kind != "values":
                vote = majority_vote(predictions, average, kind, self.classes_axis)
                batch_dict[f"{key}_ensemble_majority_vote"] = vote
        return batch_dict

    def _may_look_at(self, predictions: Tensor) -> bool:
        """Whether values can be read without breaking a graph, or waiting for the device in a training step."""
        if is_symbolic(predictions) or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return False
        return predictions.device.type != "meta" and (predictions.is_cpu or not self.training)

    def _check_kinds(self) -> None:
        for i, model in enumerate(self.models):
            if not hasattr(type(model), "prediction_kinds"):  # much faster than asking a module for what it lacks
                continue
            for key, declared in kinds_of(model).items():
                if key not in self._told and self.prediction_keys.get(key, declared) != declared:
                    raise ValueError(
                        f"ModelEnsemble takes {key!r} for {self.prediction_keys[key]}, but model {i} now declares "
                        f"{declared}. Make a new ensemble of the changed models, or give "
                        f"prediction_keys={{{key!r}: kind}}."
                    )

    def _check_weights(self) -> None:
        weights = self.average_weights
        if weights is not None and len(weights) != len(self.models):
            raise ValueError(
                f"ModelEnsemble(average_weights=) takes one weight for each model, got {len(weights)} for "
                f"{len(self.models)} models."
            )

    @classmethod
    def from_directories(
        cls,
        dirs: Sequence[str | Path],
        model_factory: Callable[[], nn.Module] | Sequence[Callable[[], nn.Module]] | None,
        weights: str = "best_epoch.ckpt",
        *,
        trust_pickle: bool = False,
        **options: Any,
    ) -> Self:
        """An ensemble of trained models, in eval mode.

        Args:
            dirs: one model directory for each model.
            model_factory: a function without arguments that makes a model of the trained architecture; for models of
                several architectures, a sequence with one function for each directory.
            weights: the name of the file in each directory: a Lightning checkpoint, from which the model's weights are
                taken, or a state dict, such as `model.safetensors`.
            trust_pickle: whether to unpickle files that hold more than tensors: checkpoints with objects in them, or
                whole modules (`torch.save(model)`), for which `model_factory` may be None. **Unpickling a file runs
                the code in it with your rights.** Use it only for files of your own.
            options: the other arguments of `ModelEnsemble`.

        Raises:
            FileNotFoundError: files are missing; lists all of them.
            ValueError: the weights in a file do not fit the model; names the file and the weights. Or a file holds
                pickled objects, and `trust_pickle` is False. Or the models of the factory share weights.
        """
        if isinstance(dirs, (str, Path)) or not dirs:
            raise ValueError(
                f"ModelEnsemble.from_directories(dirs=) takes a non-empty sequence of directories, got {dirs!r}."
            )
        paths = [Path(directory, weights) for directory in dirs]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"ModelEnsemble.from_directories(weights={weights!r}): {len(missing)} of {len(paths)} files are not "
                f"there: {', '.join(missing)}."
            )
        factories = list(model_factory) if isinstance(model_factory, Iterable) else [model_factory] * len(paths)
        if len(factories) != len(paths):
            raise ValueError(
                f"ModelEnsemble.from_directories(model_factory=) takes one function for each of the {len(paths)} "
                f"directories, or one for all, got {len(factories)}."
            )
        pairs = zip(factories, paths, strict=True)
        models = [load_trained_model(factory, path, trust_pickle) for factory, path in pairs]
        weights_of = [{id(weight) for weight in model.parameters()} for model in models]
        if len(set().union(*weights_of)) < sum(map(len, weights_of)):
            raise ValueError(
                "ModelEnsemble.from_directories(model_factory=) must make a new model in each call, but its models "
                "share weights, so that each file overwrites the weights of the file before. Construct all modules in "
                "model_factory."
            )
        return cls(models, **options).eval()


def _normalised(weights: Sequence[float] | None) -> Tensor | None:
    if weights is None:
        return None
    try:
        result = torch.as_tensor(weights, dtype=torch.float64)
    except (TypeError, ValueError):  # such as a string
        result = torch.zeros(1)
    if result.ndim != 1 or not bool((result > 0).all()) or not bool(result.isfinite().all()):
        raise ValueError(f"ModelEnsemble(average_weights=) takes a positive number for each model, got {weights!r}.")
    return (result / result.sum()).float()
