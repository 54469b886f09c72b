"""Encoders from their folders, of whatever kind they are.

A kind is a configuration of its own: its name in config.json says which, and it builds its encoder.
"""

import json
from pathlib import Path
from typing import Any

import torch

from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError
from birdjepa.models.encoder import Encoder, EncoderConfig
from birdjepa.models.exported import with_weights
from birdjepa.models.sound_encoder import FORMAT, SoundEncoder, SoundEncoderConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig

KINDS: tuple[type[SoundEncoderConfig], ...] = (EncoderConfig, WaveformEncoderConfig)
"""Every kind of encoder there is."""


def load(folder: Path | str, *, device: torch.device | str = "cpu") -> SoundEncoder:
    """The encoder in a folder, ready for use (evaluation mode, no gradients).

    Strict: the configuration must be complete, every tensor must be there and no other, and the weights must match
    their hash.

    Raises:
      UsageError: naming the file and what is wrong with it.
    """
    folder = Path(folder)
    described = _read_description(folder)
    encoder = _config_of(folder, described).build()
    return with_weights(encoder, folder, described, what="an encoder", device=device)


def read_config(folder: Path | str) -> SoundEncoderConfig:
    """The configuration of the encoder in a folder, without its weights.

    Raises:
      UsageError: naming the file and what is wrong with it.
    """
    return _config_of(Path(folder), _read_description(Path(folder)))


def read_provenance(folder: Path | str) -> dict[str, Any]:
    """Where the encoder in a folder came from; `converted` is in it for weights of other makers: kind, source,
    revision, licence, terms, trained_on and overlap.

    Raises:
      UsageError: if there is no encoder.
    """
    return _read_description(Path(folder)).get("provenance") or {}


def require_spectrogram(encoder: SoundEncoder, what: str) -> Encoder:
    """The encoder, for what works on log-mel patches alone.

    Raises:
      UsageError: saying what that is, if the encoder is of another kind.
    """
    if not isinstance(encoder, Encoder):
        raise UsageError(_refusal(encoder.config, what))
    return encoder


def require_spectrogram_config(config: SoundEncoderConfig, what: str) -> EncoderConfig:
    """As require_spectrogram, of a configuration."""
    if not isinstance(config, EncoderConfig):
        raise UsageError(_refusal(config, what))
    return config


def _refusal(config: SoundEncoderConfig, what: str) -> str:
    return (
        f"{what} works on log-mel patches, and this encoder has none ({type(config).__name__}: {config.described}): "
        "take an encoder on spectrograms"
    )


def _config_of(folder: Path, described: dict[str, Any]) -> SoundEncoderConfig:
    return configs.one_of_json(KINDS, described.get("config"), where=f"{folder / 'config.json'}: config")


def _read_description(folder: Path) -> dict[str, Any]:
    missing = "give an encoder folder such as runs/first/encoder"
    return read_description(folder / "config.json", "encoder", FORMAT, missing=missing)


def read_description(path: Path, what: str, version: int, *, missing: str) -> dict[str, Any]:
    """The JSON that an export describes itself by: of model_type birdjepa-WHAT, in a format of this version.

    Raises:
      UsageError: naming the file, and what to do where it is missing.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"{path}: missing; {missing}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error})") from None
    is_ours = isinstance(described, dict) and described.get("model_type") == f"birdjepa-{what}"
    if not is_ours or described.get("format") != version:
        raise UsageError(f"{path}: not a birdjepa {what} of format {version}")
    return described
