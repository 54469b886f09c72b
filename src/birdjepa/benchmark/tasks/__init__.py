"""The tasks of the benchmark; a new one is a new file and a line here."""

from birdjepa.benchmark.tasks import beans, birdset, general, syllables
from birdjepa.benchmark.tasks.base import Examples, Kind, Part, Protocol, Task

__all__ = ["TASKS", "Examples", "Kind", "Part", "Protocol", "Task"]

TASKS: dict[str, Task] = {
    task.name: task for task in (*birdset.BIRDSET, *birdset.RETRIEVAL, *beans.TASKS, *general.TASKS, *syllables.TASKS)
}
