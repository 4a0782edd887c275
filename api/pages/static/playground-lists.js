// Rows of the two lists, and how they glide to their new places.

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child));
  return node;
}

export const fill = (node, children) => node.replaceChildren(...children);

export const nameOf = (one) => one.title ?? one.item;

export function showList(list, rows, options) {
  const before = new Map([...list.children].map((row) => [row.dataset.item, row.getBoundingClientRect().top]));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  fill(list, rows.length ? rows.map((row) => rowOf(row, options)) : [make("li", { class: "quiet empty" }, "Nothing is left to list.")]);
  if (focused) keepFocus(list, focused);
  if (before.size && !matchMedia("(prefers-reduced-motion: reduce)").matches) glide(list, before);
}

// The rows are made anew: whoever stood on a button stands on the same one, or at the top where its row is gone.
function keepFocus(list, focused) {
  const same = [...list.querySelectorAll("button")].find((one) => one.ariaLabel === focused.ariaLabel);
  (same ?? list.querySelector("button"))?.focus({ preventScroll: true });
}

function glide(list, before) {
  for (const row of list.children) {
    const old = before.get(row.dataset.item);
    const from = old === undefined ? { opacity: 0 } : { transform: `translateY(${old - row.getBoundingClientRect().top}px)` };
    row.animate([from, old === undefined ? { opacity: 1 } : { transform: "none" }], { duration: 280, easing: "ease-out" });
  }
}

function rowOf(row, { words, objective, most, pick, picked, isAdapted }) {
  const act = (word, liked) => word && make("button", { "aria-label": `${word}: ${nameOf(row)}`, title: word, onclick: () => pick(row, liked) }, liked ? "✓" : "✕");
  return make("li", { "data-item": row.item },
    make("span", { class: "rank" }, `${row.rank}`),
    make("span", { class: "what" }, make("b", {}, nameOf(row)), row.about && make("small", {}, row.about)),
    picked && movedOf(row, isAdapted),
    row.value !== null && valueOf(row.value, most, objective),
    isAdapted && make("span", { class: "acts" }, act(words.like, true), act(words.dislike, false)),
    isAdapted && picked && make("span", { class: "why" }, ...whyOf(row)));
}

function movedOf(row, isAdapted) {
  if (row.other_rank === null) return make("span", { class: "moved" }, "new");
  const up = isAdapted ? row.other_rank - row.rank : row.rank - row.other_rank;
  if (!up) return make("span", { class: "moved", title: "in the same place" }, "=");
  const text = isAdapted ? `${up > 0 ? "▲" : "▼"} ${Math.abs(up)}` : `now ${row.other_rank}`;
  const title = isAdapted ? `from place ${row.other_rank}` : `with your picks at place ${row.other_rank}`;
  return make("span", { class: `moved ${up > 0 ? "up" : "down"}`, title }, text);
}

function valueOf(value, most, objective) {
  const text = objective === "rating" ? value.toFixed(2) : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;
  const bar = make("span", { class: "bar" });
  bar.style.setProperty("--share", Math.max(0, value) / most);
  return make("span", { class: "value" }, bar, text);
}

function whyOf(row) {
  const sums = new Map();
  for (const one of row.why ?? []) sums.set(nameOf(one), (sums.get(nameOf(one)) ?? 0) + one.moved);
  return [...sums].filter(([, moved]) => Math.abs(moved) >= 0.005).slice(0, 3).map(([name, moved]) =>
    make("span", { class: moved > 0 ? "up" : "down" }, `${moved > 0 ? "+" : "−"}${Math.abs(moved).toFixed(2)} ${name}`));
}
