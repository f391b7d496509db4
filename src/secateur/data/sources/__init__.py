"""One file for each kind of place that images come from."""

from secateur.data.sources.files import FilesSource
from secateur.data.sources.folder import FolderSource
from secateur.data.sources.npz import NpzSource
from secateur.data.sources.parquet import ParquetSource
from secateur.data.sources.torchvision import open_torchvision
from secateur.data.sources.wrapped import WrappedSource

__all__ = ["FilesSource", "FolderSource", "NpzSource", "ParquetSource", "WrappedSource", "open_torchvision"]
