"""The forms in which a slimmed model leaves, each read back by a process that has never heard of autoslim."""

from autoslim.export.folder import export_folder, write_checksums

__all__ = ["export_folder", "write_checksums"]
