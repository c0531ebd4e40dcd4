"use strict";
// Charts: which settings share one, their rows, and the brushes that link them.

const drawn = new Map(); // by key: { figures, charts: [{ view, brush, rows }], ... }
let frame = 0;

const promises = (setting) => Number.isFinite(setting.epsilon);
// A setting without a promise belongs to no unit, relation or adversary.
const IN_CHARTS = about.alike.filter((name) => !["dataset", "metric"].includes(name));
const PROMISE_FILTERS = [...IN_CHARTS, "server", "epsilon"];

function groupsOf(chosen) {
  // Returns the groups of settings that share axes: the one with the most that qualify
  // first. The words chosen leave groups out; limits make marks pale.
  const words = Object.fromEntries(about.alike.map((name) => [name, chosen[name]]));
  const groups = new Map();
  for (const setting of settings) {
    if (setting.mean == null || setting.facts.metric === null) continue;
    if (Object.keys(brokenBy(setting, words, about)).length) continue;
    const key = promises(setting)
      ? alikeKey(setting, about)
      : JSON.stringify([setting.facts.dataset, setting.facts.metric]);
    if (!groups.has(key)) groups.set(key, { key, rows: [], strong: 0 });
    const group = groups.get(key);
    group.rows.push(setting);
    group.strong += !Object.keys(brokenBy(setting, chosen, about)).length;
  }
  return [...groups.values()].sort(
    (a, b) => b.strong - a.strong || b.rows.length - a.rows.length,
  );
}

function besideOf(group) {
  // Returns the settings of the same data set and metric that promise nothing.
  const { dataset, metric } = group.rows[0].facts;
  const isOne = (one) =>
    !promises(one) && one.mean != null && one.facts.dataset === dataset &&
    one.facts.metric === metric;
  return settings.filter(isOne);
}

function rowOf(setting, field, unit, chosen, picked) {
  const value = setting[field];
  const ends = rangeOf(setting).ends;
  const asked = promises(setting)
    ? chosen
    : Object.fromEntries(
        Object.entries(chosen).filter(([name]) => !PROMISE_FILTERS.includes(name)),
      );
  const isIn = !Object.keys(brokenBy(setting, asked, about)).length;
  const [colour, shape] = about.looks[setting.pattern ?? "not said"];
  const metric = [setting.facts.metric, short(setting.mean)].join(" ");
  const range = rangeOf(setting).text;
  const costs = [
    setting.upload_bytes != null && `${megabytes(setting.upload_bytes)} MB upload`,
    setting.wan_seconds != null && `${short(setting.wan_seconds, 3)} wide-area s`,
    setting.compute_seconds != null && `${short(setting.compute_seconds, 3)} s computing`,
  ];
  return {
    place: setting.place,
    x: Number.isFinite(value) && value > 0 ? value / unit : null,
    mean: setting.mean,
    low_end: ends[0],
    high_end: ends[1],
    promises: promises(setting),
    projected: Boolean(setting.is_projected),
    strong: isIn && (!picked || picked.has(setting.place)),
    colour,
    shape,
    pattern: [setting.pattern ?? "not said", setting.model].filter(Boolean).join(", "),
    labels: labelsOf(setting),
    score: `${metric}${range && `, ${range}`}, ${seedsOf(setting)}`,
    promise: promiseOf(setting),
    against: againstOf(setting),
    costs: costs.filter(Boolean).join(", ") || "not said",
    told: rowKind(setting),
  };
}

async function drawCharts({ chosen, picked, unbrushed }) {
  if (unbrushed) clearBrushes();
  state.unbrushed = false;
  const groups = groupsOf(chosen);
  const shown = groups.slice(0, about.groups);
  const rest = groups.slice(about.groups);
  const axis = about.costs.find((one) => one.field === byId("cost").value);
  const keys = shown.map((group) => group.key + axis.field);
  for (const [key, one] of drawn) {
    if (keys.includes(key)) continue;
    one.charts.forEach((chart) => chart.view.finalize());
    one.element.remove();
    drawn.delete(key);
  }
  const patterns = new Set();
  let projected = false;
  for (const [i, group] of shown.entries()) {
    const key = keys[i];
    if (!drawn.has(key)) drawn.set(key, await newGroup(group, axis));
    const one = drawn.get(key);
    byId("charts").append(one.element);
    const beside = promises(group.rows[0]) ? besideOf(group) : [];
    const all = [...group.rows, ...beside];
    const ends = all.flatMap((setting) => rangeOf(setting).ends);
    const [least, most] = [Math.min(...ends), Math.max(...ends)];
    const pad = (most - least || Math.abs(most) || 1) * 0.06;
    for (const setting of all) {
      patterns.add(setting.pattern ?? "not said");
      projected ||= Boolean(setting.is_projected);
    }
    for (const chart of one.charts) {
      const { field, unit } = chart.axis;
      const use = field === "epsilon" ? all : group.rows;
      chart.rows = use.map((setting) => rowOf(setting, field, unit, chosen, picked));
      if (beside.length <= about.across) {
        for (const row of chart.rows) row.across = !row.promises && field === "epsilon";
      }
      chart.view.signal("low", least - pad).signal("high", most + pad);
      const [left, right] = spanOf(chart.rows);
      chart.view.signal("left", left).signal("right", right);
      chart.view.signal("size", chart.rows.length > about.many ? 24 : 70);
      await chart.view.data(about.rows, chart.rows).runAsync();
      describe(chart, group);
    }
  }
  legend(byId("legend"), [...patterns], about.looks, projected);
  const count = rest.reduce((sum, group) => sum + group.rows.length, 0);
  const none = "No setting of this choice has a metric to draw.";
  const more =
    `${plural(rest.length, "more group")} of settings (${plural(count, "setting")}), which ` +
    "cannot share these axes, are in the table alone: choose a data set or a unit to see them.";
  byId("left-out").textContent = !groups.length ? none : rest.length ? more : "";
  await drawBounds(chosen, picked);
}

function spanOf(rows) {
  // Returns the ends of a log axis: at least a factor of four apart, so that a few
  // per cent do not look large.
  const there = rows.map((row) => row.x).filter((x) => x !== null);
  if (!there.length) return [1, 10];
  const [least, most] = [Math.min(...there), Math.max(...there)];
  const half = Math.max(Math.sqrt(most / least) * 1.12, 2);
  const middle = Math.sqrt(most * least);
  return [middle / half, middle * half];
}

function describe(chart, group) {
  const there = chart.rows.filter((row) => row.x !== null);
  const strong = there.filter((row) => row.strong).length;
  const beside = chart.rows.filter((row) => !row.promises).length;
  const means = chart.rows.map((row) => row.mean);
  const isEpsilon = chart.axis.field === "epsilon";
  const parts = [plural(there.length, "setting")];
  if (isEpsilon && beside) parts.push(`${beside} without a promise beside them`);
  if (!isEpsilon && chart.rows.length > there.length) {
    parts.push(`${chart.rows.length - there.length} say nothing, or 0, and are in the table alone`);
  }
  chart.caption.textContent = `${chart.title}: ${parts.join("; ")}.`;
  chart.element.setAttribute(
    "aria-label",
    `${chart.title}. ${parts.join("; ")}. ${plural(strong, "mark")} qualify. Metric from ` +
      `${short(Math.min(...means))} to ${short(Math.max(...means))}. The table below has ` +
      "every value.",
  );
}

function titlesOf(group) {
  const { facts } = group.rows[0];
  const data = `${facts.dataset ?? "data set not said"}, ${facts.metric}`;
  if (!promises(group.rows[0])) return `${data}: nothing is promised`;
  const unit = `one ${spaced(facts.privacy_unit)}`;
  const near = spaced(facts.neighboring_relation);
  return `${data}: epsilon for ${unit}, neighbours ${near}, against ${facts.adversary}`;
}

async function newGroup(group, cost) {
  const element = document.createElement("section");
  const heading = document.createElement("h3");
  const pair = document.createElement("div");
  heading.textContent = titlesOf(group);
  pair.className = "pair";
  element.append(heading, pair);
  byId("charts").append(element);
  const axes = promises(group.rows[0]) ? [about.epsilon, cost] : [cost];
  const charts = [];
  for (const axis of axes) {
    const title = `${group.rows[0].facts.metric} against ${axis.title}`;
    charts.push(await newChart(pair, about.specs[axis.field], title, { axis, brush: null }));
  }
  for (const chart of charts) {
    chart.view.addSignalListener("brush", (name, value) => {
      const isWide = (ends) => Boolean(ends) && ends[0] !== ends[1]; // a click is not
      chart.brush = isWide(value?.x) && isWide(value.mean) ? value : null;
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => refresh());
    });
  }
  return { element, charts };
}

async function newChart(parent, spec, title, more) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const element = document.createElement("div");
  element.className = "chart";
  element.setAttribute("role", "img");
  figure.append(caption, element);
  parent.append(figure);
  const options = { actions: false, renderer: "svg", mode: "vega-lite" };
  const { view } = await vegaEmbed(element, spec, options);
  return { view, element, caption, title, rows: [], ...more };
}

// --- Brushes ---------------------------------------------------------------------

function inside(row, brush) {
  const within = (cell, ends) => cell >= Math.min(...ends) && cell <= Math.max(...ends);
  return row.promises !== false && row.x !== null && within(row.x, brush.x) &&
    within(row.mean, brush.mean);
}

function pickedByBrush() {
  // Returns the places in all brushes of a group; null where there is no brush.
  let picked = null;
  for (const { charts } of drawn.values()) {
    const active = charts.filter((chart) => chart.brush);
    if (!active.length) continue;
    const sets = active.map(
      (chart) =>
        new Set(chart.rows.filter((row) => inside(row, chart.brush)).map((row) => row.place)),
    );
    const both = [...sets[0]].filter((place) => sets.every((one) => one.has(place)));
    picked = new Set([...(picked ?? []), ...both]);
  }
  return picked;
}

function clearBrushes() {
  // Charts with a brush are drawn anew, without it.
  for (const [key, one] of drawn) {
    if (!one.charts.some((chart) => chart.brush)) continue;
    one.charts.forEach((chart) => chart.view.finalize());
    one.element.remove();
    drawn.delete(key);
  }
}

// --- Bounds ----------------------------------------------------------------------

const boundCharts = new Map();

async function drawBounds(chosen, picked) {
  const groups = new Map();
  const kinds = new Set();
  for (const setting of settings) {
    if (!setting.attacks?.length || !promises(setting)) continue;
    const key = alikeKey(setting, about);
    if (!groups.has(key)) groups.set(key, []);
    const largest = Math.max(...setting.attacks.map(([, bound]) => bound));
    const isIn = !Object.keys(brokenBy(setting, chosen, about)).length;
    for (const [attack, bound] of setting.attacks) {
      const kind = attack.split(",")[0];
      kinds.add(kind);
      const [colour, shape] = about.attack_looks[kind];
      const strong = isIn && (!picked || picked.has(setting.place));
      groups.get(key).push({
        setting, attack, bound, colour, shape, strong,
        epsilon: setting.epsilon,
        largest: bound === largest,
        labels: titleOf(setting),
        against: againstOf(setting),
      });
    }
  }
  for (const [key, rows] of groups) {
    if (!boundCharts.has(key)) {
      const { setting } = rows[0];
      const { facts } = setting;
      const unit = `one ${spaced(facts.privacy_unit)}`;
      const title = `${facts.dataset}: ${unit}, ${spaced(facts.neighboring_relation)}, ` +
        `against ${facts.adversary}`;
      boundCharts.set(key, await newChart(byId("bounds"), about.bounds, title, {}));
    }
    const chart = boundCharts.get(key);
    const high = 1.08 * Math.max(...rows.flatMap((row) => [row.epsilon, row.bound]));
    const plain = rows.map(({ setting, ...row }) => row);
    await chart.view.signal("high", high).data(about.rows, plain).runAsync();
    const count = new Set(rows.map((row) => row.setting.place)).size;
    const over = rows.filter((row) => row.bound > row.epsilon).length;
    const text = `${chart.title}: ${plural(rows.length, "attack")} on ` +
      `${plural(count, "setting")}, ${over} above the promise.`;
    chart.caption.textContent = text;
    chart.element.setAttribute("aria-label", `Lower bounds against the promise. ${text}`);
  }
  if (!groups.size) byId("bounds").textContent = "No setting of this page was attacked.";
  legend(byId("bounds-legend"), [...kinds], about.attack_looks, false);
}

// --- Legends ---------------------------------------------------------------------

function legend(list, names, looks, projected) {
  const items = names.map((name) => legendItem(name, ...looks[name], false));
  if (projected) items.push(legendItem("projected, not run", "#444", about.looks_of_projected, true));
  list.replaceChildren(...items);
}

function legendItem(name, colour, shape, hollow) {
  const space = "http://www.w3.org/2000/svg";
  const item = document.createElement("li");
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  svg.setAttribute("viewBox", "-1.3 -1.3 2.6 2.6");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", shape);
  path.setAttribute("fill", hollow ? "none" : colour);
  path.setAttribute("stroke", colour);
  path.setAttribute("stroke-width", "0.25");
  if (hollow) path.setAttribute("stroke-dasharray", "0.5 0.3");
  svg.append(path);
  item.append(svg, name);
  return item;
}

function strongMarks() {
  // Places of the settings whose marks in charts are not pale, for the self-test.
  const rows = [...drawn.values()].flatMap((one) => one.charts.flatMap((chart) => chart.rows));
  const strong = rows.filter((row) => row.strong && row.x !== null);
  return [...new Set(strong.map((row) => row.place))].sort((a, b) => a - b);
}
