"""The model card that goes with every exported encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdjepa.models.classifier import Classifier
from birdjepa.models.encoder import Encoder
from birdjepa.recipes.finetune_config import FinetuneConfig

if TYPE_CHECKING:  # it writes its card itself
    from birdjepa.recipes.config import PretrainConfig


def model_card(config: "PretrainConfig", encoder: Encoder, n_recordings: int) -> str:
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


def classifier_card(
    config: FinetuneConfig, classifier: Classifier, n_rows: int, converted: Mapping[str, Any] | None = None
) -> str:
    """README.md of a fine-tuned classifier's folder; converted is what an encoder of other makers says of itself."""
    began = f"\nIt began as `{converted['source']}`: {converted['terms']}.\n" if converted else ""
    encoder = classifier.encoder.config
    width, depth, heads = encoder.vit.dimensions
    n_parameters = sum(parameter.numel() for parameter in classifier.parameters())
    data = Path(config.data).name if Path(config.data).is_absolute() else config.data
    form = config.objective.head.form
    kind = "any number of them a clip" if classifier.is_multi_label else "one of them a clip"
    classes = "\n".join(f"- {name}" for name in classifier.classes)
    return f"""---
library_name: birdjepa
pipeline_tag: audio-classification
tags: [audio, bioacoustics, fine-tuned]
---

# A birdjepa classifier

A vision transformer ({width} wide, {depth} blocks, {heads} heads) on log-mel spectrograms with a head ({form}),
{n_parameters:,} parameters in all, fine-tuned on {n_rows} labelled rows of `{data}`.

```python
import birdjepa

classifier = birdjepa.load_classifier("path/to/this/folder")
out = classifier.predict(waveform, sampling_rate=44_100)
out.probability  # one row per {encoder.clips.clip_s:g} s, one column per class in out.classes
```

`birdjepa.load` gives its encoder alone. It tells {len(classifier.classes)} classes apart, {kind}:

{classes}
{began}
The licence of these weights follows from the licences of the recordings: state it before you share them.
"""
