"""Results stores under many writers: what is acknowledged must be there, once, when a quarter of them is killed.

python benchmarks/results_store.py [--writers 16] [--rows 1000] [--rounds 1] [--folder DISK] [--no-record]

Each round starts writers that add rows as fast as they can to one store, a fifth of them experiments that every other
writer adds too; a quarter is killed (SIGKILL), each at a random row and moment. In both kinds: the database, and the
folder of files that network file systems get. Then racers claim the same jobs, fresh ones and those of a process that
was killed. Then an add and a merge are killed at every statement of SQL and every file that is opened, renamed or
removed, in turn. A trial that loses or doubles anything ends the script with 1.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import common

sys.path[:0] = [str(common.ROOT / "tests")]

import store_crowd  # noqa: E402 - beside the tests

from birdjepa.benchmark import mounts  # noqa: E402

KINDS = {"database": False, "folder of files": True}


def main() -> int:
    parser = common.arguments(__doc__)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--rows", type=int, default=1000, help="of each writer")
    parser.add_argument("--rounds", type=int, default=1, help="of each kind, with other moments of the kills")
    parser.add_argument("--racers", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the stores are made (default: a temporary folder)")
    options = parser.parse_args()
    rows, wrong = [], 0
    with contextlib.ExitStack() as stack:
        base = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for round_ in range(options.rounds):
            for kind, spool in KINDS.items():
                place = base / f"{round_}-{spool}"
                place.mkdir(parents=True)
                found = store_crowd.crowd(
                    place / "results.sqlite",
                    spool=spool,
                    n_writers=options.writers,
                    n_rows=options.rows,
                    seed=round_,
                )
                races = {"path": place / "races.sqlite", "spool": spool, "n_racers": options.racers}
                winners = [*store_crowd.races(**races, n_jobs=options.jobs, dead=False)]
                races["path"] = place / "again.sqlite"
                winners += store_crowd.races(**races, n_jobs=options.jobs, dead=True)
                n_odd = sum(count != 1 for count in winners)
                wrong += found.n_lost + found.n_double + found.n_errors + n_odd
                wrong += found.integrity not in ("ok", "files")
                rows.append(
                    {
                        "kind": kind,
                        "round": round_,
                        "killed": found.n_killed,
                        "acknowledged": found.n_acknowledged,
                        "rows": found.n_rows,
                        "lost": found.n_lost,
                        "double": found.n_double,
                        "errors": found.n_errors,
                        "integrity": found.integrity,
                        "add p50, s": found.commit_p50_s,
                        "p99, s": found.commit_p99_s,
                        "longest, s": found.commit_max_s,
                        "adds/s": found.n_rows / found.seconds,
                        "jobs without one winner": f"{n_odd}/{len(winners)}",
                    }
                )
                print(rows[-1], flush=True)
        script = [sys.executable, common.ROOT / "tests" / "store_trials.py", base, "1", "merges", "adds"]
        killed = json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
        odd = [*killed["merges"]["wrong"], *killed["adds"]["wrong"]]
        wrong += len(odd)
        n_adds = sum(killed["adds"]["n_events"].values())
        notes = [
            f"{options.writers} writers x {options.rows} rows on {mounts.filesystem(base)}; 20 % common to all. "
            "Goals: 0 lost, 0 double, p99 below 5 s, one winner for each job. A row has 1 metric and 8 classes",
            f"kills at every event, {n_adds} of an add in both kinds, {killed['merges']['n_events']} of a merge: "
            f"{len(odd)} wrong",
            "rows above the acknowledged ones were on the disk when their writer was killed before it could say so",
        ]
    common.record("Results stores under many writers, a quarter killed", rows, notes, options)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
