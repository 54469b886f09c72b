"""The model card that goes with every exported encoder."""

from pathlib import Path

from birdjepa.models.encoder import Encoder
from birdjepa.recipes.config import PretrainConfig


def model_card(config: PretrainConfig, encoder: Encoder, n_recordings: int) -> str:
    """README.md of an encoder folder: front matter for the Hub, what it is, how to use it and where it came from."""
    front_end = config.front_end
    width, depth, heads = config.encoder.dimensions
    n_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    data = "\n".join(f"- `{Path(name).name if Path(name).is_absolute() else name}`" for name in config.data)
    how = f"the objective {config.objective.name}, {'with' if config.objective.needs_labels else 'without'} labels,"
    clip = f"{config.clips.clip_s:g} s"
    frames = f"{front_end.n_mels} {front_end.mel_scale} mel bands, {front_end.f_min:g} to {front_end.f_max:g} Hz"
    return f"""---
library_name: birdjepa
pipeline_tag: feature-extraction
tags: [audio, bioacoustics, {config.objective.name}]
---

# A birdjepa encoder

A vision transformer ({width} wide, {depth} blocks, {heads} heads, {n_parameters:,} parameters) on log-mel spectrograms,
trained by {how} for {config.train.steps} steps of {config.train.batch_size} clips.

```python
import birdjepa

encoder = birdjepa.load("path/to/this/folder")
out = encoder.embed(waveform, sampling_rate=44_100)
out.embedding  # one row of {config.encoder_config().embedding_width} numbers per {clip}
```

| what it hears | |
|---|---|
| sampling rate | {front_end.sampling_rate} Hz, mono; other rates are resampled by soxr HQ |
| frames | {frames}, every {1000 / front_end.frame_rate:g} ms |
| patches | {1000 * config.patch.frames / front_end.frame_rate:g} ms x {config.patch.mels} bands |
| pooling | {config.pooling} |

Pretrained on {n_recordings} recordings of:

{data}

The licence of these weights follows from the licences of those recordings: state it before you share them.
"""
