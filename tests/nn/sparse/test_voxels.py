"""Sparse layers against dense ones and against definitions written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from loci.nn.attention import KeysValues
from loci.nn.sparse.attention import VoxelAttention, VoxelCrossAttention
from loci.nn.sparse.conv import SparseConv1, SparseConv3
from loci.nn.sparse.voxels import (
    Groups,
    KeyIndex,
    SparseGroupNorm,
    Voxels,
    downsample,
    subdivide,
    upsample,
)

SIDE = 6


@st.composite
def voxel_sets(draw: st.DrawFn, items: int = 2, lowest: int = 0) -> Voxels:
    """Distinct voxels in a random order, items in order."""
    place = st.integers(lowest, SIDE - 1)
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, items - 1), place, place, place),
            min_size=1,
            max_size=60,
            unique=True,
        )
    )
    return Voxels(torch.tensor(sorted(rows, key=lambda row: row[0])))


def features(voxels: Voxels, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(voxels))
    return torch.randn(len(voxels), channels, generator=generator)


def dense(voxels: Voxels, feats: Tensor) -> Tensor:
    grid = feats.new_zeros(2, SIDE, SIDE, SIDE, feats.shape[1])
    grid[voxels.coords.unbind(1)] = feats
    return grid.permute(0, 4, 1, 2, 3)


def read(grid: Tensor, voxels: Voxels) -> Tensor:
    return grid.permute(0, 2, 3, 4, 1)[voxels.coords.unbind(1)]


@settings(max_examples=40)
@given(voxel_sets())
@torch.no_grad()
def test_convolution_equals_the_dense_one_at_active_voxels(voxels: Voxels) -> None:
    conv, feats = SparseConv3(3, 4), features(voxels, 3)
    weight = conv.conv.weight.permute(0, 4, 1, 2, 3)
    expected = F.conv3d(dense(voxels, feats), weight, conv.conv.bias, padding=1)
    assert torch.allclose(conv(feats, voxels), read(expected, voxels), atol=1e-5)


@settings(max_examples=40)
@given(voxel_sets(items=1), st.randoms(use_true_random=False))
@torch.no_grad()
def test_convolution_does_not_depend_on_the_order_of_rows(voxels: Voxels, random) -> None:
    order = list(range(len(voxels)))
    random.shuffle(order)
    conv, feats = SparseConv3(3, 4), features(voxels, 3)
    shuffled = conv(feats[order], Voxels(voxels.coords[order]))
    assert torch.allclose(shuffled, conv(feats, voxels)[order], atol=1e-6)


@settings(max_examples=40)
@given(voxel_sets(lowest=-5))
def test_neighbors_are_all_pairs_at_an_offset(voxels: Voxels) -> None:
    found = {
        (t, s)
        for pairs in voxels.neighbors
        for t, s in zip(*map(Tensor.tolist, pairs), strict=True)
    }
    rows = voxels.coords.tolist()
    near = {
        (t, s)
        for t, a in enumerate(rows)
        for s, b in enumerate(rows)
        if a[0] == b[0] and all(abs(p - q) <= 1 for p, q in zip(a, b, strict=True))
    }
    assert found == near


def test_the_neighbor_map_is_built_once() -> None:
    voxels = Voxels(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]]))
    assert voxels.neighbors is voxels.neighbors
    assert voxels.finer is voxels.finer
    assert voxels.coarser is voxels.coarser
    assert voxels.windows(4, 2) is voxels.windows(4, 2)


def test_gradients_reach_features_and_weights() -> None:
    voxels = Voxels(torch.tensor([[0, 1, 1, 1], [0, 1, 2, 1], [0, 2, 2, 2]]))
    conv = SparseConv3(2, 2).double()
    feats = features(voxels, 2).double().requires_grad_()
    # The sum is kept in float32, so only to its precision.
    assert torch.autograd.gradcheck(
        lambda x: conv(x, voxels), (feats,), eps=1e-2, atol=1e-3, rtol=1e-3
    )


def test_the_pointwise_weight_is_read_as_in_by_out() -> None:
    """The memory of [out, 1, 1, 1, in] is read as an [in, out] matrix."""
    conv, feats = SparseConv1(3, 5), torch.randn(4, 3)
    expected = feats @ conv.conv.weight.flatten().view(3, 5) + conv.conv.bias
    natural = feats @ conv.conv.weight[:, 0, 0, 0].T + conv.conv.bias
    assert torch.allclose(conv(feats), expected, atol=1e-6)
    assert not torch.allclose(conv(feats), natural, atol=1e-2)


def test_downsampling_counts_a_zero() -> None:
    """The mean of k children is their sum over k + 1."""
    voxels = Voxels(torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [0, 5, 0, 0]]))
    down = downsample(torch.tensor([[3.0], [6.0], [8.0]]), voxels)
    assert voxels.coarser.voxels.coords.tolist() == [[0, 0, 0, 0], [0, 2, 0, 0]]
    assert down.tolist() == [[3.0], [4.0]]


@given(voxel_sets(lowest=-5))
def test_coarser_voxels_hold_every_voxel_once(voxels: Voxels) -> None:
    coarse, parent, children = voxels.coarser
    rows = coarse.coords.tolist()
    assert rows == sorted(rows)
    halved = voxels.coords.clone()
    halved[:, 1:] = halved[:, 1:] >> 1
    assert torch.equal(coarse.coords[parent], halved)
    assert torch.equal(children, parent.bincount(minlength=len(coarse)))
    feats = features(voxels, 2)
    lifted = upsample(downsample(feats, voxels), voxels)
    siblings = (parent[:, None] == parent).float()
    expected = siblings @ feats / (siblings.sum(1, keepdim=True) + 1)
    assert torch.allclose(lifted, expected, atol=1e-5)


@given(voxel_sets(lowest=-5))
def test_children_go_back_to_their_parents(voxels: Voxels) -> None:
    fine = voxels.finer
    assert len(torch.unique(fine.coords, dim=0)) == 8 * len(voxels)
    assert torch.equal(fine.coords[:, 1:] >> 1, voxels.coords[:, 1:].repeat_interleave(8, dim=0))
    assert (fine.coords[:8, 1:] - 2 * voxels.coords[:1, 1:]).tolist() == [
        [i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)
    ]
    feats = features(voxels, 2)
    assert torch.equal(subdivide(feats).view(-1, 8, 2)[:, 5], feats)


def written_out(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    scores = torch.einsum("nhe,mhe->hnm", q, k) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hnm,mhe->nhe", weights, v)


@given(st.lists(st.integers(-3, 12), min_size=1, max_size=80))
def test_grouped_attention_equals_masked_attention(labels: list[int]) -> None:
    label = torch.tensor(labels)
    generator = torch.Generator().manual_seed(len(labels))
    q, k, v = torch.randn(3, len(labels), 2, 4, generator=generator).unbind(0)
    expected = written_out(q, k, v, label[:, None] == label)
    assert torch.allclose(Groups(label).attend(q, k, v), expected, atol=1e-5)


def test_groups_never_form_a_matrix_over_all_voxels() -> None:
    counts = torch.arange(1, 300)
    groups = Groups(counts.repeat_interleave(counts))
    padded = sum(b.members.shape[0] * b.members.shape[1] ** 2 for b in groups.buckets)
    assert padded < 2 * int((counts**2).sum())
    assert len(groups.buckets) < 20


@settings(max_examples=40)
@given(voxel_sets(lowest=-5), st.integers(0, 4))
def test_windows_shift_without_wrapping(voxels: Voxels, shift: int) -> None:
    """Voxels with equal (coordinate + shift) // side attend to each other."""
    window = voxels.coords.clone()
    window[:, 1:] = (window[:, 1:] + shift) >> 2
    together = (window[:, None] == window).all(-1)
    generator = torch.Generator().manual_seed(shift)
    q, k, v = torch.randn(3, len(voxels), 2, 4, generator=generator).unbind(0)
    ours = voxels.windows(4, shift).attend(q, k, v)
    assert torch.allclose(ours, written_out(q, k, v, together), atol=1e-5)


@torch.no_grad()
def test_each_item_attends_to_its_own_condition() -> None:
    voxels = Voxels(torch.tensor([[0, 1, 1, 1], [0, 2, 2, 2], [2, 0, 0, 0]]))
    attention = VoxelCrossAttention(8, 6, 2)
    feats, condition = torch.randn(3, 8), torch.randn(3, 5, 6)
    together = attention(feats, attention.keys_values(condition), voxels)
    for row, item in enumerate((0, 0, 2)):
        alone = Voxels(torch.tensor([[0, 0, 0, 0]]))
        keys = attention.keys_values(condition[item : item + 1])
        assert torch.allclose(
            together[row : row + 1], attention(feats[[row]], keys, alone), atol=1e-6
        )


@torch.no_grad()
def test_the_unconditional_output_is_that_of_a_condition_of_zeros() -> None:
    voxels = Voxels(torch.tensor([[0, 1, 1, 1], [0, 2, 2, 2]]))
    attention = VoxelCrossAttention(8, 6, 2)
    torch.nn.init.normal_(attention.to_kv.bias)
    feats = torch.randn(2, 8)
    keys: KeysValues = attention.keys_values(torch.zeros(1, 5, 6))
    answer = attention(feats, None, voxels)
    assert torch.allclose(answer.expand(2, -1), attention(feats, keys, voxels), atol=1e-6)


@settings(max_examples=40)
@given(voxel_sets())
@torch.no_grad()
def test_group_norm_is_computed_per_item(voxels: Voxels) -> None:
    norm = SparseGroupNorm(2, 4)
    torch.nn.init.normal_(norm.weight)
    feats = features(voxels, 4)
    expected = [
        F.group_norm(feats[rows].T[None], 2, norm.weight, norm.bias)[0].T for rows in voxels.items
    ]
    assert torch.allclose(norm(feats, voxels), torch.cat(expected), atol=1e-5)


@torch.no_grad()
def test_layers_keep_bfloat16() -> None:
    voxels = Voxels(torch.cartesian_prod(torch.arange(1), *(torch.arange(3),) * 3))
    feats = features(voxels, 8)
    for layer, arguments in (
        (SparseConv3(8, 8), (voxels,)),
        (SparseConv1(8, 8), ()),
        (SparseGroupNorm(2, 8), (voxels,)),
        (VoxelAttention(8, 2, norm=True), (voxels.windows(2),)),
    ):
        exact = layer(feats, *arguments)
        low = layer.bfloat16()(feats.bfloat16(), *arguments)
        assert low.dtype == torch.bfloat16
        assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max().clamp(min=1)
    assert downsample(feats.bfloat16(), voxels).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.long), r"\[n, 4\].*\[3, 3\]"),
        (torch.zeros(3, 4), r"integers.*float32"),
        (torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]), "sorted by item"),
    ],
)
def test_malformed_coordinates_are_refused(coords: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Voxels(coords)


def test_duplicate_voxels_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        _ = Voxels(torch.zeros(2, 4, dtype=torch.long)).neighbors


def test_empty_voxel_sets_work() -> None:
    nothing = Voxels(torch.zeros(0, 4, dtype=torch.long))
    feats = torch.zeros(0, 4)
    assert SparseConv3(4, 2)(feats, nothing).shape == (0, 2)
    assert VoxelAttention(4, 2, norm=False)(feats, nothing.windows(4)).shape == (0, 4)
    assert downsample(feats, nothing).shape == (0, 4)
    assert SparseGroupNorm(2, 4)(feats, nothing).shape == (0, 4)
    assert KeyIndex(torch.zeros(0, dtype=torch.long)).find(torch.tensor([3])).tolist() == [-1]
