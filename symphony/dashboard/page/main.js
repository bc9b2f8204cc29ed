"use strict";
// Put the parts together: the stream, the buttons, the keys.

const byId = (id) => document.getElementById(id);
const store = new Store();
const timeline = new Timeline(byId("timeline"), byId("timeline-box"), byId("tip"), store);
const charts = new Charts(store);
const panels = new Panels(store, choose);
let drawnPoints = 0, isLost = false, source = null;

function choose(number) {
  const alone = panels.alone === number ? null : number;
  panels.alone = timeline.alone = charts.alone = alone;
  panels.draw(); charts.draw(); timeline.draw();
}

function heard(message) {
  if (!store.apply(message)) {
    // The node was renewed under this page: take the page that belongs to it, once.
    const seen = sessionStorage.getItem("symphony-reloaded");
    if (seen !== JSON.stringify(message.hello)) { sessionStorage.setItem("symphony-reloaded", JSON.stringify(message.hello)); location.reload(); }
    return;
  }
  timeline.heard(store.t);
  if (message.hello) {
    byId("about").textContent = `${store.about.version} · policy ${store.about.policy} · ${store.gpuNames.length} GPU${store.gpuNames.length === 1 ? "" : "s"}`;
    if (!timeline.isLive && !timeline.end) timeline.end = timeline.now();
  }
  if (!timeline.isLive || document.hidden) return;
  panels.draw();
  if (store.times.length !== drawnPoints || store.times.length >= SERIES_POINTS_MAX) { drawnPoints = store.times.length; charts.draw(); }
}

function showLink() {
  const pill = byId("link"), state = isLost ? "lost" : !store.isKnown ? "connecting" : timeline.isLive ? "live" : "paused";
  pill.dataset.state = state;
  setText(pill, isLost ? "no answer, trying again" : state);
}

function showControls() {
  const pause = byId("pause");
  pause.setAttribute("aria-pressed", String(!timeline.isLive));
  setText(pause, timeline.isLive ? "Pause" : "Go live");
  setText(byId("span"), duration(timeline.view));
  showLink();
}

timeline.onChange = () => {
  showControls();
  if (timeline.isLive && store.isKnown) { panels.draw(); charts.draw(); }
};

function listen() {
  source = new EventSource((location.pathname.endsWith("/") ? "../" : "") + "dashboard/stream");
  source.onmessage = (event) => { isLost = false; heard(JSON.parse(event.data)); showLink(); };
  source.onerror = () => {
    isLost = true; showLink();
    // Browsers try again by themselves unless the answer was an error.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  timeline.palette = null;
  charts.restyle(); timeline.draw();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const wished = () => { try { return localStorage.getItem("symphony-theme"); } catch { return null; } };
function switchTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("symphony-theme", theme); } catch { /* kept for this page only */ }
  setTheme(theme);
}
setTheme(wished() || (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (!wished()) setTheme(dark.matches ? "dark" : "light"); });

byId("pause").addEventListener("click", () => timeline.setLive(!timeline.isLive));
byId("out").addEventListener("click", () => timeline.zoom(2, 0.5));
byId("in").addEventListener("click", () => timeline.zoom(0.5, 0.5));
byId("export").addEventListener("click", () => saveTrace(store));
byId("theme").addEventListener("click", switchTheme);
byId("help").addEventListener("click", () => byId("keys").showModal());
for (const button of document.querySelectorAll("[data-span]")) button.addEventListener("click", () => {
  charts.span = Number(button.dataset.span);
  for (const other of document.querySelectorAll("[data-span]")) other.setAttribute("aria-pressed", String(other === button));
  charts.draw();
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  const isButton = event.target.closest && event.target.closest("button");
  const step = timeline.view / 8;
  const actions = {
    " ": () => timeline.setLive(!timeline.isLive), l: () => timeline.setLive(true), L: () => timeline.setLive(true),
    "+": () => timeline.zoom(0.5, 0.5), "=": () => timeline.zoom(0.5, 0.5), "-": () => timeline.zoom(2, 0.5), "−": () => timeline.zoom(2, 0.5),
    ArrowLeft: () => timeline.pan(-step), ArrowRight: () => timeline.pan(step),
    e: () => saveTrace(store), E: () => saveTrace(store), t: switchTheme, T: switchTheme, "?": () => byId("keys").showModal(),
    0: () => { if (panels.alone !== null) choose(panels.alone); },
  };
  let action = actions[event.key];
  if (event.key >= "1" && event.key <= "9") {
    const model = store.busiest(CHART_MODELS_MAX)[Number(event.key) - 1];
    if (model) action = () => choose(model.number);
  }
  if (!action || (isButton && (event.key === " " || event.key === "Enter"))) return;
  action();
  event.preventDefault();
});

addEventListener("resize", () => timeline.draw());
document.addEventListener("visibilitychange", () => { if (!document.hidden && store.isKnown && timeline.isLive) { panels.draw(); charts.draw(); } });
(function animate(at) { timeline.frame(at); requestAnimationFrame(animate); })(0);
showControls();
listen();
