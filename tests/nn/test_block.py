import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.nn.block import LONGEST_PLAIN, NORM_EPS, Attention, Block, LayerScale, Mlp, SwiGlu, attend
from birdjepa.nn.position import rotary


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def block(*, qk_norm: bool = False, layer_scale: float = 0.0) -> Block:
    torch.manual_seed(0)
    return Block(32, 4, Mlp(32, 64), qk_norm=qk_norm, layer_scale=layer_scale)


def test_a_block_equals_torch_transformer_layer() -> None:
    ours = block()
    theirs = nn.TransformerEncoderLayer(
        32, 4, 64, dropout=0.0, activation=F.gelu, layer_norm_eps=NORM_EPS, batch_first=True, norm_first=True
    )
    pairs = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
    }
    weights = ours.state_dict()
    for their_name in theirs.state_dict():
        our_name = their_name
        for old, new in pairs.items():
            our_name = our_name.replace(old, new)
        theirs.state_dict()[their_name].copy_(weights.pop(our_name))
    assert not weights
    x = random(3, 7, 32)
    torch.testing.assert_close(ours(x, None, None), theirs(x), rtol=0, atol=2e-6)


def test_qk_norm_standardises_each_head_and_forgets_the_scale_of_queries_and_keys() -> None:
    attention, x = Attention(32, 4, qk_norm=True), random(2, 7, 32)
    heads = attention.qkv(x).unflatten(-1, (3, 4, 8))
    queries, keys = (F.layer_norm(heads[:, :, i], (8,), eps=NORM_EPS).transpose(1, 2) for i in (0, 1))
    weights = (queries @ keys.mT / 8**0.5).softmax(-1)
    expected = attention.proj((weights @ heads[:, :, 2].transpose(1, 2)).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, None), expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        attention.qkv.weight[:64] *= 100
        attention.qkv.bias[:64] *= 100
    torch.testing.assert_close(attention(x, None), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_tokens", [1, 33, LONGEST_PLAIN + 1])
def test_bfloat16_attention_equals_float32(n_tokens: int) -> None:
    qkv = random(3, 1, 2, n_tokens, 16).bfloat16()
    leaves = [x.requires_grad_() for x in (qkv, qkv.detach().float())]
    rough, exact = (attend(*leaf.unbind()) for leaf in leaves)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.03)
    for out in (rough, exact):
        out.float().square().sum().backward()
    expected = leaves[1].grad
    assert expected is not None
    assert leaves[0].grad is not None
    assert (leaves[0].grad.float() - expected).norm() < 0.02 * expected.norm()


def test_attention_runs_in_bfloat16_under_autocast() -> None:
    attention, x = Attention(32, 4, qk_norm=True), random(2, 7, 32)
    turn = rotary(random(1, 7, 2), 8, 0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention(x, turn)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), attention(x, turn), rtol=0, atol=0.03)


def test_swiglu_is_gated_and_costs_as_much_as_the_mlp() -> None:
    swiglu, mlp, x = SwiGlu(96, 384), Mlp(96, 384), random(2, 5, 96)
    gate, value = swiglu.fc1(x).chunk(2, -1)
    torch.testing.assert_close(swiglu(x), swiglu.fc2(gate * gate.sigmoid() * value))
    sizes = [sum(weight.numel() for weight in module.parameters() if weight.ndim == 2) for module in (swiglu, mlp)]
    assert sizes[0] == sizes[1]


def test_layer_scale_multiplies_each_branch_and_keeps_the_dtype() -> None:
    plain, scaled, x = block(), block(layer_scale=0.5), random(2, 5, 32)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    between = x + 0.5 * plain.attention(plain.norm1(x), None)
    torch.testing.assert_close(scaled(x, None, None), between + 0.5 * plain.mlp(plain.norm2(between)))
    assert LayerScale(32, 0.1)(x.bfloat16()).dtype == torch.bfloat16


def test_stochastic_depth_drops_and_rescales_branches_clip_by_clip() -> None:
    module, x = block(), random(4, 5, 32)
    keep = torch.tensor([[0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 2.0, 1.0]])
    out = module(x, None, keep)
    attended = x + 2 * module.attention(module.norm1(x), None)
    assert torch.equal(out[0], x[0])
    torch.testing.assert_close(out[1], attended[1])
    torch.testing.assert_close(out[2], x[2] + 2 * module.mlp(module.norm2(x))[2])
    torch.testing.assert_close(out[3], module(x, None, None)[3])
