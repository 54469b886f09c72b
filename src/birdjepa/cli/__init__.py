"""The command line: parse, call one function, print. `birdjepa --help` and usage errors never import torch."""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from birdjepa.core.cluster import use_node_disk
from birdjepa.core.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, STORAGE, UserError
from birdjepa.core.telling import tell
from birdjepa.train.signals import StopSignal

VERBS = {
    "pretrain": "learn an encoder from recordings, without labels",
    "finetune": "train an encoder and a head on labels, and score them on what was held out",
    "predict": "scores and label files of a fine-tuned classifier for a folder or manifest",
    "embed": "embeddings of a folder or manifest into one Parquet file",
    "tokenize": "codes of a folder or manifest of recordings, one file for each",
    "detokenize": "sound of such files of codes, exactly as long as the recordings were",
    "codec": "how good a codec is, and what it is (birdjepa codec --help)",
    "compare": "several objectives on equal terms: a table of probes with intervals over seeds",
    "sweep": "every configuration that a Python file yields: a table, learning rate against probe",
    "profile": "what a step costs: memory by batch size, time by part, operations",
    "benchmark": "models on BirdSet, BEANS, retrieval, syllables or your own tasks, into one file of results",
    "probe": "how much a frozen encoder knows about labels, beside two floors",
    "convert": "Bird-MAE or Audio-MAE into an encoder folder; what DeepSpeed saved into one safetensors file",
    "report": "one HTML file that shows a run, or the results of benchmarks beside published numbers",
    "data": "what there is, what is damaged, label files, public data sets, made-up sound (birdjepa data --help)",
    "doctor": "versions, processor, memory, audio formats, free disk on one screen",
}

TRAIN = ("pretrain", "finetune", "compare", "sweep", "benchmark")
"""Verbs that a signal asks to save and end. They listen before they import torch, which takes seconds."""
SCAN = ["data", "scan"]
"""So does this one."""

USAGE = """birdjepa: self-supervised encoders for sound

usage: birdjepa VERB ... (birdjepa VERB --help tells its options)

{verbs}

first steps:
  birdjepa data synth songs/ --n-species 12
  birdjepa pretrain lejepa --data songs/metadata.csv --out runs/first --train.steps 300
  birdjepa probe runs/first/encoder --data songs/metadata.csv --folds fold
  birdjepa finetune runs/first/encoder --data songs/metadata.csv --folds fold --out runs/finetuned

exit codes: 0 done, 1 failed, 2 usage, 3 finished but some inputs were refused (failures.csv),
75 stopped, and a checkpoint is there: go on with --resume (data scan: by running it again)
"""


_RANK = os.environ.get("RANK", "0")
"""Number of this process among those that torchrun started."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {verb:<10} {text}" for verb, text in VERBS.items())))
        return EXIT_DONE
    if arguments[0] in ("-V", "--version"):
        from birdjepa import __version__

        print(f"birdjepa {__version__}")
        return EXIT_DONE
    if arguments[0] not in VERBS:
        tell(f"{arguments[0]!r} is not a verb; there are {', '.join(VERBS)}")
        return EXIT_USAGE
    if arguments[0] != "pretrain" and os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ:
        tell(f"{arguments[0]} is one process: start it without torchrun")
        return EXIT_USAGE
    try:
        use_node_disk(os.environ, tell)
        with StopSignal() if arguments[0] in TRAIN or arguments[:2] == SCAN else contextlib.nullcontext():
            return importlib.import_module(f"birdjepa.cli.{arguments[0]}").run(arguments[1:])
    except UserError as error:
        if not error.everywhere or _RANK == "0":
            tell(str(error))
        return error.exit_code
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - whoever read our output has gone; Python flushes at exit
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        tell(f"{error.filename or 'a file'}: {error.strerror}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        tell("interrupted")
        return EXIT_FAILED
