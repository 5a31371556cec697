"""The forms of a slimmed model: weights, ONNX, torch.export, timm. Each is read back by a process that cannot import autoslim."""

from autoslim.export.features import export_features
from autoslim.export.folder import export_folder, require_runtimes, write_checksums

__all__ = ["export_features", "export_folder", "require_runtimes", "write_checksums"]
