// Places by their coordinates. Area of a disc: the share of the next visit; ring: the share before any visit.
import { nameOf } from "./playground-lists.js";

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 600, EDGE = 26, LARGEST = 22;

function draw(tag, attributes, text) {
  const node = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.append(draw("title", {}));
  if (text) node.firstChild.textContent = text;
  return node;
}

export function drawMap(svg, places, both, picks, pick) {
  const { height, point } = projection(places);
  const now = shares(both.adapted), before = shares(both.unadapted);
  const most = Math.max(...now.values(), ...before.values(), 1e-9);
  const radius = (share) => Math.max(2, LARGEST * Math.sqrt((share ?? 0) / most)).toFixed(1);
  const marks = places.map((one) => {
    const [x, y] = point(one);
    const text = `${nameOf(one)}: ${(100 * (now.get(one.item) ?? 0)).toFixed(1)}%`;
    const group = draw("g", { class: "place", "data-item": one.item }, text);
    group.append(draw("circle", { class: "ring", cx: x, cy: y, r: radius(before.get(one.item)) }),
      draw("circle", { class: "disc", cx: x, cy: y, r: radius(now.get(one.item)) }));
    group.addEventListener("click", () => pick(one));
    return group;
  });
  const at = new Map(places.map((one) => [one.item, point(one).join(",")]));
  const way = picks.map((one) => at.get(one.item)).filter((one) => one);
  const title = svg.querySelector("title");
  title.textContent = `Map of ${places.length} places: the larger a disc, the likelier the next visit. The lists below have the figures.`;
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
  svg.replaceChildren(title, draw("polyline", { class: "way", points: way.join(" ") }), ...marks,
    ...way.slice(-1).map((one) => draw("circle", { class: "here", cx: one.split(",")[0], cy: one.split(",")[1], r: 5 })));
  svg.hidden = false;
  svg.removeAttribute("hidden");
}

const shares = (rows) => new Map(rows.map((row) => [row.item, row.value]));

// Of a town the earth is flat; a degree of longitude is shorter than one of latitude.
function projection(places) {
  const lat = places.map((one) => one.lat), lon = places.map((one) => one.lon);
  const north = Math.max(...lat), south = Math.min(...lat), west = Math.min(...lon), east = Math.max(...lon);
  const narrow = Math.cos(((north + south) / 2) * Math.PI / 180);
  const scale = Math.min((WIDTH - 2 * EDGE) / Math.max((east - west) * narrow, 1e-6), 420 / Math.max(north - south, 1e-6));
  const left = (WIDTH - (east - west) * narrow * scale) / 2;
  const point = (one) => [(left + (one.lon - west) * narrow * scale).toFixed(1), (EDGE + (north - one.lat) * scale).toFixed(1)];
  return { height: Math.round(2 * EDGE + (north - south) * scale), point };
}
