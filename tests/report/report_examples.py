"""Report contents made by hand: every part filled, with names that try to break the page."""

import numpy as np

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.core.failures import Failure
from birdjepa.report.contents import (
    Agreement,
    Drawing,
    EmbeddingMap,
    HeardClip,
    Hit,
    Outline,
    Query,
    ReportContents,
    Scale,
    Seen,
    SeenClip,
    SeenMoment,
    SeenPanel,
    SourceSummary,
)
from birdjepa.report.gather_run import parse_probe

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&\u0000\udcff"
"""What a file name or a label may hold."""


def full_contents() -> ReportContents:
    generator = np.random.default_rng(0)
    heard = tuple(_clip(generator, label) for label in ("wren", HOSTILE, ""))
    whole = _clip(generator, "wren")
    views = tuple(
        SeenPanel(name=name, caption="", start_s=start, duration_s=0.5, is_window=True, frames=whole.frames[:50])
        for name, start in (("G1", 0.1), ("G2", 0.4), ("L1", 0.0))
    )
    labels = ("wren", HOSTILE, "", *("finch" for _ in range(9)))
    return ReportContents(
        name=f"run {HOSTILE}",
        config_hash="0123456789abcdef",
        config={"kind": "PretrainConfig", "seed": 3, "note": HOSTILE, "train": {"steps": 30}},
        provenance={"birdjepa": "0.1.0", "command": ["birdjepa", "pretrain", HOSTILE], "packages": {"torch": "2.13.0"}},
        started="2026-01-01 00:00 UTC",
        finished="2026-01-01 00:10 UTC",
        metrics=tuple(_row(step) for step in range(1, 31)),
        probes=(parse_probe(probe_json(("wren", HOSTILE)), "probe.json"),),
        scale=Scale(100.0, np.geomspace(100, 15_000, 32)),
        seen=Seen(
            objective="lejepa",
            n_steps=30,
            trained=30,
            clips=(SeenClip(whole, (SeenMoment(30, views),)),),
            drawing=None,
        ),
        reconstructed=None,
        map=EmbeddingMap(
            xy=generator.normal(size=(12, 2)),
            explained=(0.5, 0.25),
            labels=labels,
            recordings=tuple(f"{i} {HOSTILE}.wav" for i in range(12)),
            heard=(0, 1, 2, *(None for _ in range(9))),
            n_rows=40,
            n_refused=2,
            pooling="mean",
            agreement=Agreement(rate=Estimate(0.6, 0.5, 0.7), chance=0.3, n=11),
        ),
        queries=(Query(0, (Hit(1, 0.9, False), Hit(2, 0.8, None))), Query(1, (Hit(0, 0.9, False),))),
        heard=heard,
        sources=(
            SourceSummary(
                name=HOSTILE,
                fingerprint="fedcba9876543210",
                n_recordings=40,
                n_rows=60,
                hours=1.5,
                hours_known=False,
                labels={"wren": 30, HOSTILE: 10},
                sampling_rates={32_000: 20, 48_000: 20},
                n_looked=40,
                licences={"CC0-1.0": 30, HOSTILE: 10},
            ),
        ),
        failures=(Failure(HOSTILE, "decode", 0.0, f"truncated: {HOSTILE}"),),
    )


def predicted_seen(clip: HeardClip) -> Seen:
    """Of A-JEPA: context, outlined targets and what was drawn, at two steps, two thirds of them hidden."""
    hidden = clip.frames.copy()
    hidden[20:80] = np.nan
    outlines = (Outline(0.0, 0.1, 0.5, 1.0), Outline(0.8, 1.0, 0.0, 0.25))

    def panel(name: str, caption: str, outlines: tuple[Outline, ...] = ()) -> SeenPanel:
        return SeenPanel(
            name=name, caption=caption, start_s=0.0, duration_s=1.0, is_window=False, frames=hidden, outlines=outlines
        )

    panels = (panel("context", "what it saw"), panel("targets", "2 blocks", outlines), panel("drawn", "", outlines))
    return Seen(
        objective="ajepa",
        n_steps=30,
        trained=20,
        clips=(SeenClip(clip, (SeenMoment(1, panels), SeenMoment(20, panels))),),
        drawing=Drawing(
            scores={"what was predicted": Estimate(0.7, 0.6, 0.8), "untrained": Estimate(0.5, 0.4, 0.6)},
            lead=Estimate(0.2, 0.1, 0.3),
            n_fitted=192,
            n_held=32,
        ),
    )


def probe_json(classes: tuple[str, ...]) -> dict[str, object]:
    """As `birdjepa probe --json` prints it."""

    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.05, "high": value + 0.05}

    three = ("accuracy", "macro_f1", "balanced_accuracy")
    lead = {"accuracy": {"value": 0.1, "low": 0.02, "high": 0.2}}
    return {
        **{name: estimate(0.8) for name in three},
        "n_examples": 40,
        "folds": [{"name": "1", "accuracy": 0.8, "n_train": 30, "n_test": 10, "strength": 1.0}],
        "classes": list(classes),
        "confusion": (30 * np.eye(len(classes), dtype=int) + 2).tolist(),
        "notes": ["fold 1 leaks"],
        "floors": {
            "logmel": {**{name: estimate(0.7) for name in three}, "difference": lead},
            "random": {name: estimate(0.78) for name in three},
        },
        "data": HOSTILE,
        "classifier": "linear",
    }


def _row(step: int) -> dict[str, object]:
    row: dict[str, object] = {"step": step, "loss": 1.0 / step, "lr": 1e-3, "own_term": -0.1 * step, "n_refused": 0}
    if step % 10 == 0:
        row |= {"effective_rank": 5.0, "probe_accuracy": 0.5, "grad_norm": None}
    if step == 20:
        row["alarm"] = f"collapse: {HOSTILE}"
    return row


def _clip(generator: np.random.Generator, label: str) -> HeardClip:
    samples = (0.1 * np.sin(np.arange(16_000) * 0.3)).astype(np.float32)
    return HeardClip(
        samples=samples,
        sampling_rate=16_000,
        frames=generator.normal(-40, 10, size=(100, 32)).astype(np.float32),
        label=label,
        source="songs",
        recording=f"{HOSTILE}/{label}.wav",
        start_s=1.0,
        licence=HOSTILE,
        attribution=HOSTILE,
    )
