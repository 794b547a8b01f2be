// A lifted object in 3D: its mesh, or its splats. Throws where there is no WebGL.

import * as THREE from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";

let running = null;

export const turnsByItself = () => !matchMedia("(prefers-reduced-motion: reduce)").matches;

export async function showMesh(container, meshUrl, splatUrl) {
  running?.stop();
  container.replaceChildren();
  const renderer = new THREE.WebGLRenderer({ antialias: true });
  renderer.setPixelRatio(devicePixelRatio);
  renderer.setSize(container.clientWidth, container.clientHeight);
  container.append(renderer.domElement);
  const scene = new THREE.Scene();
  scene.add(new THREE.HemisphereLight(0xffffff, 0x556070, 2.2));
  const sun = new THREE.DirectionalLight(0xffffff, 1.6);
  sun.position.set(2, 3, 2);
  scene.add(sun);
  const { scene: object } = await new GLTFLoader().loadAsync(meshUrl);
  // A mesh with vertex colours has no material, and glTF's default is metal: dark without surroundings.
  object.traverse((part) => part.material && (part.material.metalness = 0));
  scene.add(object);
  const bounds = new THREE.Box3().setFromObject(object).getBoundingSphere(new THREE.Sphere());
  const camera = new THREE.PerspectiveCamera(40, container.clientWidth / container.clientHeight, bounds.radius / 50, bounds.radius * 50);
  camera.position.copy(bounds.center).add(new THREE.Vector3(0.6, 0.5, 1).setLength(bounds.radius * 3.2));
  const controls = new OrbitControls(camera, renderer.domElement);
  controls.target.copy(bounds.center);
  controls.autoRotate = turnsByItself();
  let frame = 0;
  const draw = () => {
    controls.update();
    renderer.render(scene, camera);
    frame = requestAnimationFrame(draw);
  };
  draw();
  running = {
    stop() {
      cancelAnimationFrame(frame);
      controls.dispose();
      renderer.dispose();
    },
  };
  if (splatUrl) offerSplats(container, splatUrl);
}

function offerSplats(container, url) {
  const button = Object.assign(document.createElement("button"), { textContent: "Show splats" });
  button.addEventListener("click", async () => {
    running?.stop();
    container.replaceChildren();
    const splats = await import("/static/vendor/gaussian-splats-3d/gaussian-splats-3d.module.js");
    const viewer = new splats.Viewer({
      rootElement: container,
      sharedMemoryForWorkers: false,
      cameraUp: [0, 0, 1],
      initialCameraPosition: [0.8, -1.4, 0.7],
      initialCameraLookAt: [0, 0, 0],
    });
    await viewer.addSplatScene(url, { showLoadingUI: false });
    viewer.start();
    running = { stop: () => viewer.dispose() };
  });
  container.after(button);
  running = { ...running, stop: ((stop) => () => (button.remove(), stop()))(running.stop) };
}
