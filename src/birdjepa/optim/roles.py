"""What each parameter is for, said by the module that owns it: Muon and muP must know, and its shape does not tell.

A parameter of 2 axes may be a hidden matrix, a readout, a patch embedding, a row of tokens, or several matrices fused
into one. The table below names all parameters of all our modules; one that it does not name is an error, never a guess.
A module of one's own gets an entry with `ROLES[MyModule] = {"weight": Role("hidden")}`.
"""

from typing import Literal, NamedTuple

from torch import nn

from birdjepa.models.heads import AttentiveHead, LinearHead, PrototypicalHead
from birdjepa.models.predictor import Predictor
from birdjepa.models.projector import Projector
from birdjepa.models.source_head import SourceHead
from birdjepa.models.vit import Vit
from birdjepa.models.vocoder import Vocoder
from birdjepa.nn.block import Attention, LayerScale, Mlp, SwiGlu
from birdjepa.nn.snake import Snake

Kind = Literal["input", "hidden", "head", "token", "vector"]
"""input: the matrix that reads what a module is given; hidden: one between hidden layers; head: one that reads out;
token: vectors of the model's width that are no matrix, however many; vector: biases and gains."""


class Role(NamedTuple):
    """Kind of a parameter, and how many matrices it holds on top of each other, each with its own rows."""

    kind: Kind
    parts: int = 1


INPUT, HIDDEN, HEAD, TOKEN, VECTOR = (Role(kind) for kind in ("input", "hidden", "head", "token", "vector"))

ROLES: dict[type[nn.Module], dict[str, Role]] = {
    nn.Linear: {"bias": VECTOR},
    nn.LayerNorm: {"weight": VECTOR, "bias": VECTOR},
    nn.modules.batchnorm._BatchNorm: {"weight": VECTOR, "bias": VECTOR},
    LayerScale: {"gain": VECTOR},
    Attention: {"qkv.weight": Role("hidden", 3), "proj.weight": HIDDEN},
    Mlp: {"fc1.weight": HIDDEN, "fc2.weight": HIDDEN},
    SwiGlu: {"fc1.weight": Role("hidden", 2), "fc2.weight": HIDDEN},
    Vit: {"embed.weight": INPUT, "cls": TOKEN, "registers": TOKEN},
    Predictor: {"mask": TOKEN, "head.weight": HEAD},
    Projector: {"layers.0.weight": INPUT, "layers.3.weight": HIDDEN, "layers.6.weight": HEAD},
    SourceHead: {"narrow.weight": HEAD, "classes": HEAD},
    LinearHead: {"linear.weight": HEAD},
    AttentiveHead: {"queries": TOKEN, "keys.weight": HEAD, "values.weight": HEAD, "linear.weight": HEAD},
    PrototypicalHead: {"prototypes": TOKEN, "weight": VECTOR, "bias": VECTOR},
    nn.Conv1d: {"weight": HIDDEN, "bias": VECTOR},
    nn.ConvTranspose1d: {"weight": HIDDEN, "bias": VECTOR},
    Snake: {"raw": VECTOR},
    Vocoder: {"enter.weight": INPUT, "leave.weight": HEAD},
}
"""Class of the owner, then the parameter's name as seen from it. What an outer module says goes before an inner one's.
"""


def roles(module: nn.Module) -> dict[str, Role]:
    """Role of every parameter by its name, frozen and empty ones included.

    Raises:
      ValueError: naming the parameter that no module of the table claims.
    """
    found: dict[str, Role] = {}
    for path, owner in module.named_modules():
        for kind in type(owner).__mro__:  # a wrapped class (FSDP) keeps the entry of what it wraps
            for name, role in ROLES.get(kind, {}).items():
                found.setdefault(f"{path}.{name}" if path else name, role)
    named = dict(module.named_parameters())
    for name, parameter in named.items():
        if name not in found:
            raise ValueError(
                f"{name} {tuple(parameter.shape)} has no role: say in optim/roles.py whether it is a hidden matrix, an "
                "input, a head, a token or a vector"
            )
    return {name: found[name] for name in named}
