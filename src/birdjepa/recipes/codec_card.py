"""The model card of a codec."""

from pathlib import Path
from typing import TYPE_CHECKING

from birdjepa.codec.usage import rates
from birdjepa.models.codec import Codec

if TYPE_CHECKING:  # it writes its card itself
    from birdjepa.recipes.codec_config import PretrainCodecConfig


def codec_card(config: "PretrainCodecConfig", codec: Codec, n_recordings: int) -> str:
    """README.md of a codec folder: front matter for the Hub, what it is and where it came from."""
    packing = codec.config.packing()
    found = rates(packing, codec.config.sampling_rate, codec.config.hop)
    sizes = [sum(each.numel() for each in part.parameters()) for part in (codec.encoder, codec.vocoder)]
    levels = ", ".join(map(str, codec.config.quantiser.fsq.levels))
    data = "\n".join(f"- `{Path(name).name if Path(name).is_absolute() else name}`" for name in config.data)
    return f"""---
library_name: birdjepa
pipeline_tag: audio-to-audio
tags: [audio, neural-codec, bioacoustics, speech]
---

# A birdjepa codec

A fixed encoder of waveforms ({sizes[0]:,} parameters), finite scalar quantisation, and a vocoder ({sizes[1]:,}
parameters) that was trained for {config.train.steps} steps of {config.train.batch_size} clips to make the sound of the
codes again.

| what it is | |
|---|---|
| sampling rate | {codec.config.sampling_rate} Hz, mono |
| frames | {found["frame_hz"]:g} a second, {codec.config.hop} samples each |
| codes | {codec.config.width} a frame, levels {levels} in equal blocks |
| packed | {found["tokens_per_s"]:g} codes a second in groups of {packing.group_size} |
| rate | {found["nominal_bit_s"]:g} bit/s with levels equally likely |

```python
import birdjepa

codec = birdjepa.load_codec("path/of/this/folder")
codes = codec.encode(waveform, sampling_rate=44_100)
sound = codec.decode(codes)
```

Or `birdjepa tokenize THIS_FOLDER recordings/ --out tokens/`.

Trained on {n_recordings} recordings of:

{data}

The licence of these weights follows from the licences of those recordings and of the encoder's: state it before you
share them.
"""
