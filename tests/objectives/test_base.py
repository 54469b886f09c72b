import pytest
import torch

from birdjepa.objectives.base import Chance, Objective

CPU = torch.device("cpu")


def draw(chance: Chance, purpose: str) -> list[float]:
    return torch.rand(4, generator=chance.generator(purpose, CPU)).tolist()


def test_chance_is_a_function_of_seed_step_micro_and_purpose() -> None:
    expected = draw(Chance(1, 2, 9, 3), "mask")
    assert draw(Chance(1, 2, 9, 3), "mask") == expected
    for other in (Chance(0, 2, 9, 3), Chance(1, 0, 9, 3), Chance(1, 2, 9), Chance(2, 1, 9, 3), Chance(1, 3, 9, 2)):
        assert draw(other, "mask") != expected
    assert draw(Chance(1, 2, 9, 3), "views") != expected


def test_an_objective_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Objective()  # pyright: ignore[reportAbstractUsage]
