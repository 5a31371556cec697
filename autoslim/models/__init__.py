"""timm in: dense vision transformers, their shape and their weights."""

from autoslim.models.architecture import Architecture, Preprocessing, write_folder
from autoslim.models.dense import DenseModel, create_dense, shape_of_name, untrained
from autoslim.models.registry import read_shape
from autoslim.models.teacher import OtherTeacher, check_teacher
from autoslim.models.weights import load_weights
from autoslim.models.weights_file import read_state_dict

__all__ = [
    "Architecture",
    "DenseModel",
    "OtherTeacher",
    "Preprocessing",
    "check_teacher",
    "create_dense",
    "load_weights",
    "read_shape",
    "read_state_dict",
    "shape_of_name",
    "untrained",
    "write_folder",
]
