import numpy as np

from loci.data.objects.mesh_files import corner_normals


def test_the_sides_of_a_box_stay_flat() -> None:
    trimesh_box = [(0, 1, 3), (0, 3, 2), (4, 7, 5), (4, 6, 7), (0, 4, 5), (0, 5, 1)]
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 2) for z in (0, 3)], np.float32)
    faces = np.array(trimesh_box, np.int32)
    a, b, c = np.moveaxis(corners[faces], 1, 0)
    flat = np.cross(b - a, c - a)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    normals = corner_normals(corners, faces)
    np.testing.assert_allclose(normals, np.repeat(flat[:, None], 3, axis=1), atol=1e-6)


def test_a_drum_is_smooth_around_and_sharp_at_its_lid() -> None:
    """Twelve sides, whose corners are listed again for every face, and a lid."""
    angle = np.arange(13) * np.pi / 6
    low = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    high = low + [0, 0, 1]
    faces = []
    for k in range(12):
        faces += [[low[k], low[k + 1], high[k + 1]], [low[k], high[k + 1], high[k]]]
        faces.append([high[k], high[k + 1], np.array([0, 0, 1.0])])
    vertices = np.round(np.concatenate(faces), 6).astype(np.float32)
    normals = corner_normals(vertices, np.arange(len(vertices), dtype=np.int32).reshape(-1, 3))
    sides = normals.reshape(12, 3, 3, 3)[:, :2].reshape(-1, 3)
    places = vertices.reshape(12, 3, 3, 3)[:, :2].reshape(-1, 3)
    assert ((sides[:, :2] * places[:, :2]).sum(axis=1) > 0.99).all()
    lids = normals.reshape(12, 3, 3, 3)[:, 2].reshape(-1, 3)
    np.testing.assert_allclose(lids, np.tile([0, 0, 1], (36, 1)), atol=1e-6)


def test_crowded_corners_and_triangles_without_area_have_normals_too() -> None:
    fan = [[0, 1 + k, 2 + k] for k in range(70)]
    angle = np.linspace(0, 6, 72)
    rim = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    vertices = np.concatenate([[[0, 0, 0.2]], rim]).astype(np.float32)
    normals = corner_normals(vertices, np.array([*fan, [1, 1, 2]], np.int32))
    np.testing.assert_allclose(np.linalg.norm(normals[:-1], axis=-1), 1, atol=1e-5)
    assert np.isfinite(normals).all()
