// All auctions, each with its price as it is now.
import { follow } from "/chappe.js";
import { element, left, money, showState } from "/common.js";

const lots = new Map();
let bids = 0;

function lot(auction) {
  if (!lots.has(auction)) {
    const card = element("a", "", "card lot");
    card.href = `/auction.html?id=${auction}`;
    card.dataset.auction = auction;
    const item = element("h2", `Auction ${auction}`);
    const price = element("p", "–", "price");
    const leader = element("p", "No bids yet", "leader");
    const time = element("p", "", "time");
    card.append(item, price, leader, time);
    document.getElementById("lots").append(card);
    lots.set(auction, { card, item, price, leader, time, endsAt: null, closed: false });
  }
  return lots.get(auction);
}

function hear({ type, body }) {
  if (type === "chappe.lost") return;
  const shown = lot(body.auction);
  if (type === "auction.opened") {
    shown.item.textContent = body.item;
    shown.endsAt = body.ends_at;
    shown.price.textContent = money(body.opening);
  } else if (type === "bid.raised") {
    bids += 1;
    shown.price.textContent = money(body.cents);
    shown.leader.textContent = `${body.bidder} · ${body.bids} ${body.bids === 1 ? "bid" : "bids"}`;
    shown.card.classList.remove("raised");
    void shown.card.offsetWidth; // so that the animation begins again
    shown.card.classList.add("raised");
  } else if (type === "auction.closed") {
    shown.closed = true;
    shown.card.classList.add("closed");
    shown.leader.textContent = body.winner ? `Sold to ${body.winner}` : "Not sold";
  }
}

function tick() {
  const now = Date.now() / 1000;
  for (const shown of lots.values()) {
    shown.time.textContent = shown.closed ? "Closed" : shown.endsAt === null ? "" : `${left(shown.endsAt - now)} left`;
  }
  const open = [...lots.values()].filter((shown) => !shown.closed).length;
  if (lots.size) document.getElementById("summary").textContent = `${open} open, ${lots.size - open} closed, ${bids} ${bids === 1 ? "bid" : "bids"}`;
}

follow("auction.#", { since: 0, on: hear, onState: showState });
setInterval(tick, 250);
