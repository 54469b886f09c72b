"""Self-supervised encoders for sound: pretrain on your own recordings, probe, embed, report.

`birdjepa.load(folder)` gives a pretrained encoder; `encoder.embed(waveform, sampling_rate=...)` its embedding.
`birdjepa.load_classifier(folder)` gives a fine-tuned one; `classifier.predict(waveform, sampling_rate=...)` its scores.
`birdjepa.load_codec(folder)` gives a tokenizer: `codec.encode(waveform, sampling_rate=...)`, `codec.decode(codes)`.
Importing this package costs nothing: torch is imported by the first call that needs it.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_classifier", "load_codec"]

if TYPE_CHECKING:
    from birdjepa.codec.tokenizer import load_codec
    from birdjepa.models.classifier import load_classifier
    from birdjepa.models.loading import load


def __getattr__(name: str) -> Any:
    if name == "load":
        from birdjepa.models.loading import load

        return load
    if name == "load_classifier":
        from birdjepa.models.classifier import load_classifier

        return load_classifier
    if name == "load_codec":
        from birdjepa.codec.tokenizer import load_codec

        return load_codec
    raise AttributeError(f"module 'birdjepa' has no attribute {name!r}")
