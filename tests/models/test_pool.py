import pytest
import torch
from torch import Tensor

from birdjepa.models.pool import POOLINGS, Pooling, pool
from birdjepa.models.vit import EncoderOutput


def output(n_columns: int = 5, n_rows: int = 3) -> EncoderOutput:
    generator = torch.Generator().manual_seed(0)
    return EncoderOutput(
        cls=torch.randn(2, 2, 4, generator=generator),
        patches=torch.randn(2, n_columns * n_rows, 4, generator=generator),
        registers=torch.randn(2, 1, 4, generator=generator),
        bare=torch.randn(2, n_columns * n_rows, 4, generator=generator),
        fc_norm=torch.randn(2, 4, generator=generator).expand(2, -1, -1),
    )


def naive(out: EncoderOutput, pooling: str, n_rows: int, counts: list[list[int]]) -> Tensor:
    """Patch i of clip b repeated counts[b][i] times, then the plain formula."""
    rows = []
    for clip, count in zip(out.bare if pooling == "fc_norm" else out.patches, counts, strict=True):
        if pooling.startswith("rows"):
            groups = [range(row, len(clip), n_rows) for row in range(n_rows)]
        else:
            groups = [range(len(clip))]
        taken = [torch.stack([clip[i] for i in group for _ in range(count[i])]) for group in groups]
        if pooling == "max":
            rows.append(taken[0].amax(0))
            continue
        parts = [x.mean(0) for x in taken]
        if pooling == "fc_norm":
            centred = parts[0] - parts[0].mean()
            gain, bias = out.fc_norm[0]
            parts = [centred / (centred.square().mean() + 1e-6).sqrt() * gain + bias]
        if pooling.endswith("+std"):
            parts += [x.std(0, correction=0) for x in taken]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "cls"])
@pytest.mark.parametrize("weighted", [False, True])
def test_pooling_equals_the_plain_formula(pooling: Pooling, weighted: bool) -> None:
    out = output()
    counts = [[1 + (b + i // 3) % 3 for i in range(15)] if weighted else [1] * 15 for b in range(2)]
    weights = 0.25 * torch.tensor(counts, dtype=torch.float32) if weighted else None
    torch.testing.assert_close(pool(out, pooling, 3, weights), naive(out, pooling, 3, counts), rtol=0, atol=1e-5)


def test_cls_tokens_are_put_side_by_side() -> None:
    out = output()
    assert torch.equal(pool(out, "cls", 3), torch.cat((out.cls[:, 0], out.cls[:, 1]), 1))


@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "cls"])
def test_a_patch_of_weight_zero_has_no_influence_at_all(pooling: Pooling) -> None:
    out, weights = output(), torch.ones(2, 15)
    weights[:, 6:9] = 0
    loud = out._replace(patches=out.patches.clone(), bare=out.bare.clone())
    loud.patches[:, 6:9] = loud.bare[:, 6:9] = 1e6
    assert torch.equal(pool(out, pooling, 3, weights), pool(loud, pooling, 3, weights))
    without = out._replace(patches=torch.cat((out.patches[:, :6], out.patches[:, 9:]), 1))
    without = without._replace(bare=torch.cat((out.bare[:, :6], out.bare[:, 9:]), 1))
    torch.testing.assert_close(pool(out, pooling, 3, weights), pool(without, pooling, 3), rtol=0, atol=1e-6)


def test_rows_keep_rows_apart() -> None:
    out = output()
    out.patches[:, 1::3] = 7.0
    assert (pool(out, "rows", 3).view(2, 3, 4)[:, 1] == 7).all()
    assert (pool(out, "rows", 3).view(2, 3, 4)[:, 0] != 7).all()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("n_columns", [1, 5])
def test_gradient_is_finite_for_one_column_and_for_constant_patches(pooling: Pooling, n_columns: int) -> None:
    out = output(n_columns)
    patches = torch.ones_like(out.patches).requires_grad_()
    pooled = pool(out._replace(patches=patches, cls=patches[:, :1], bare=patches), pooling, 3)
    pooled.square().sum().backward()
    assert pooled.isfinite().all()
    assert patches.grad is not None
    assert patches.grad.isfinite().all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_float32(pooling: Pooling) -> None:
    rough = EncoderOutput(*(part.bfloat16() for part in output()))
    assert pool(rough, pooling, 3).dtype == torch.float32


def test_fc_norm_is_refused_of_an_encoder_without_it() -> None:
    bare = EncoderOutput(*output()[:3])
    with pytest.raises(ValueError, match="pooling=fc_norm needs an encoder with that norm"):
        pool(bare, "fc_norm", 3)
