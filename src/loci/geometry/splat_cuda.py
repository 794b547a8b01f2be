"""The same pictures by gsplat's CUDA kernels. Tests run where there is no GPU: not run there."""

from importlib.util import find_spec

from jaxtyping import Float
from torch import Tensor

from loci.geometry.camera import Camera
from loci.geometry.gaussians import Gaussians
from loci.geometry.splat_projection import MIP_KERNEL, NEAR


def gsplat_installed() -> bool:
    return find_spec("gsplat") is not None


def render_with_gsplat(
    gaussians: Gaussians, camera: Camera, height: int, width: int
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Colour over black, alpha and mean depth.

    "antialiased" with `eps2d` is the mip filter; gsplat's camera is OpenCV's. It stops where less
    than 1e-4 of the light is left, so pictures agree with the reference to about that.
    """
    from gsplat import rasterization  # pyright: ignore[reportMissingImports]

    camera = camera.to(gaussians.positions)
    drawn, alpha, _ = rasterization(
        means=gaussians.positions,
        quats=gaussians.rotations,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colors.clamp(min=0),
        viewmats=camera.to_opencv()[None],
        Ks=camera.intrinsics((height, width))[None],
        width=width,
        height=height,
        near_plane=NEAR,
        eps2d=MIP_KERNEL,
        rasterize_mode="antialiased",
        render_mode="RGB+ED",
    )
    return drawn[0, :, :, :3].permute(2, 0, 1), alpha[0, :, :, 0], drawn[0, :, :, 3]
