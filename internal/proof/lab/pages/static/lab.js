// What the lab gains from JavaScript: a run is played back at the speed of reading, and the matrix fills while all
// experiments run. Without it, the pages show the same at once.
(() => {
  "use strict";

  // An event has HTML for the elements with the same ids.
  const matrix = document.querySelector("#matrix");
  if (matrix && matrix.dataset.events) {
    const events = new EventSource(matrix.dataset.events);
    events.addEventListener("message", (event) => {
      const piece = document.createElement("template");
      piece.innerHTML = event.data;
      for (const part of piece.content.children) {
        const place = document.getElementById(part.id);
        if (place) place.innerHTML = part.innerHTML;
      }
    });
    events.addEventListener("done", () => events.close());
  }
  const form = document.querySelector("#matrix form");
  if (form) form.addEventListener("formdata", (event) => event.formData.set("watch", "1"));

  const player = document.getElementById("player");
  if (!player) return;
  const run = document.getElementById("run");
  const [play, next, all, place, now] = ["play", "step", "all", "place", "now"].map((id) => document.getElementById(id));
  // Side by side, the steps come in the order of time. One below the other, the naive ones come first.
  const beside = matchMedia("(min-width: 62rem)").matches;
  const side = (step) => (beside || step.closest(".naive") ? 0 : 1);
  const steps = [...run.querySelectorAll(".step")];
  steps.sort((a, b) => side(a) - side(b) || a.dataset.at - b.dataset.at);
  let shown = 0;
  let timer;

  const pauseAfter = (step) => 500 + 35 * step.textContent.trim().length;

  function draw() {
    steps.forEach((step, i) => {
      for (const line of [step, step.previousElementSibling]) {
        if (line && (line === step || line.matches(".parting"))) line.classList.toggle("shown", i < shown);
      }
      step.classList.toggle("current", i === shown - 1 && shown < steps.length);
    });
    const ended = shown === steps.length;
    run.classList.toggle("playing", !ended);
    place.textContent = `Step ${shown} of ${steps.length}`;
    play.textContent = timer ? "Pause" : ended ? "Play again" : "Play";
    next.disabled = all.disabled = ended;
  }

  function stop() {
    clearTimeout(timer);
    timer = undefined;
  }

  function forward() {
    shown = Math.min(shown + 1, steps.length);
    const step = steps[shown - 1];
    now.textContent = step.querySelector("p").textContent;
    timer = timer && shown < steps.length ? setTimeout(forward, pauseAfter(step)) : undefined;
    draw();
    step.scrollIntoView({ block: "nearest" });
  }

  play.addEventListener("click", () => {
    if (timer) {
      stop();
    } else {
      if (shown === steps.length) shown = 0;
      timer = setTimeout(forward, 300);
    }
    draw();
  });
  next.addEventListener("click", () => {
    stop();
    forward();
  });
  all.addEventListener("click", () => {
    stop();
    shown = steps.length;
    draw();
  });

  player.hidden = false;
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) timer = setTimeout(forward, 600);
  draw();
})();
