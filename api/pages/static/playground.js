// The playground: what a visitor picked, sent with each change; the server keeps nothing of it.
import { drawMap } from "./playground-map.js";
import { fill, make, nameOf, showList } from "./playground-lists.js";

const N = 10;
const MAP_PLACES = 60;
const DEPTH = 50; // places of the list that are looked at for what climbed most
const WORDS = {
  ranking: {
    lead: "Be somebody new: pick a title or two, and the list changes. Nothing that you do here is stored.",
    like: "Like", dislike: "Not for me", picks: "Your picks", search: "Search titles",
    adapted: "For you", unadapted: "For everybody new", unit: "the log-odds of a title",
  },
  rating: {
    lead: "Be somebody new: say what you like and what not, and the ratings that are expected of you change. Nothing is stored.",
    like: "Like", dislike: "Not for me", picks: "Your ratings", search: "Search titles",
    adapted: "Your highest ratings", unadapted: "Of everybody new", unit: "the expected rating",
  },
  click: {
    lead: "Launch something new: say who clicked on it and who did not, and the chances of the next clicks change. Nothing is stored.",
    like: "Clicked", dislike: "Did not click", picks: "Shown so far", search: "Search whom it was shown to",
    adapted: "Most likely to click next", unadapted: "Before it was shown", unit: "the log-odds of a click",
  },
  choice: {
    lead: "Open a new town: go to a place or two, and see where you would go next. Nothing is stored.",
    like: "Go there", dislike: null, picks: "Your way", search: "Search places",
    adapted: "Where you go next", unadapted: "Before the first visit", unit: "the log-odds of a place",
  },
};

const at = (id) => document.getElementById(id);
const root = at("playground");
let model, words, picks = [], area = null, shown = null, turn = 0, searches = 0;

async function call(path, body) {
  const options = body && {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json", "x-csrf-token": document.querySelector("meta[name=csrf]").content },
  };
  const response = await fetch(root.dataset.root + path, { ...options, credentials: "same-origin" });
  if (response.redirected || response.status === 401) throw new Error("The login has ended; load the page again.");
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail ?? `The server answered ${response.status}.`);
  return answer;
}

function report(error) {
  const lost = error instanceof TypeError ? "The server cannot be reached." : error.message;
  at("error").textContent = error ? lost : "";
  at("error").hidden = !error;
}

async function attempt(work) {
  try {
    await work();
    at("error").hidden = true;
  } catch (error) {
    report(error);
  }
}

const named = () => encodeURIComponent(root.dataset.model);
const settings = (side) => Object.fromEntries(
  [...at("fields").querySelectorAll(`[data-side=${side}]`)].filter((one) => one.value !== "").map(
    (one) => [one.name, one.type === "number" ? Number(one.value) : one.value]));

function request(explain) {
  const context = settings("context");
  const events = picks.map(({ item, label, context: had }) => ({ item, ...(label !== null && { label }), ...(had && { context: had }) }));
  const body = { model: root.dataset.model, entity: { features: settings("features") }, events, explain, n: N };
  if (model.actors) body.moment = { context, actor: "you" };
  else if (model.context.length) body.moment = { context };
  if (area) body.candidates = area.places.map((place) => place.item);
  if (!explain) body.n = area ? MAP_PLACES : DEPTH;
  return body;
}

async function refresh(happened = "") {
  const mine = ++turn;
  showPicks();
  root.setAttribute("aria-busy", "true");
  await attempt(async () => {
    const both = await call("lists", request(false));
    if (mine !== turn) return;
    const before = shown;
    show(both);
    tell(happened, before, both);
    if (!picks.length) return;
    // Why takes an adaptation for each pick, so it comes after the list.
    const explained = await call("lists", request(true)).catch(() => null);
    if (explained && mine === turn) show({ ...both, adapted: merge(both.adapted, explained.adapted) });
  });
  if (mine === turn) root.setAttribute("aria-busy", "false");
}

const merge = (rows, explained) => rows.map((row, i) => ({ ...row, why: explained[i]?.item === row.item ? explained[i].why : undefined }));

function show(both) {
  shown = both;
  const most = Math.max(...[...both.adapted, ...both.unadapted].map((row) => row.value ?? 0), 1e-9);
  const options = { words, objective: model.objective, most, pick, picked: picks.length > 0 };
  showList(at("adapted"), both.adapted.slice(0, N), { ...options, isAdapted: true });
  showList(at("unadapted"), both.unadapted.slice(0, N), { ...options, isAdapted: false });
  showClimbers(both.adapted.slice(N));
  if (area?.places[0]?.lat !== undefined) drawMap(at("map"), area.places, both, picks, pick);
  at("adapted-note").textContent = picks.length
    ? `Adapted to ${picks.length} ${picks.length === 1 ? "pick" : "picks"} in ${both.ms} ms. ▲▼: places moved; small numbers: what each pick adds to ${words.unit}.`
    : "No pick yet, so both lists are one.";
}

// Behind the list things may move further than on it.
function showClimbers(rows) {
  const far = (one) => (one.other_rank ?? one.rank) / one.rank;
  const best = area || !picks.length ? [] : rows.filter((one) => far(one) > 1.5).sort((a, b) => far(b) - far(a)).slice(0, 3);
  fill(at("climbed"), best.length ? [make("b", {}, "Climbed most behind these: "),
    ...best.map((one) => make("span", {}, `${nameOf(one)} `, make("span", { class: "moved up" }, `${one.other_rank} → ${one.rank}`)))] : []);
}

function showPicks() {
  const chips = picks.map((one, index) => make("li", {}, make("button", {
    class: one.liked ? "chip" : "chip disliked", "aria-label": `Remove ${nameOf(one)}, ${one.liked ? words.like : words.dislike}`,
    onclick: () => remove(index),
  }, make("span", { class: "mark" }, one.liked ? "✓" : "✕"), ` ${nameOf(one)}`)));
  fill(at("picks"), chips);
  at("no-picks").hidden = picks.length > 0;
  if (!picks.length && ["undo", "restart"].includes(document.activeElement?.id)) at("search").focus({ preventScroll: true });
  at("undo").disabled = at("restart").disabled = !picks.length;
}

function tell(happened, before, both) {
  const old = new Set((before?.adapted ?? []).slice(0, N).map((one) => one.item));
  const fresh = both.adapted.slice(0, N).filter((one) => !old.has(one.item));
  const news = !before ? "" : fresh.length ? ` ${fresh.length} new on the list, first ${nameOf(fresh[0])}.` : " The list holds the same.";
  at("news").textContent = happened + (happened ? news : "");
}

function pick(one, liked = true) {
  const label = model.labels[liked ? "like" : "dislike"];
  const context = { ...settings("context"), ...(model.actors && { actor: "you" }) };
  const repeats = model.objective === "click" || model.objective === "choice";
  const rest = repeats ? picks : picks.filter((other) => other.item !== one.item);
  picks = [...rest, { item: one.item, title: one.title, label, liked, context: Object.keys(context).length ? context : null }];
  return refresh(`${nameOf(one)}: ${liked ? words.like : words.dislike}.`);
}

function remove(index) {
  const [gone] = picks.splice(index, 1);
  at("undo").focus();
  return refresh(`${nameOf(gone)} removed.`);
}

function picker(one) {
  return make("span", { class: "acts" },
    make("button", { "aria-label": `${words.like}: ${nameOf(one)}`, onclick: () => pick(one) }, words.like),
    words.dislike && make("button", { "aria-label": `${words.dislike}: ${nameOf(one)}`, onclick: () => pick(one, false) }, words.dislike));
}

const described = (one) => make("span", { class: "what" }, make("b", {}, nameOf(one)), one.about && make("small", {}, one.about));

async function search() {
  const text = at("search").value.trim(), mine = ++searches;
  if (!text && (model.groups.length || area)) return fill(at("matches"), []);
  await attempt(async () => {
    const items = area ? searchArea(text) : (await call(`items?model=${named()}&q=${encodeURIComponent(text)}&n=6`)).items;
    if (mine !== searches) return;
    fill(at("matches"), items.length
      ? items.map((one) => make("li", { "data-item": one.item, onclick: picked }, described(one), picker(one)))
      : [make("li", { class: "quiet" }, `Nothing is called “${text}”.`)]);
  });
}

// What was picked has left the search; who types goes on typing, and who taps sees the lists.
function picked(event) {
  if (!event.target.closest("button")) return;
  at("search").value = "";
  if (event.detail === 0) at("search").focus();
  search();
}

const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const searchArea = (text) => area.places.filter((one) => fold(nameOf(one)).includes(fold(text))).slice(0, 6);

function startersOf() {
  const groups = model.groups.map((group) => make("button", {
    class: "starter",
    onclick: () => {
      const known = new Set(picks.map((one) => one.item));
      const fresh = group.items.filter((one) => !known.has(one.item));
      picks = [...picks, ...fresh.map((one) => ({ ...one, label: model.labels.like, liked: true, context: model.objective === "click" ? settings("context") : null }))];
      refresh(`${group.name}: ${fresh.length} picked.`);
    },
  }, make("b", {}, group.name), make("small", {}, group.items.map(nameOf).join(", "))));
  return groups.length ? [make("p", { class: "quiet" }, "Or begin with a group:"), make("div", { class: "starters" }, ...groups)] : [];
}

function fieldsOf(side, fields) {
  return fields.map((field) => {
    const options = { name: field.name, "data-side": side, onchange: () => refresh(`${field.name} changed.`) };
    const input = field.values === null
      ? make("input", { ...options, type: "number", step: "any", placeholder: "unknown" })
      : make("select", options, make("option", { value: "" }, "any"), ...field.values.map((value) => make("option", { value }, value)));
    return make("label", {}, `${field.name} `, input);
  });
}

function areaChoice() {
  if (model.areas.length < 2) return [];
  const options = model.areas.map((one, index) => make("option", { value: index }, `around ${nameOf(one.centre)}`));
  const choose = (event) => {
    area = model.areas[event.target.value];
    picks = [];
    search();
    refresh("Another town.");
  };
  return [make("label", {}, "Town ", make("select", { id: "town", onchange: choose }, ...options))];
}

async function ask() {
  at("ask").disabled = true;
  await attempt(async () => {
    const { questions } = await call("questions", { model: root.dataset.model, entity: { features: settings("features") }, events: request(false).events });
    fill(at("questions"), questions.map((one) => {
      const row = make("li", { "data-item": one.item }, described(one),
        make("small", {}, ` ${percent(one.chance)} ${model.objective === "click" ? "would click" : "know it"} `), picker(one),
        make("button", { "aria-label": `Skip: ${nameOf(one)}`, onclick: () => next(row) }, "Skip"));
      row.querySelectorAll(".acts button").forEach((button) => button.addEventListener("click", () => next(row)));
      return row;
    }));
    at("questions").querySelector("button")?.focus();
  });
  at("ask").disabled = false;
}

function next(row) {
  const following = row.nextElementSibling ?? row.previousElementSibling;
  row.remove();
  (following?.querySelector("button") ?? at("ask")).focus();
}

const percent = (share) => share < 0.01 ? "under 1%" : `${Math.round(100 * share)}%`;

function wire() {
  let waiting;
  at("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 120);
  });
  at("undo").addEventListener("click", () => remove(picks.length - 1));
  at("restart").addEventListener("click", () => {
    picks = [];
    at("search").focus();
    refresh("Begun again.");
  });
  at("ask").addEventListener("click", ask);
  const choice = at("choose");
  choice?.querySelector("select").addEventListener("change", () => choice.requestSubmit());
}

async function begin() {
  if (!root) return;
  await attempt(async () => {
    model = await call(`model?model=${named()}`);
    words = WORDS[model.objective];
    area = model.areas[0] ?? null;
    at("lead").textContent = words.lead;
    at("picks-title").textContent = words.picks;
    at("search").previousSibling.textContent = `${words.search} `;
    at("adapted-title").textContent = words.adapted;
    at("unadapted-title").textContent = words.unadapted;
    fill(at("fields"), [...areaChoice(), ...fieldsOf("features", model.features), ...fieldsOf("context", model.context)]);
    fill(at("starters"), startersOf());
    at("asking").hidden = !model.can_ask;
    wire();
    root.hidden = false;
    await Promise.all([search(), refresh()]);
  });
}

begin();
