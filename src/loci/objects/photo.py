"""The photograph's own pixels on the side of an object that the camera saw.

The picture is projected through the pose onto splats and mesh. Elsewhere the generated colours
stay, brightened or dimmed near what was seen as the picture is there, so that no seam shows.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import SH_BAND_0, Gaussians
from loci.geometry.gaussians.projection import near_to_far, project_gaussians
from loci.geometry.gaussians.rasterize import pixel_weights
from loci.geometry.gaussians.render import render_gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import face_weights, nearest_faces

GRAY = 0.02
"""Added to both sides of a gain."""


@dataclass(frozen=True)
class PhotoConfig:
    """How the picture is projected.

    Attributes:
        side: the picture is resized so that the mask's longer side has at most so many pixels.
        min_iou: least IoU of the drawn object and the mask for the pose to be trusted.
        margin: pixels inside the mask's border over which the picture fades in.
        cosine: to the surface normal, from which the picture is used at all and in full.
        depth_slack: how far behind the nearest surface a point may lie and still be seen.
        steps: of the fit of the splats' colours.
        coarsest, cells: of the grids on which gains are spread, along their sides; powers of two.
            Beyond a cell and a half of the coarsest, generated colours stay as they are.
        confidence: weight of the points in a cell at which half its own gain counts.
    """

    side: int = 384
    min_iou: float = 0.7
    margin: int = 2
    cosine: tuple[float, float] = (0.1, 0.4)
    depth_slack: float = 0.01
    steps: int = 12
    coarsest: int = 8
    cells: int = 16
    confidence: float = 2.0


class Photo(NamedTuple):
    """The picture as the camera of an object saw it.

    Attributes:
        camera: in the object's frame.
        rgb: in [0, 1].
        weight: how far each pixel is trusted, 0..1; 0 outside the object.
        depth: of the drawn object, infinite where there is none.
        iou: of the drawn object and the mask.
    """

    camera: Camera
    rgb: Float[Tensor, "3 h w"]
    weight: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]
    iou: float


@torch.no_grad()
def project_photo(
    camera: Camera,
    shape: Gaussians | Mesh,
    pixels: UInt8[Tensor, "h w 3"],
    inside: Bool[Tensor, "h w"],
    config: PhotoConfig,
) -> Photo:
    """The picture at the size it is used in, and where it can be trusted."""
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    longest = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    share = min(1.0, config.side / longest)
    size = tuple(max(1, round(n * share)) for n in inside.shape)
    rgb = pixels.permute(2, 0, 1).float() / 255
    sums = torch.cat([rgb, inside[None].float()])[None]
    if share < 1:
        sums = F.interpolate(sums, size, mode="area")
    rgb, mask = sums[0, :3], sums[0, 3] > 0.999
    height, width = mask.shape
    depth = torch.full((height, width), torch.inf)
    facing = torch.ones(height, width)
    if isinstance(shape, Mesh):
        vertices, faces = shape.vertices.cpu(), shape.faces.cpu()
        screen = camera.project(vertices, (height, width))
        nearest = nearest_faces(screen, faces, height, width)
        covered = nearest >= 0
        depth[covered] = face_weights(screen, faces, nearest, covered)[1]
        towards = F.normalize(camera.eye - vertices[faces].mean(1), dim=1)
        cosine = (towards * shape.face_normals.cpu()).sum(1)
        facing[covered] = _ramp(cosine[nearest[covered]], config.cosine)
    else:
        drawn = render_gaussians(shape, camera, (height, width))
        covered, far = (drawn.alpha > 0.5).cpu(), drawn.depth.cpu()
        depth[covered] = far[covered]
    whole = sums[0, 3] > 0.5
    iou = float((covered & whole).sum() / (covered | whole).sum().clamp(min=1))
    soft = _inner(mask & covered, config.margin)
    return Photo(camera, rgb, soft * facing * covered, depth, iou)


def _inner(mask: Bool[Tensor, "h w"], margin: int) -> Float[Tensor, "h w"]:
    """0 outside and on the border's pixels, rising to 1 over `margin` further pixels."""
    outside = (~mask).float()[None]
    total = torch.zeros_like(outside)
    for _ in range(margin + 1):
        outside = F.max_pool2d(F.pad(outside, (1,) * 4, value=1.0), 3, stride=1)
        total += 1 - outside
    return total[0] / (margin + 1)


def _ramp(values: Tensor, ends: tuple[float, float]) -> Tensor:
    share = ((values - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)
    return share * share * (3 - 2 * share)


@torch.no_grad()
def paint_points(
    photo: Photo,
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    config: PhotoConfig,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
    """How far the picture is trusted at surface points, 0..1, and its colours there."""
    height, width = photo.weight.shape
    camera = photo.camera.to(points)
    at = camera.project(points, (height, width))
    grid = (2 * at[:, :2] / at.new_tensor([width, height]) - 1)[None, None]
    sums = torch.cat([photo.rgb, photo.weight[None]]).to(points)[None]
    found = F.grid_sample(sums, grid, mode="bilinear", align_corners=False)[0, :, 0].T
    # Of the pixel and its neighbours, so that the step of a depth edge does not hide a point.
    near = -F.max_pool2d(-photo.depth[None], 3, stride=1, padding=1)[0]
    column = at[:, 0].floor().long().clamp(0, width - 1)
    row = at[:, 1].floor().long().clamp(0, height - 1)
    towards = F.normalize(camera.eye - points, dim=1)
    cosine = (towards * normals).sum(1)
    pixel = at[:, 2] / camera.focal((height, width))
    slack = config.depth_slack + 2 * pixel / cosine.clamp(min=0.2)
    visible = at[:, 2] < near.to(points)[row, column] + slack
    return found[:, 3] * _ramp(cosine, config.cosine) * visible, found[:, :3]


def spread_gains(
    points: Float[Tensor, "n 3"],
    generated: Float[Tensor, "n 3"],
    seen: Float[Tensor, "n 3"],
    weights: Float[Tensor, "n"],
    config: PhotoConfig,
) -> Float[Tensor, "n 3"]:
    """By how much seen colours are brighter than generated ones, smoothly fading to 1 where nothing
    is seen: the ratio of means over ever smaller cells, as far as they hold seen points."""
    low, high = points.amin(0), points.amax(0)
    unit = (points - (low + high) / 2) / (high - low).max().clamp(min=1e-6) * 2
    parts = (seen.clamp(0, 1) * weights[:, None], generated.clamp(0, 1) * weights[:, None])
    sums = torch.cat([*parts, weights[:, None]], dim=1)

    def ratio(total: Tensor) -> Tensor:
        # A little grey on both sides, so that black surfaces give no extreme gains.
        gray = GRAY * total[..., 6:]
        return ((total[..., :3] + gray) / (total[..., 3:6] + gray).clamp(min=1e-9)).log()

    result, cells = torch.zeros_like(points), config.coarsest
    while cells <= config.cells:
        index = ((unit + 1) / 2 * cells).long().clamp(0, cells - 1)
        flat = (index[:, 2] * cells + index[:, 1]) * cells + index[:, 0]
        grid = sums.new_zeros(cells**3, 7).index_add(0, flat, sums)
        grid = grid.T.reshape(1, 7, cells, cells, cells)
        grid = F.avg_pool3d(F.pad(grid, (1,) * 6), 3, stride=1) * 8
        at = unit[None, None, None].clamp(-1, 1) * (1 - 1 / cells)  # MPS has no border padding
        read = F.grid_sample(grid, at, align_corners=False)[0, :, 0, 0].T
        share = read[:, 6:] / (read[:, 6:] + config.confidence)
        result = torch.where(share > 0, torch.lerp(result, ratio(read), share), result)
        cells *= 2
    return result.exp()


@torch.no_grad()
def paint_gaussians(gaussians: Gaussians, photo: Photo, config: PhotoConfig) -> Gaussians:
    """Gaussians whose colours, drawn from the picture's camera, are the picture's.

    Least squares by simultaneous iterations (SIRT): drawing is linear in the colours.
    """
    height, width = photo.weight.shape
    splats = project_gaussians(gaussians, photo.camera, (height, width))
    order = near_to_far(photo.camera.to(gaussians.positions).view(gaussians.positions)[:, 2])
    pixel, splat, weight = pixel_weights(splats, height, width)
    row = order[splat]
    count = len(gaussians)
    trust = photo.weight.flatten().to(weight)[pixel]
    target = photo.rgb.flatten(1).T.to(weight)

    def draw(colors: Tensor) -> Tensor:
        drawn = weight.new_zeros(height * width, 3)
        return drawn.index_add(0, pixel, colors[row] * weight[:, None])

    def gather(values: Tensor, scale: Tensor) -> Tensor:
        shape = weight.new_zeros(count, *values.shape[1:])
        scaled = values * scale[:, None] if values.ndim > 1 else values * scale
        return shape.index_add(0, row, scaled)

    alpha = weight.new_zeros(height * width).index_add(0, pixel, weight)
    colors = gaussians.colors
    trusted = gather(trust, weight)
    all_of_it = gather(torch.ones_like(weight), weight)
    difference = (target * alpha[:, None] - draw(colors))[pixel]
    first = gather(difference, weight * trust) / trusted.clamp(min=1e-6)[:, None]
    target = target * alpha[:, None]
    trusted = trusted.clamp(max=1)
    colors = colors * spread_gains(gaussians.positions, colors, colors + first, trusted, config)
    scale = 1 / (all_of_it + 0.05)
    for _ in range(config.steps):
        difference = (target - draw(colors))[pixel]
        step = gather(difference, weight * trust) * scale[:, None]
        colors = (colors + step).clamp(0, 1)
    return replace(gaussians, harmonics=(colors - 0.5) / SH_BAND_0)


@torch.no_grad()
def paint_mesh(mesh: Mesh, photo: Photo, config: PhotoConfig) -> Mesh:
    """A mesh whose vertex colours are the picture's where the camera saw them."""
    if mesh.colors is None:
        return mesh
    weight, seen = paint_points(photo, mesh.vertices, mesh.vertex_normals, config)
    gains = spread_gains(mesh.vertices, mesh.colors, seen, weight, config)
    colors = torch.lerp(mesh.colors * gains, seen, weight[:, None])
    return replace(mesh, colors=colors.clamp(0, 1))


def paint(
    camera: Camera,
    gaussians: Gaussians | None,
    mesh: Mesh | None,
    pixels: UInt8[Tensor, "h w 3"],
    inside: Bool[Tensor, "h w"],
    config: PhotoConfig | None = None,
) -> tuple[Gaussians | None, Mesh | None, float]:
    """Splats and mesh in the picture's colours, and the IoU of the drawn object and the mask.

    Below `min_iou` both stay as they are: the picture would be painted beside its place.

    Args:
        camera: in the object's frame (`Camera.from_pose`).
        gaussians: or None, if there is a mesh.
        mesh: with vertex colours, or None.
        pixels: the picture.
        inside: the object's mask.
        config: how the picture is projected.
    """
    config, shape = config or PhotoConfig(), gaussians if mesh is None else mesh
    if shape is None or not bool(inside.any()):
        return gaussians, mesh, 0.0
    camera = camera.to(torch.zeros(1))
    photo = project_photo(camera, shape, pixels, inside, config)
    if photo.iou < config.min_iou:
        return gaussians, mesh, photo.iou
    return (
        None if gaussians is None else paint_gaussians(gaussians, photo, config),
        None if mesh is None else paint_mesh(mesh, photo, config),
        photo.iou,
    )
