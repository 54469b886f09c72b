"""From a foreign checkpoint to an encoder of ours with its model card and the record of where it came from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from birdjepa.audio.clips import ClipConfig
from birdjepa.checkpoint.foreign import reading, timm_vit
from birdjepa.checkpoint.foreign.kinds import KINDS, PATCH, Kind
from birdjepa.checkpoint.foreign.reading import Found
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.core.provenance import provenance
from birdjepa.models.encoder import Encoder, EncoderConfig


class Converted(NamedTuple):
    """An encoder ready for use (evaluation mode, no gradients), and what `Encoder.save` takes with it."""

    encoder: Encoder
    card: str
    provenance: dict[str, Any]
    """With `converted`: kind, source, revision, licence, terms, trained_on, overlap and the tensors left out."""


def convert(kind: str, source: str) -> Converted:
    """The encoder in a checkpoint of one of KINDS: a folder in the Hub's layout (config.json, model.safetensors), a
    safetensors file, or OWNER/NAME[@REVISION] of the Hub.

    It is pooled by its fc_norm where the file has one, else by the mean over patches.

    Raises:
      UserError: if there is no such checkpoint, or it is not exactly what it should be; the message names the tensor.
    """
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is no kind of encoder that can be converted; there are {', '.join(KINDS)}")
    of = KINDS[kind]
    found = reading.find(source, tuple(of.settings))
    _require_settings(found, of, source)
    mapped = timm_vit.map_weights(
        reading.read(found.weights),
        found.settings.get("config.json", {}),
        n_patches=of.n_patches,
        n_values=PATCH.n_values,
        where=str(found.weights) if not found.revision else f"{source} on the Hub",
    )
    config = EncoderConfig(
        front_end=of.front_end,
        patch=PATCH,
        vit=mapped.config,
        clips=ClipConfig(clip_s=of.clip_s, hop_s=of.clip_s),
        pooling="fc_norm" if mapped.config.fc_norm else "mean",
    )
    encoder = config.build()
    encoder.vit.load_state_dict(mapped.weights, strict=True)
    origin = {
        "kind": kind,
        "source": found.source,
        "revision": found.revision,
        "weights_sha256": files.sha256(found.weights),
        "licence": of.licence,
        "terms": of.terms,
        "trained_on": of.trained_on,
        "overlap": of.overlap,
        "left_out": list(mapped.left_out),
    }
    encoder = encoder.requires_grad_(False).eval()
    return Converted(encoder, _card(of, encoder, origin), {**provenance(), "converted": origin})


def _require_settings(found: Found, kind: Kind, source: str) -> None:
    """Refuses a checkpoint whose own files say that it is another model than we would make of it."""
    for name, expected in kind.settings.items():
        told = found.settings.get(name, {})
        for key, value in expected.items():
            if key in told and told[key] != value:
                raise UsageError(f"{source}: {name} says {key}={told[key]!r}, and {kind.title} has {value!r}")


def _card(kind: Kind, encoder: Encoder, origin: Mapping[str, Any]) -> str:
    """README.md of the encoder folder."""
    config = encoder.config
    width, depth, heads = config.vit.dimensions
    n_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    front_end = config.front_end
    revision = f"commit `{origin['revision']}`" if origin["revision"] else "a file on disk"
    return f"""---
library_name: birdjepa
pipeline_tag: feature-extraction
license: {kind.licence}
tags: [audio, converted, {kind.title.lower()}]
---

# {kind.title} as a birdjepa encoder

A vision transformer ({width} wide, {depth} blocks, {heads} heads, {n_parameters:,} parameters) on log-mel spectrograms,
trained by others on {kind.trained_on}, and converted.

```python
import birdjepa

encoder = birdjepa.load("path/to/this/folder")
out = encoder.embed(waveform, sampling_rate=44_100)
out.embedding  # one row of {config.embedding_width} numbers per {kind.clip_s:g} s
```

| where it came from | |
|---|---|
| source | `{origin["source"]}`, {revision} |
| SHA-256 of its weights | `{origin["weights_sha256"]}` |
| licence | {kind.terms} |
| what it has met | {kind.overlap} |

| what it hears | |
|---|---|
| sampling rate | {front_end.sampling_rate} Hz, mono; other rates are resampled by soxr HQ |
| clips | at most {kind.clip_s:g} s; shorter ones are padded to {front_end.clip_frames} frames |
| patches | {1000 * config.patch.frames / front_end.frame_rate:g} ms x {config.patch.mels} bands |
| pooling | {config.pooling} |
"""
