"""Record runs of one's own loop, or of a usual trainer, into a study that laws, plans and reports read.

- :class:`~allometry.recording.recorder.Recorder`, also ``allometry.Recorder``: three lines in any loop;
- ``for_trainer``, ``for_lightning``, ``for_keras``: callbacks of Hugging Face's Trainer, Lightning and Keras 3.

Nothing here needs torch; a library is imported by its own callback.
"""

from .keras_callback import for_keras
from .lightning_callback import for_lightning
from .recorder import Recorder
from .trainer_callback import for_trainer

__all__ = ["Recorder", "for_keras", "for_lightning", "for_trainer"]
