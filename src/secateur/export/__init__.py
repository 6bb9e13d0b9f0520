"""Hand a model over to other programs: ONNX, PyTorch's own exported programs, transformers folders.

Whatever is written is opened again and run beside the model before it takes its name: a file that computes something
else never appears.
"""

from secateur.export.exporting import Exported, export
from secateur.export.formats import EXPORT_FORMATS, ExportFormat
from secateur.export.pretrained import save_pretrained

__all__ = ["EXPORT_FORMATS", "ExportFormat", "Exported", "export", "save_pretrained"]
