"""Random cameras and lights to render an object with.

The camera frame is PyTorch3D's (x left, y up, z forward), and poses act on row vectors:
`p_camera = (p_object * scale) @ rotation + translation`.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

FOV = (25.0, 75.0)
ELEVATION = (-10.0, 50.0)
FRAME_SHARE = (0.35, 0.9)  # of the picture's side that the object spans
METRES = (0.3, 2.0)


@dataclass(frozen=True)
class RenderCamera:
    """A square view of an object that has a pose and a scale, in OpenGL's terms.

    Unlike `geometry.camera.Camera` it may be orthographic.

    Attributes:
        rotation, translation, scale: the pose (see above).
        fov: horizontal field of view in degrees; 0 for an orthographic camera.
        reach: half the width of an orthographic view, in camera units.
    """

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    scale: float = 1.0
    fov: float = 0.0
    reach: float = 1.0

    def place(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Points of the object in the camera frame."""
        return (points * self.scale) @ self.rotation + self.translation

    @property
    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """The pose for homogeneous column vectors."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation.T * self.scale
        matrix[:3, 3] = self.translation
        return matrix

    @property
    def clip(self) -> Float[np.ndarray, "4 4"]:
        """Projection matrix: camera frame to OpenGL's clip space, where x points right."""
        middle = float(np.linalg.norm(self.translation))
        near, far = max(middle - 0.9 * self.scale, 0.02 * middle), middle + 0.9 * self.scale
        clip = np.zeros((4, 4))
        if self.fov:
            zoom = 1 / np.tan(np.radians(self.fov) / 2)
            clip[0, 0], clip[1, 1], clip[3, 2] = -zoom, zoom, 1
            clip[2, 2:] = (far + near) / (far - near), -2 * far * near / (far - near)
        else:
            clip[0, 0], clip[1, 1], clip[3, 3] = -1 / self.reach, 1 / self.reach, 1
            clip[2, 2:] = 2 / (far - near), -(far + near) / (far - near)
        return clip

    @property
    def eye(self) -> tuple[float, float, float, float]:
        """The camera's position in the object's frame and 1; if orthographic, the direction
        towards it and 0."""
        if not self.fov:
            x, y, z = -self.rotation[:, 2]
            return float(x), float(y), float(z), 0.0
        x, y, z = -self.rotation @ self.translation / self.scale
        return float(x), float(y), float(z), 1.0


@dataclass(frozen=True)
class Lights:
    """A key light (`sun`), a fill light and ambient light; directions to them, RGB factors."""

    sun: tuple[float, ...] = (0.0, 0.0, 1.0)
    sun_color: tuple[float, ...] = (0.0, 0.0, 0.0)
    fill: tuple[float, ...] = (0.0, 0.0, 1.0)
    fill_color: tuple[float, ...] = (0.0, 0.0, 0.0)
    ambient: tuple[float, ...] = (1.0, 1.0, 1.0)
    gloss: float = 0.0

    def uniforms(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class ViewConfig:
    """The range of random views; angles in degrees."""

    fov: tuple[float, float] = FOV
    elevation: tuple[float, float] = ELEVATION
    share: tuple[float, float] = FRAME_SHARE
    metres: tuple[float, float] = METRES
    roll: float = field(default=3.0)
    """Standard deviation."""


def look_along(direction: np.ndarray, roll: float = 0.0) -> Float[np.ndarray, "3 3"]:
    """The rotation of an upright camera that looks along `direction`; `roll` in degrees."""
    forward = direction / np.linalg.norm(direction)
    up = np.array([0.0, 0.0, 1.0])
    if abs(forward[2]) > 0.999:
        up = np.array([0.0, 1.0, 0.0])
    left = np.cross(up, forward)
    left /= np.linalg.norm(left)
    upright = np.stack([left, np.cross(forward, left), forward], axis=1)
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    return upright @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def random_camera(
    rng: np.random.Generator,
    points: Float[np.ndarray, "n 3"],
    size: float | None,
    config: ViewConfig,
) -> RenderCamera:
    """A view that shows all of `points`, not always centred.

    Args:
        points: of the object's surface, in its frame.
        size: of the object's unit cube in metres, or None if unknown.
    """
    fov = rng.uniform(*config.fov)
    azimuth, elevation = np.radians([rng.uniform(0, 360), rng.uniform(*config.elevation)])
    flat = np.cos(elevation)
    toward = -np.array([np.sin(azimuth) * flat, -np.cos(azimuth) * flat, np.sin(elevation)])
    size = np.exp(rng.uniform(*np.log(config.metres))) if size is None else size
    scale = float(np.clip(size * np.exp(rng.normal(0, 0.15)), *config.metres))
    rotation = look_along(toward, rng.normal(0, config.roll))
    zoom = 1 / np.tan(np.radians(fov) / 2)
    seen = (points * scale) @ rotation
    share = rng.uniform(*config.share)
    distance = _distance(seen, zoom, share)
    # Rotated a little to move the object off centre; less if that would cut it off.
    shift = rng.uniform(-1, 1, 2)
    for factor in (1.0, 0.7, 0.45, 0.25, 0.1, 0.0):
        turn = _turn(shift * factor * max(1 - share, 0.0) / zoom)
        place = np.array([0, 0, distance]) @ turn
        camera = RenderCamera(rotation @ turn, place, scale, fov)
        if np.abs(_on_screen(camera.place(points), zoom)).max() < 0.98:
            break
    return camera


def _distance(seen: np.ndarray, zoom: float, share: float) -> float:
    """The distance at which the points span the given share of the frame."""
    nearest = 0.1 * np.ptp(seen[:, 2]) - seen[:, 2].min()
    distance = 2 * nearest
    for _ in range(12):
        screen = _on_screen(seen + [0, 0, distance], zoom)
        span = max(np.ptp(screen, axis=0).max() / 2, np.abs(screen).max() * share)
        distance = max(nearest, distance * span / share)
    return distance


def _on_screen(seen: np.ndarray, zoom: float) -> np.ndarray:
    """Right and up, in [-1, 1] inside the frame."""
    return seen[:, :2] * [-zoom, zoom] / seen[:, 2:]


def _turn(tangents: np.ndarray) -> np.ndarray:
    """A rotation sideways, then upwards, by the angles of these tangents."""
    (yaw, pitch) = np.arctan(tangents)
    cos, sin = np.cos(yaw), np.sin(yaw)
    aside = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    cos, sin = np.cos(pitch), np.sin(pitch)
    return aside @ np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])


def random_lights(rng: np.random.Generator) -> Lights:
    """From strong sun to a dull room; white surfaces come out between about 0.5 and 1.1."""
    strength, level = rng.uniform(0.1, 0.75), rng.uniform(0.75, 1.1)
    ambient = level * (1 - 0.8 * strength)

    def tinted(value: float) -> tuple[float, ...]:
        return tuple(map(float, value * np.exp(rng.normal(0, 0.06, 3))))

    return Lights(
        sun=_direction(rng, lowest=0.15),
        sun_color=tinted(level * strength),
        fill=_direction(rng, lowest=-0.3),
        fill_color=tinted(level * strength * rng.uniform(0, 0.5)),
        ambient=tinted(ambient),
        gloss=float(rng.choice([0.0, 0.0, 0.15, 0.4])),
    )


def _direction(rng: np.random.Generator, lowest: float) -> tuple[float, ...]:
    height, angle = rng.uniform(lowest, 1), rng.uniform(0, 2 * np.pi)
    flat = np.sqrt(1 - height**2)
    return (float(flat * np.cos(angle)), float(flat * np.sin(angle)), float(height))


def sphere_directions(count: int) -> Float[np.ndarray, "n 3"]:
    """Unit vectors evenly on the sphere (a Fibonacci lattice)."""
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5))
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=1)
