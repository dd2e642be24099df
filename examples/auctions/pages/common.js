// What both pages show in the same way.

export const money = (cents) => (cents / 100).toLocaleString("en-US", { style: "currency", currency: "USD" });

export function left(seconds) {
  if (seconds <= 0) return "0:00";
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor(seconds / 3600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  const two = (n) => String(n).padStart(2, "0");
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours}:${two(minutes)}:${two(Math.floor(seconds % 60))}` : `${minutes}:${two(Math.floor(seconds % 60))}`;
}

export function showState(state) {
  const badge = document.getElementById("state");
  badge.textContent = state === "live" ? "live" : "reconnecting";
  badge.className = `state ${state}`;
}

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}
