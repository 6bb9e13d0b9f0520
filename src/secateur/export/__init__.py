"""Hand a model over to other programs: ONNX, PyTorch's own exported programs, transformers folders.

Whatever is written is opened again and run beside the model before it takes its name: a file that computes something
else never appears.
"""

from secateur.export.exporting import Exported, export
from secateur.export.formats import FORMATS, Format
from secateur.export.pretrained import save_pretrained

__all__ = ["FORMATS", "Exported", "Format", "export", "save_pretrained"]
