// Draws the charts of a page from the JSON in `data-chart`, and keeps those of a run up to date that is under way.
"use strict";
(() => {
  const HEIGHT = 260, POLL_MS = 2000;
  const plots = new Map();
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const seriesColor = (place) => color(`--series-${(place % 8) + 1}`);
  const faint = (text) => `color-mix(in srgb, ${text} 18%, transparent)`;

  function axisText(value) {
    if (value === null) return "";
    const size = Math.abs(value);
    if (size >= 10000) return value.toLocaleString("en", { notation: "compact" });
    return String(Number(value.toPrecision(4)));
  }

  function axis(label, extra) {
    const line = { stroke: color("--line"), width: 1 };
    return { label, stroke: color("--quiet"), grid: line, ticks: line, font: "12px system-ui", labelFont: "12px system-ui", ...extra };
  }

  // Columns of the plot, its series, and the bands between the ends of intervals.
  function columns(chart) {
    const even = chart.even, x = even ? chart.x.map((_, place) => place) : chart.x;
    const data = [x], series = [{ label: chart.xLabel, value: (_, v) => (v === null ? "" : even ? String(chart.x[v]) : axisText(v)) }], bands = [];
    const bars = chart.kind === "bar", many = chart.series.length;
    chart.series.forEach((one, place) => {
      const stroke = seriesColor(place);
      const paths = bars ? uPlot.paths.bars({ size: [many > 1 ? 0.35 : 0.6, 60], align: many > 1 ? (place ? 1 : -1) : 0 }) : undefined;
      series.push({
        label: one.label, stroke, paths, width: bars ? 0 : one.main ? 3 : 1.5, fill: bars ? stroke : undefined, spanGaps: true,
        points: { show: !bars && x.length < 40 }, value: (_, v) => (v === null ? "–" : axisText(v)),
      });
      data.push(one.values);
      // Bands of many lines hide each other: the table has every interval.
      if (!bars && one.low.length && (one.main || many < 3)) {
        for (const end of [one.high, one.low]) {
          series.push({ label: "", class: "interval", stroke: "transparent", points: { show: false }, spanGaps: true });
          data.push(end);
        }
        bands.push({ series: [data.length - 2, data.length - 1], fill: faint(stroke) });
      }
    });
    return { data, series, bands };
  }

  function options(chart, width, parts) {
    const even = chart.even, half = chart.kind === "bar" ? 0.6 : 0.15;
    const places = { splits: () => chart.x.map((_, place) => place), values: (u, marks) => marks.map((m) => String(chart.x[m])) };
    return {
      width, height: HEIGHT, series: parts.series, bands: parts.bands,
      cursor: { drag: { x: false, y: false } },
      scales: {
        x: { time: false, range: even ? () => [-half, chart.x.length - 1 + half] : undefined },
        y: chart.kind === "bar" ? { range: (u, low, high) => [Math.min(0, low * 1.1), Math.max(0, high * 1.1) || 1] } : {},
      },
      axes: [axis(chart.xLabel, even ? places : { values: (u, marks) => marks.map(axisText) }), axis(chart.yLabel, { size: 64, values: (u, marks) => marks.map(axisText) })],
    };
  }

  function draw(element, chart) {
    plots.get(element)?.plot.destroy();
    const parts = columns(chart);
    const plot = new uPlot(options(chart, Math.max(200, element.clientWidth), parts), parts.data, element);
    plots.set(element, { plot, chart });
    element.dataset.drawn = String(chart.x.length);
  }

  function redraw() {
    for (const [element, { chart }] of plots) draw(element, chart);
  }

  async function follow(element) {
    try {
      const response = await fetch(element.dataset.live, { headers: { accept: "application/json" } });
      if (response.status >= 400 && response.status < 500 && response.status !== 429) return;
      if (response.ok) {
        const state = await response.json();
        for (const [name, chart] of Object.entries(state.charts)) {
          const place = document.getElementById(name);
          if (place) draw(place, chart);
        }
        for (const [name, text] of Object.entries(state.texts)) {
          const place = document.getElementById(name);
          if (place && place.textContent !== text) place.textContent = text;
        }
        if (state.done) return;
      }
    } catch { /* the server is away: it is asked again */ }
    setTimeout(() => follow(element), POLL_MS);
  }

  document.addEventListener("DOMContentLoaded", () => {
    const resize = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const one = plots.get(target);
        if (one && target.clientWidth && one.plot.width !== target.clientWidth) one.plot.setSize({ width: target.clientWidth, height: HEIGHT });
      }
    });
    for (const element of document.querySelectorAll("[data-chart]")) {
      draw(element, JSON.parse(element.dataset.chart));
      resize.observe(element);
    }
    for (const element of document.querySelectorAll("[data-live]")) setTimeout(() => follow(element), POLL_MS);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  });
  window.recsysCharts = { draw };
})();
