"""Off-screen rendering of a textured mesh by OpenGL: colour, normals and depth.

Colour is rendered twice at once: under given lights, and under an even light that depends on the
surface normal alone, which the colours of surface samples are taken from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from loci.data.objects.cameras import Lights, RenderCamera
from loci.data.objects.mesh_files import Submesh
from loci.errors import LociError, install_hint

VERTEX = """
#version 330
uniform mat4 to_camera;
uniform mat4 to_clip;
in vec3 position;
in vec3 direction;
in vec2 uv;
out vec3 place;
out vec3 normal;
out vec2 at;
out float depth;
void main() {
    vec4 seen = to_camera * vec4(position, 1.0);
    place = position;
    normal = direction;
    at = uv;
    depth = seen.z;
    gl_Position = to_clip * seen;
}
"""
# Smoothed normals count up to about 60 degrees from that of the face; some have no length.
FRAGMENT = """
#version 330
uniform sampler2D picture;
uniform vec3 color;
uniform bool textured;
uniform vec4 eye;  // w = 0: a direction, of parallel rays
uniform vec3 sun;
uniform vec3 sun_color;
uniform vec3 fill;
uniform vec3 fill_color;
uniform vec3 ambient;
uniform float gloss;
in vec3 place;
in vec3 normal;
in vec2 at;
in float depth;
layout(location = 0) out vec4 even;
layout(location = 1) out vec4 lit;
layout(location = 2) out vec4 geometry;
void main() {
    vec4 base = vec4(color, 1.0);
    if (textured) base *= texture(picture, at);
    if (base.a < 0.5) discard;
    vec3 view = normalize(eye.xyz - place * eye.w);
    vec3 face = cross(dFdx(place), dFdy(place));
    face = dot(face, face) > 0.0 ? normalize(face) : view;
    if (dot(face, view) < 0.0) face = -face;
    vec3 n = normalize(normal);
    if (dot(n, face) < 0.0) n = -n;
    if (!(dot(n, face) > 0.5)) n = face;
    even = vec4(base.rgb * (0.84 + 0.13 * n.z + 0.03 * n.x), 1.0);
    vec3 light = ambient * (0.75 + 0.25 * n.z)
        + sun_color * max(dot(n, sun), 0.0) + fill_color * max(dot(n, fill), 0.0);
    float shine = gloss * pow(max(dot(n, normalize(sun + view)), 0.0), 30.0);
    lit = vec4(base.rgb * light + sun_color * shine, 1.0);
    geometry = vec4(n, depth);
}
"""


class RenderBuffers(NamedTuple):
    """What a camera sees, top row first.

    Attributes:
        even, lit: RGBA under the even light and the given lights; straight alpha, the coverage.
        normal: towards the camera, in the object's frame.
        depth: z in the camera frame, inf where nothing is.
    """

    even: UInt8[np.ndarray, "s s 4"]
    lit: UInt8[np.ndarray, "s s 4"]
    normal: Float32[np.ndarray, "s s 3"]
    depth: Float32[np.ndarray, "s s"]


@dataclass
class _Drawable:
    array: Any
    color: tuple[float, ...]
    texture: Any | None


class ObjectRenderer:
    """An OpenGL context without a screen that holds one mesh; a context manager.

    Raises:
        LociError: when moderngl is missing or no OpenGL context can be made.
    """

    def __init__(self) -> None:
        self.context = _context()
        self.program = self.context.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        self.targets: dict[int, Any] = {}
        self.held: list[Any] = []
        self.drawables: list[_Drawable] = []

    def __enter__(self) -> "ObjectRenderer":
        return self

    def __exit__(self, *error: object) -> None:
        self._forget()
        for target in self.targets.values():
            for attachment in (*target.color_attachments, target.depth_attachment, target):
                attachment.release()
        self.program.release()
        self.context.release()

    def load(self, submeshes: Sequence[Submesh]) -> None:
        """Replaces the mesh to be rendered."""
        self._forget()
        for submesh in submeshes:
            vertices = np.concatenate([submesh.vertices, submesh.normals, submesh.uv], axis=1)
            buffer = self.context.buffer(vertices.astype("<f4").tobytes())
            index = self.context.buffer(submesh.faces.astype("<i4").tobytes())
            layout = [(buffer, "3f 3f 2f", "position", "direction", "uv")]
            array = self.context.vertex_array(self.program, layout, index)
            texture = None if submesh.texture is None else self._texture(submesh.texture)
            self.held += [array, buffer, index, *([texture] if texture else [])]
            self.drawables.append(_Drawable(array, tuple(map(float, submesh.color)), texture))

    def draw(
        self, camera: RenderCamera, size: int, lights: Lights | None = None, smooth: bool = True
    ) -> RenderBuffers:
        """Renders the loaded mesh at `[size, size]`.

        With `smooth`, colours are rendered at twice the size and averaged. Normals and depth are
        those at the pixels' centres.
        """
        lights = lights or Lights()
        target = self._render(camera, size, lights)
        geometry = self._read(target, 2, size)
        if smooth:
            target = self._render(camera, 2 * size, lights)
            even, lit = (_halved(self._read(target, index, 2 * size)) for index in (0, 1))
        else:
            even, lit = (self._read(target, index, size) for index in (0, 1))
        depth = np.where(geometry[..., 3] > 0, geometry[..., 3], np.float32(np.inf))
        return RenderBuffers(even, lit, geometry[..., :3], depth)

    def _render(self, camera: RenderCamera, size: int, lights: Lights) -> Any:
        target = self._target(size)
        target.use()
        self.context.enable_only(self.context.DEPTH_TEST)
        target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        self._set("to_camera", camera.matrix.T)
        self._set("to_clip", camera.clip.T)
        self._set("eye", camera.eye)
        for name, value in lights.uniforms().items():
            self._set(name, value)
        for drawable in self.drawables:
            self._set("color", drawable.color)
            self._set("textured", drawable.texture is not None)
            if drawable.texture is not None:
                drawable.texture.use(0)
            drawable.array.render()
        return target

    def _set(self, name: str, value: Any) -> None:
        """Sets a uniform, unless the compiler has dropped it as unused."""
        if name in self.program:
            uniform = self.program[name]
            if isinstance(value, np.ndarray):
                uniform.write(np.ascontiguousarray(value, "<f4").tobytes())
            else:
                uniform.value = value

    def _read(self, target: Any, index: int, size: int) -> np.ndarray:
        kind = "f4" if index == 2 else "f1"
        raw = target.read(components=4, attachment=index, dtype=kind, alignment=1)
        array = np.frombuffer(raw, "<f4" if index == 2 else np.uint8)
        return array.reshape(size, size, 4)[::-1].copy()  # OpenGL reads the lowest row first

    def _target(self, size: int) -> Any:
        if size not in self.targets:
            kinds = ("f1", "f1", "f4")
            colors = [self.context.texture((size, size), 4, dtype=kind) for kind in kinds]
            depth = self.context.depth_renderbuffer((size, size))
            self.targets[size] = self.context.framebuffer(colors, depth)
        return self.targets[size]

    def _texture(self, pixels: np.ndarray) -> Any:
        height, width = pixels.shape[:2]
        flipped = np.ascontiguousarray(pixels[::-1])  # v grows upward
        texture = self.context.texture((width, height), 4, flipped.tobytes(), alignment=1)
        texture.build_mipmaps()
        texture.filter = (self.context.LINEAR_MIPMAP_LINEAR, self.context.LINEAR)
        return texture

    def _forget(self) -> None:
        for thing in self.held:
            thing.release()
        self.held, self.drawables = [], []


def _halved(picture: UInt8[np.ndarray, "s s 4"]) -> UInt8[np.ndarray, "h h 4"]:
    """Means of 2x2 pixels; the colour is the mean of the covered ones."""
    # Pixels are opaque or 0 in every channel.
    wide = picture.astype(np.uint16)
    total = wide[::2, ::2] + wide[::2, 1::2] + wide[1::2, ::2] + wide[1::2, 1::2]
    covered = total[..., 3:] // 255
    color = (total[..., :3] + covered // 2) // np.maximum(covered, 1)
    return np.concatenate([color, (total[..., 3:] + 2) // 4], axis=-1).astype(np.uint8)


def _context() -> Any:
    try:
        import moderngl
    except ImportError as error:
        raise LociError(f"rendering needs moderngl: {install_hint('objects')}") from error
    reasons = []
    for settings in ({"backend": "egl"}, {}):  # without a screen, else the platform's default
        try:
            return moderngl.create_context(standalone=True, **settings)  # pyright: ignore
        except Exception as error:  # every platform fails in its own way
            reasons.append(f"{settings.get('backend', 'default')}: {error}")
    raise LociError(
        "no OpenGL context to draw objects, expected EGL (on Debian: apt install libegl1 "
        f"libgl1-mesa-dri) or a display ({'; '.join(reasons)})"
    )
