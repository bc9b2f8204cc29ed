"use strict";
// Numbers, durations and reasons as people read them, and the colours of models.

const COLOURS = ["#4285d6", "#e39a2d", "#26a69a", "#9c6ade", "#8ab33c", "#d77fb5", "#45b5e0", "#a9795b", "#5c6bc0", "#b5a642", "#5aa786", "#78909c"];
const BAD_RATE = 0.01; // goodput asks for 99 % good

function colourOf(number) {
  return number === 0 ? "#8a929c" : COLOURS[(number - 1) % COLOURS.length];
}

function cssVariable(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function count(value) {
  if (value >= 1e6) return (value / 1e6).toFixed(value >= 1e7 ? 0 : 1) + " M";
  if (value >= 1e4) return (value / 1e3).toFixed(value >= 1e5 ? 0 : 1) + " k";
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(value >= 10 ? 0 : 1);
}

function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return value.toFixed(value >= 10 || value === 0 ? 0 : 1) + " %";
}

function duration(ms) {
  if (ms >= 60000) return +(ms / 60000).toFixed(1) + " min";
  if (ms >= 1000) return +(ms / 1000).toFixed(1) + " s";
  if (ms >= 1) return +ms.toFixed(ms >= 100 ? 0 : 1) + " ms";
  return Math.round(ms * 1000) + " µs";
}

function clockTime(unixMs) {
  return new Date(unixMs).toLocaleTimeString("en-GB");
}

// Why requests were not good, by the token that clients get, too.
function whyWords(reason, node) {
  const there = node.gpu_count - node.gpus_quarantined;
  const needed = node.gpus_needed, gpus = `${there} GPU${there === 1 ? "" : "s"}`;
  switch (reason) {
    case "would_miss":
      if (needed != null && needed > there) return `more arrives than ${gpus} can serve: the load needs ${needed.toFixed(1)}`;
      if (needed != null && needed > there * 0.85) return `the load needs ${needed.toFixed(1)} of ${gpus}: nothing is left for its bursts`;
      return "deadlines could not be met: bursts, or deadlines close to the time of one batch";
    case "expired": return "deadlines passed while requests waited";
    case "late": return "answers left after the deadline: batches take longer than predicted";
    case "worker_failed": return "batches fail; see the events and the log";
    case "queue_full": return "its queue is full";
    case "no_gpu": return "no GPU that works holds it";
    case "not_ready": return "it is not loaded";
    case "draining": return "the node is shutting down";
    case "bad_input": return "clients send input that its schema refuses";
    case "too_large": return "clients send more than is allowed";
    case "rate_limited": return "clients send faster than they may";
    default: return reason || "";
  }
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
