// Keyboard, on-screen pad and gamepad to the set of keys held. Nothing can stay stuck: leaving the
// window, hiding the tab and losing a pointer let everything go.

const CODES = {
  KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d", KeyJ: "j", KeyL: "l", KeyI: "i", KeyK: "k",
  ArrowUp: "w", ArrowDown: "s", ArrowLeft: "j", ArrowRight: "l",
};

const typing = (target) => target.closest?.("input:not([type=range]):not([type=checkbox]):not([type=radio]), select, textarea");

export function listen(walk, pad, undo) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (event.code === "KeyU" && !event.repeat) undo();
    const key = CODES[event.code];
    if (!key || (event.target.type === "range" && event.code.startsWith("Arrow"))) return;
    event.preventDefault();
    if (!event.repeat) walk.press(key);
  });
  addEventListener("keyup", (event) => CODES[event.code] && walk.letGo(CODES[event.code]));
  addEventListener("blur", () => walk.release());
  document.addEventListener("visibilitychange", () => document.hidden && walk.release());
  document.addEventListener("focusin", (event) => typing(event.target) && walk.release());

  for (const button of pad.querySelectorAll("button")) {
    const key = button.dataset.key;
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      walk.press(key);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(end, () => walk.letGo(key));
    }
    button.addEventListener("keydown", (event) => {
      if (event.code === "Space" || event.code === "Enter") {
        event.preventDefault();
        walk.press(key);
      }
    });
    button.addEventListener("keyup", () => walk.letGo(key));
    button.addEventListener("blur", () => walk.letGo(key));
    button.addEventListener("contextmenu", (event) => event.preventDefault());
  }
  walk.addEventListener("held", () => {
    for (const button of pad.querySelectorAll("button")) {
      button.classList.toggle("held", walk.held.has(button.dataset.key));
    }
  });

  const pressed = new Set();
  let polling = false;
  const poll = () => {
    const gamepad = [...navigator.getGamepads()].find(Boolean);
    const now = gamepad ? directions(gamepad) : {};
    for (const key of "wasdjl") {
      if (now[key] && !pressed.has(key)) pressed.add(key), walk.press(key);
      if (!now[key] && pressed.has(key)) pressed.delete(key), walk.letGo(key);
    }
    polling = Boolean(gamepad);
    if (polling) requestAnimationFrame(poll);
  };
  addEventListener("gamepadconnected", () => polling || poll());
}

// Of a gamepad in the standard layout: left stick or cross to move, right stick or shoulders to turn.
function directions({ axes: [x = 0, y = 0, turn = 0], buttons }) {
  const down = (button) => Boolean(buttons[button]?.pressed);
  return {
    a: x < -0.4 || down(14), d: x > 0.4 || down(15), w: y < -0.4 || down(12), s: y > 0.4 || down(13),
    j: turn < -0.4 || down(4), l: turn > 0.4 || down(5),
  };
}
