"""Files, folders and names become a Model; data become examples."""

from certify.loading.checkpoints import export, load, read_architecture, read_model, save
from certify.loading.data import check_dataset, read_data
from certify.loading.model import Model
from certify.loading.model_file import WeightsOnly, read_model_file, write_model_file
from certify.loading.thumbnails import encode_thumbnails

__all__ = [
    "Model",
    "WeightsOnly",
    "check_dataset",
    "encode_thumbnails",
    "export",
    "load",
    "read_architecture",
    "read_data",
    "read_model",
    "read_model_file",
    "save",
    "write_model_file",
]
