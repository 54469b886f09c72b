"""Files of every container with random damage: whatever they do to the decoder, nothing crashes, hangs or comes out at
a wrong length. Run as a script it prints the table of what became of them.

python tests/audio/test_mutants.py [N] [SEED]
"""

import collections
import sys
from collections.abc import Iterator

import malformed
import pytest
from judge import judge

from birdjepa.audio.isolate import IsolatedWorkers
from birdjepa.core.errors import AudioError

TIMEOUT_S = 5.0
Outcomes = dict[str, collections.Counter[str]]
"""By container: how many decode, and how many are refused for which kind of reason."""


def outcomes(n: int, seed: int) -> Iterator[tuple[str, bytes, str]]:
    """(container, bytes, what became of it) of n mutants."""
    files = malformed.mutants(n, seed)
    with IsolatedWorkers(2, timeout_s=TIMEOUT_S) as workers:
        results = workers.map(judge, [data for _, data in files], name=lambda _: "mutant", batch=32)
        for (name, data), (_, result) in zip(files, results, strict=True):
            yield name, data, result.reason if isinstance(result, AudioError) else result


def counted(n: int, seed: int) -> tuple[Outcomes, list[tuple[str, str, bytes]]]:
    """Counts, and the files that break a promise."""
    table: Outcomes = collections.defaultdict(collections.Counter)
    wrong = []
    for name, data, outcome in outcomes(n, seed):
        table[name][outcome.split(":")[0] if "WRONG" not in outcome else "WRONG"] += 1
        if "WRONG" in outcome:
            wrong.append((name, outcome, data))
    return table, wrong


def check(n: int, seed: int) -> None:
    table, wrong = counted(n, seed)
    assert [(name, outcome) for name, outcome, _ in wrong] == []
    total = sum(table.values(), collections.Counter())
    assert total.total() == n
    assert set(table) == set(malformed.MUTATED)
    assert 0.1 * n < total["decodes"] < 0.9 * n  # damage of both kinds: fatal and survivable


def test_some_mutants() -> None:
    check(336, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_mutants() -> None:
    check(10_000, seed=2)


if __name__ == "__main__":
    n_files, first_seed = (int(argument) for argument in (*sys.argv[1:], "10000", "2")[:2])
    found, broken = counted(n_files, first_seed)
    for container, counts in found.items():
        print(f"{container:18}", ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common()))
    for container, outcome, _ in broken:
        print(container, "|", outcome)
