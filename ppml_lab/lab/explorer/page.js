"use strict";
// The page: its filter bar, charts and table. `filters.js` says what qualifies, and
// `charts.js` draws.

const byId = (id) => document.getElementById(id);
const about = JSON.parse(byId("about").textContent);
const { settings } = readView(byId("view").textContent, about);
const form = byId("filters");
const state = { chosen: {}, qualifying: [], picked: null, shown: about.page };
Object.assign(state, { turn: 0, drawing: Promise.resolve(), unbrushed: false });

// --- Words -----------------------------------------------------------------------

function short(number, digits = 4) {
  if (number == null) return "";
  if (!Number.isFinite(number)) return number > 0 ? "inf" : String(number);
  const text = String(Number(number.toPrecision(digits)));
  return text;
}

const megabytes = (bytes) => (bytes == null ? "" : short(bytes / 1e6, 3));
const plural = (count, word) =>
  `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function seedsOf(setting) {
  const count = setting.num_seeds;
  const said = count == null ? "number of seeds not said" : plural(count, "seed");
  const lost = setting.num_diverged;
  return lost ? `${said}, ${lost} of them diverged` : said;
}

function rangeOf(setting) {
  const { mean, std, values = [] } = setting;
  if (mean == null) return null;
  if (values.length > 1) {
    const ends = [Math.min(...values), Math.max(...values)];
    return { ends, text: `${short(ends[0])} to ${short(ends[1])}` };
  }
  if (!std) return { ends: [mean, mean], text: "" };
  return { ends: [mean - std, mean + std], text: `standard deviation ${short(std, 2)}` };
}

const labelsOf = (setting) =>
  Object.entries(setting.labels ?? {})
    .filter(([name, cell]) => cell != null && !about.elsewhere.includes(name))
    .map(([name, cell]) => `${name} ${typeof cell === "number" ? short(cell) : cell}`)
    .join(", ");

function promiseOf(setting) {
  if (!Number.isFinite(setting.epsilon)) return "nothing is promised";
  const delta =
    setting.delta == null ? "delta not said" : `delta ${Number(setting.delta).toExponential()}`;
  const how = setting.accountant ? ` (${setting.accountant})` : "";
  return `epsilon ${short(setting.epsilon)}, ${delta}${how}`;
}

const spaced = (word) => String(word ?? "not said").replaceAll("_", " ");

function againstOf(setting) {
  if (!Number.isFinite(setting.epsilon)) return "against nobody";
  const unit = `for one ${spaced(setting.privacy_unit)}`;
  const near = `neighbours ${spaced(setting.neighboring_relation)}`;
  const whom = `against ${spaced(setting.adversary)}, trust ${spaced(setting.trust)}`;
  return `${unit}, ${near}, ${whom}`;
}

function guarantee(setting) {
  const { privacy_unit, neighboring_relation, adversary, trust } = setting;
  const whom = [privacy_unit, neighboring_relation].map(spaced).join(", ");
  const rest = `against ${spaced(adversary)}, trust ${spaced(trust)}`;
  return `${whom}; ${rest}; ${promiseOf(setting).replace(/^[^,]*, /, "")}`;
}

const rowKind = (setting) => (setting.is_projected ? about.projected : "measured");

const titleOf = (setting) => `${setting.pattern ?? setting.experiment} (${labelsOf(setting)})`;

// --- Filters ---------------------------------------------------------------------

function readForm() {
  const chosen = {};
  for (const { name, kind } of about.filters) {
    const text = form.elements[name].value.trim();
    if (text === "") continue;
    if (kind === "is") chosen[name] = text;
    else if (Number.isFinite(Number(text))) chosen[name] = Number(text);
  }
  return chosen;
}

function fillForm(chosen) {
  for (const { name, kind } of about.filters) {
    const field = form.elements[name];
    const text = chosen[name] == null ? "" : String(chosen[name]);
    if (kind === "is" && ![...field.options].some((one) => one.value === text)) {
      field.add(new Option(`${text} (no setting)`, text));
    }
    field.value = text;
  }
}

function linkOf(chosen) {
  return `#filters=${encodeURIComponent(JSON.stringify(chosen))}`;
}

function linked() {
  // Returns the filters of the page's address; null where it has none.
  const found = /^#filters=(.*)$/.exec(location.hash);
  try {
    const chosen = found && JSON.parse(decodeURIComponent(found[1]));
    return chosen && typeof chosen === "object" ? chosen : null;
  } catch {
    return null;
  }
}

function choose(chosen) {
  fillForm(chosen);
  return update();
}

function update() {
  state.chosen = readForm();
  state.qualifying = qualifyingOf(settings, state.chosen, about);
  state.shown = about.page;
  try {
    history.replaceState(null, "", linkOf(state.chosen));
  } catch {
    // Some viewers of local files allow no change of the address.
  }
  byId("link").setAttribute("href", linkOf(state.chosen));
  state.unbrushed = true; // a brush belongs to the filters under which it was drawn
  return refresh(null);
}

function refresh(picked = pickedByBrush()) {
  // Shows what is chosen; charts are drawn one after another, and only for the latest.
  state.picked = picked;
  say();
  fillTable();
  state.turn += 1;
  const { turn } = state;
  state.drawing = state.drawing
    .then(() => (turn === state.turn ? drawCharts(state) : null))
    .catch(complain);
  return state.drawing;
}

function complain(error) {
  byId("count").textContent = `The page cannot show this: ${error}`;
  byId("selftest").textContent = JSON.stringify({ error: String(error.stack) });
}

function say() {
  const found = state.qualifying.length;
  const best = paretoOf(state.qualifying, about).size;
  let text = `${found.toLocaleString("en")} of ${plural(settings.length, "setting")} `;
  text += `${found === 1 ? "qualifies" : "qualify"}, ${best} Pareto-optimal.`;
  if (state.picked) {
    const both = state.qualifying.filter((one) => state.picked.has(one.place)).length;
    text += ` ${both.toLocaleString("en")} of them lie in the marked part of the charts.`;
  }
  byId("count").textContent = text;
  byId("unbrush").hidden = !state.picked;
  const none = byId("nearest");
  none.hidden = found > 0 || !settings.length;
  if (none.hidden) return;
  const near = nearestTo(settings, state.chosen, about);
  const broken = brokenBy(near, state.chosen, about);
  const each = Object.keys(broken).map((name) => {
    const { label } = about.filters.find((one) => one.name === name);
    const has = near.facts[name];
    const said = typeof has === "number" ? short(has) : has ?? "not said";
    return `${label} ${state.chosen[name]} (it: ${said})`;
  });
  none.textContent =
    `Nothing satisfies all filters. The nearest setting, ${titleOf(near)} on ` +
    `${near.facts.dataset}, does not qualify: it breaks ${plural(each.length, "filter")}: ` +
    `${each.join("; ")}. It is the row of the table below.`;
}

// --- Table -----------------------------------------------------------------------

const ORDERS = {
  best: () => 0,
  score: (a, b) => byScore(a, b),
  epsilon: (a, b) => byNumber(a.epsilon, b.epsilon) || byScore(a, b),
  upload_mb: (a, b) => byNumber(a.upload_bytes, b.upload_bytes) || byScore(a, b),
  wan_seconds: (a, b) => byNumber(a.wan_seconds, b.wan_seconds) || byScore(a, b),
};
const byNumber = (a, b) => {
  const [one, other] = [a ?? Infinity, b ?? Infinity];
  return one === other ? 0 : one - other;
};

function byScore(a, b) {
  const turned = about.higher[a.facts.metric] === false ? 1 : -1;
  const cost = (setting) => (setting.mean == null ? Infinity : turned * setting.mean);
  return byNumber(cost(a), cost(b));
}

function sorted(rows, best) {
  // Settings that cannot be compared stay apart: the largest group first.
  const sizes = new Map();
  for (const one of rows) {
    const key = alikeKey(one, about);
    sizes.set(key, (sizes.get(key) ?? 0) + 1);
  }
  const order = ORDERS[byId("order").value];
  return [...rows].sort((a, b) => {
    const [one, other] = [alikeKey(a, about), alikeKey(b, about)];
    if (one !== other) return sizes.get(other) - sizes.get(one) || (one < other ? -1 : 1);
    const first = best.has(b.place) - best.has(a.place);
    return order(a, b) || first || byScore(a, b) || a.place - b.place;
  });
}

function fillTable() {
  let rows = state.qualifying;
  if (state.picked) rows = rows.filter((one) => state.picked.has(one.place));
  const best = paretoOf(state.qualifying, about);
  const isNear = !state.qualifying.length && settings.length > 0;
  rows = isNear ? [nearestTo(settings, state.chosen, about)] : sorted(rows, best);
  const body = byId("table").tBodies[0];
  body.replaceChildren(
    ...rows.slice(0, state.shown).map((one) => line(one, best.has(one.place), isNear)),
  );
  const left = rows.length - state.shown;
  byId("more").textContent = left > 0 ? `and ${plural(left, "more setting")}` : "";
  byId("show-more").hidden = left <= 0;
}

function line(setting, isBest, isNear) {
  const row = document.createElement("tr");
  row.classList.toggle("best", isBest);
  row.classList.toggle("projected", Boolean(setting.is_projected));
  const metric = [setting.facts.metric, short(setting.mean)].filter(Boolean).join(" ");
  const range = rangeOf(setting)?.text;
  const bounds = (setting.attacks ?? []).map(([, bound]) => bound);
  const finite = Number.isFinite(setting.epsilon);
  const cells = {
    mark: isBest ? `${about.star} Pareto` : isNear ? "nearest, does not qualify" : "",
    pattern: setting.pattern ?? setting.experiment,
    setting: labelsOf(setting),
    dataset: setting.facts.dataset ?? "not said",
    model: setting.model ?? "not said",
    metric: [metric || "no metric", range && `(${range})`].filter(Boolean).join(" "),
    seeds: seedsOf(setting),
    epsilon: finite ? short(setting.epsilon) : "none promised",
    promise: finite ? guarantee(setting) : "nothing is promised",
    bound: bounds.length ? short(Math.max(...bounds)) : "",
    clients: short(setting.num_clients),
    dropouts: short(setting.dropout_prob),
    upload: megabytes(setting.upload_bytes),
    wan: short(setting.wan_seconds, 3),
    compute: short(setting.compute_seconds, 3),
    row: rowKind(setting),
    command: setting.command ?? "not said",
    commit: (setting.commit ?? "not said").slice(0, 10),
  };
  for (const { name, kind } of about.columns) {
    const cell = document.createElement(name === "pattern" ? "th" : "td");
    if (name === "pattern") cell.scope = "row";
    if (kind) cell.className = kind;
    if (kind === "code") {
      const code = document.createElement("code");
      code.textContent = cells[name];
      cell.append(code);
    } else cell.textContent = cells[name];
    row.append(cell);
  }
  return row;
}

// --- Beginning -------------------------------------------------------------------

async function selfTest(list) {
  // Sets filters as a reader would, and says what the page then shows.
  const found = [];
  for (const chosen of list) {
    await choose(chosen);
    const near = byId("nearest").hidden ? null : nearestTo(settings, state.chosen, about);
    state.shown = Infinity;
    fillTable();
    found.push({
      chosen: state.chosen,
      said: byId("count").textContent,
      qualifying: state.qualifying.map((one) => one.place),
      rows: byId("table").tBodies[0].rows.length,
      pareto: [...paretoOf(state.qualifying, about)].sort((a, b) => a - b),
      nearest: near && near.place,
      strong: strongMarks(),
    });
  }
  const resources = performance.getEntriesByType("resource").map((one) => one.name);
  byId("selftest").textContent = JSON.stringify({ found, resources });
}

async function begin() {
  for (const section of document.querySelectorAll(".live")) section.hidden = false;
  fillForm(linked() ?? about.chosen);
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () => choose({}));
  byId("unbrush").addEventListener("click", update);
  byId("order").addEventListener("change", fillTable);
  byId("cost").addEventListener("change", () => refresh());
  byId("show-more").addEventListener("click", () => {
    state.shown += about.page;
    fillTable();
  });
  window.addEventListener("hashchange", () => {
    const chosen = linked();
    if (chosen && linkOf(chosen) !== linkOf(state.chosen)) choose(chosen);
  });
  const asked = /^#selftest=(.*)$/.exec(location.hash);
  await update();
  document.documentElement.dataset.ready = "yes";
  if (asked) await selfTest(JSON.parse(decodeURIComponent(asked[1])));
}

// What other parts of the page, such as questions, may use.
window.explorer = { settings, about, state, choose };

document.addEventListener("DOMContentLoaded", () => begin().catch(complain));
