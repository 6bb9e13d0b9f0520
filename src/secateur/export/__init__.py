"""Export of models to other programs: ONNX, PyTorch's exported programs, transformers folders.

Every file is opened again and its outputs compared with the model's before it takes its name.
"""

from secateur.core.discovery import import_modules
from secateur.export.exporting import Exported, export
from secateur.export.formats import EXPORT_FORMATS, ExportFormat
from secateur.export.pretrained import save_pretrained

import_modules(__name__, __path__)  # they register

__all__ = ["EXPORT_FORMATS", "ExportFormat", "Exported", "export", "save_pretrained"]
