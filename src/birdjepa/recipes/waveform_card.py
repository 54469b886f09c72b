"""The model card of an encoder of waveforms."""

from pathlib import Path
from typing import TYPE_CHECKING

from birdjepa.models.waveform_encoder import WaveformEncoder

if TYPE_CHECKING:  # it writes its card itself
    from birdjepa.recipes.waveform_config import PretrainWaveformConfig


def waveform_card(config: "PretrainWaveformConfig", encoder: WaveformEncoder, n_recordings: int) -> str:
    """README.md of an encoder folder: front matter for the Hub, what it is, how to use it and where it came from."""
    network, shape = config.encoder, config.encoder.shape
    n_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    data = "\n".join(f"- `{Path(name).name if Path(name).is_absolute() else name}`" for name in config.data)
    sound_s = config.train.batch_size * config.loader.clip_s
    gates = f"{network.components} Gaussians a gate ({network.combine})" if network.components else "no gates"
    return f"""---
library_name: birdjepa
pipeline_tag: feature-extraction
tags: [audio, bioacoustics, speech, {config.objective.name}]
---

# A birdjepa encoder of waveforms

Strided convolutions, Gaussian adaptive attention and {shape.n_conformers} Conformers ({n_parameters:,} parameters),
trained by {config.objective.name} without labels for {config.train.steps} steps of {sound_s:g} s of sound.

```python
import birdjepa

encoder = birdjepa.load("path/to/this/folder")
out = encoder.embed(waveform, sampling_rate=44_100)
out.embedding  # one row of {encoder.config.embedding_width} numbers per {config.clips.clip_s:g} s
```

| what it hears | |
|---|---|
| sampling rate | {shape.sampling_rate} Hz, mono; other rates are resampled by soxr HQ |
| frames | {network.frame_rate:g} a second, {shape.code_dim} numbers each |
| strides | {"x".join(map(str, shape.strides))} |
| gates | {gates} |
| pooling | {config.pooling} |

Pretrained on {n_recordings} recordings of:

{data}

The licence of these weights follows from the licences of those recordings: state it before you share them.
"""
