// Light or dark: as the system says, unless somebody chose.
import { signal } from "@preact/signals";

const KEY = "chappe.theme";
export const chosen = signal(localStorage.getItem(KEY) ?? "system");

export function theme(): void {
  chosen.subscribe((choice) => {
    localStorage.setItem(KEY, choice);
    if (choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    dispatchEvent(new Event("theme"));
  });
}
