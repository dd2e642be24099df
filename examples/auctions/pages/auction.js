// One auction: its price as it is now, its history, its countdown, and a door for bids.
import { follow, send } from "/chappe.js";
import { element, left, money, showState } from "/common.js";

const auction = new URLSearchParams(location.search).get("id") ?? "";
const at = (id) => document.getElementById(id);
const bids = [];
let endsAt = null;
let opening = null;
let closed = false;
let refusals = null;
let drawing = false;

function hear({ type, body, at: time }) {
  if (type === "auction.opened") {
    at("item").textContent = document.title = body.item;
    endsAt = body.ends_at;
    opening = body.opening;
    if (!bids.length) at("price").textContent = money(body.opening);
    bids.unshift({ cents: body.opening, at: time, bidder: null });
  } else if (type === "bid.raised") {
    bids.push(body);
    at("price").textContent = money(body.cents);
    at("leader").textContent = `${body.bidder} leads`;
    at("count").textContent = `${body.bids} ${body.bids === 1 ? "bid" : "bids"}`;
    const row = element("tr");
    row.append(element("td", body.bidder), element("td", new Date(body.at * 1000).toLocaleTimeString()), element("td", money(body.cents), "number"));
    if (body.bidder === at("bidder").value) row.className = "mine";
    at("history").prepend(row);
    at("price").animate([{ color: "var(--accent)" }, { color: "inherit" }], 900);
  } else if (type === "auction.closed") {
    closed = true;
    at("leader").textContent = body.winner ? `Sold to ${body.winner}` : "Not sold";
    at("bid").disabled = true;
  } else if (type === "chappe.lost") {
    at("answer").textContent = "Older bids of this auction are kept no more.";
  }
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(draw);
  }
}

function draw() {
  drawing = false;
  const svg = at("chart");
  svg.replaceChildren();
  if (bids.length < 2) return;
  const [width, height, side, foot] = [720, 220, 96, 28];
  const first = bids[0].at;
  const last = Math.max(closed ? bids.at(-1).at : Date.now() / 1000, first + 1);
  const low = Math.min(...bids.map((bid) => bid.cents));
  const high = Math.max(...bids.map((bid) => bid.cents), low + 1);
  const x = (time) => side + ((time - first) / (last - first)) * (width - side - 8);
  const y = (cents) => height - foot - ((cents - low) / (high - low)) * (height - foot - 12);
  const add = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    svg.append(made);
  };
  for (const cents of [low, (low + high) / 2, high]) {
    add("line", { x1: side, x2: width - 8, y1: y(cents), y2: y(cents), class: "grid" });
    add("text", { x: side - 8, y: y(cents) + 4, "text-anchor": "end" }, money(Math.round(cents)));
  }
  let path = `M${x(bids[0].at)},${y(bids[0].cents)}`;
  for (const bid of bids.slice(1)) path += `H${x(bid.at)}V${y(bid.cents)}`;
  path += `H${x(last)}`;
  add("path", { d: `${path}V${height - foot}H${side}Z`, class: "area" });
  add("path", { d: path, class: "line" });
  for (const bid of bids.slice(1)) add("circle", { cx: x(bid.at), cy: y(bid.cents), r: 3 });
  add("text", { x: side, y: height - 6 }, new Date(first * 1000).toLocaleTimeString());
  add("text", { x: width - 8, y: height - 6, "text-anchor": "end" }, new Date(last * 1000).toLocaleTimeString());
}

function tick() {
  const seconds = endsAt === null ? null : endsAt - Date.now() / 1000;
  at("countdown").textContent = closed ? "Closed" : seconds === null ? "–" : left(seconds);
  at("countdown").classList.toggle("soon", !closed && seconds !== null && seconds < 30);
  if (closed) at("time-label").textContent = "Time";
}

function word(name) {
  return [...new TextEncoder().encode(name)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function listenForRefusals() {
  refusals?.close();
  const name = at("bidder").value;
  localStorage.setItem("bidder", name);
  if (!name) return;
  refusals = follow(`refused.${word(name)}`, {
    on: ({ body }) => {
      if (body.auction !== auction) return;
      at("answer").textContent = `Your bid of ${money(body.cents)} was not taken: ${body.reason}.`;
      at("answer").className = "answer refused";
    },
  });
}

at("bidder").value = localStorage.getItem("bidder") ?? "";
at("bidder").addEventListener("change", listenForRefusals);
at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("answer").className = "answer";
  at("answer").textContent = "Your bid is on its way…";
  const cents = Math.round(Number(at("amount").value) * 100);
  try {
    const answer = await send("raise.bid", { auction, bidder: at("bidder").value, cents }, { wait: 10 });
    if (!answer.ok) {
      at("answer").textContent = answer.errors?.map((error) => error.detail).join("; ") ?? answer.detail ?? answer.title;
      at("answer").className = "answer refused";
    } else if (answer.result?.outcome === "raised") {
      at("answer").textContent = `You lead with ${answer.result.price}.`;
      at("answer").className = "answer taken";
      at("amount").value = "";
    }
  } catch {
    at("answer").textContent = "The auction house cannot be reached. Try again.";
    at("answer").className = "answer refused";
  }
});

listenForRefusals();
follow(`auction.${auction}.*`, { since: 0, on: hear, onState: showState });
setInterval(tick, 250);
setInterval(() => !closed && draw(), 1000);
