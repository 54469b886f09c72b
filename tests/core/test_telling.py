"""Progress is told in tenths, each once."""

from birdjepa.core.telling import tenths


def test_every_tenth_is_told_once_and_the_end_always() -> None:
    said: list[str] = []
    progress = tenths(said.append, "rows")
    for done in range(1, 26):
        progress(done, 25)
    assert len(said) == 10
    assert said[0] == "3 of 25 rows"
    assert said[-1] == "25 of 25 rows"


def test_a_short_job_tells_each_step() -> None:
    said: list[str] = []
    progress = tenths(said.append, "rows")
    for done in (1, 2):
        progress(done, 2)
    assert said == ["1 of 2 rows", "2 of 2 rows"]
