"""`Family`: how the models of one class are read; `registry` lists the families."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

from timm.layers import GluMlp
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from autoslim.core.shape import ViTShape


class Family(abc.ABC):
    """One family of dense models. What its blocks look like is in the shape; what else differs between families is here.

    Attributes:
        classes: The models' classes, exactly: a subclass may compute something else.
        opened: What `open` makes of them, where that is another class.
        modules: timm's modules, as in `timm.list_models(module=...)`, that have the family's names.
        classifiers: Beginnings of the names of the classifiers' parameters.
        filter_checkpoint: timm's function that brings a checkpoint under the model's names.
        size_arguments: Arguments of `timm.create_model` that a checkpoint is loaded without, because they are sizes of the job.
        resampled: Ends of the names of parameters that are interpolated to other sizes, where that has to be trained.
        ratio_counts_rows: Whether timm's `mlp_ratio` counts the rows of an MLP's first layer, of which a unit of a packed SwiGLU has two:
            for its gate and for its value.
    """

    classes: ClassVar[tuple[type[nn.Module], ...]]
    opened: ClassVar[tuple[type[nn.Module], ...]] = ()
    modules: ClassVar[tuple[str, ...]]
    classifiers: ClassVar[tuple[str, ...]] = ("head.",)
    filter_checkpoint: ClassVar[Callable[..., dict[str, Tensor]]] = checkpoint_filter_fn
    size_arguments: ClassVar[tuple[str, ...]] = ("img_size", "patch_size")
    resampled: ClassVar[tuple[str, ...]] = ("pos_embed", "patch_embed.proj.weight", "relative_position_bias_table")
    ratio_counts_rows: ClassVar[bool] = True

    @abc.abstractmethod
    def read_shape(self, model: nn.Module) -> ViTShape:
        """The model's shape. Raises UnsupportedModelError that names the first part that no method can slim."""

    def fixed_arguments(self, model: nn.Module, image_size: Any) -> dict[str, Any]:
        """Arguments of `timm.create_model` that the model needs to have one fixed cost; empty where it has. `image_size` is the one that
        it was created with, as timm takes it, or None."""
        return {}

    def image_and_patch(self, model: nn.Module) -> tuple[Any, Any]:
        """Height and width of an image, and of a patch; None for what is not fixed."""
        embed = getattr(model, "patch_embed", None)
        return getattr(embed, "img_size", None), getattr(embed, "patch_size", None)

    def open(self, model: nn.Module) -> nn.Module:
        """The same model with all its blocks in a row, `blocks`, that are called with the tokens alone; what `model` was is no more.

        A model whose `blocks` have timm's `Block`s in a row, and are called with the tokens alone, is open as it is.
        """
        return model

    @abc.abstractmethod
    def embed(self, model: nn.Module, images_B3HW: Tensor) -> Tensor:
        """The tokens (B, T, D) that enter the first block of an open model; prefix tokens come first."""

    def timm_state(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of an open model under the names that timm gives them."""
        return model.state_dict()

    def units_per_row(self, mlp: nn.Module) -> float:
        """How many units of an MLP there are for each that timm's `mlp_ratio` counts."""
        return 0.5 if self.ratio_counts_rows and isinstance(mlp, GluMlp) else 1.0

    def own_names(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """A checkpoint under the model's names, with position embeddings and patch projection resampled to the model's sizes.

        Raises:
            RuntimeError, KeyError, ValueError: as timm's filter does, for a checkpoint of something else.
        """
        # Of the class: a function that is an attribute would be given the family as its first argument.
        return type(self).filter_checkpoint(state, model)
