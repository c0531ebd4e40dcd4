"use strict";
// The semantics of filters.py, which tests compare with these. `about` is what page.py
// says of them.

function readView(text, about) {
  const found = [];
  const number = (cell) => (cell === "inf" ? Infinity : cell);
  const view = JSON.parse(text);
  for (const table of view.tables) {
    for (const own of table.settings) {
      const setting = { ...table.common, ...own, place: found.length };
      setting.epsilon = number(setting.epsilon);
      setting.facts = factsOf(setting, about);
      found.push(setting);
    }
  }
  return { settings: found, notes: view.notes };
}

function factsOf(setting, about) {
  const text = (cell) => (cell == null ? null : String(cell));
  const number = (cell) => (typeof cell === "number" ? cell : null);
  const dropout = number(setting.dropout_prob);
  const trust = setting.trust ?? null;
  const server = trust === "central" ? "needed" : null;
  return {
    dataset: text(setting.dataset),
    metric: text(setting.metric),
    privacy_unit: text(setting.privacy_unit),
    neighboring_relation: text(setting.neighboring_relation),
    adversary: text(setting.adversary),
    server: about.no_server.includes(trust) ? "not needed" : server,
    dropouts: dropout === null ? null : dropout > 0 ? "some" : "none",
    epsilon: setting.epsilon,
    score: number(setting.mean),
    upload_mb: setting.upload_bytes == null ? null : setting.upload_bytes / 1e6,
    wan_seconds: number(setting.wan_seconds),
    clients: number(setting.num_clients),
  };
}

function brokenBy(setting, chosen, about) {
  const found = {};
  for (const { name, kind } of about.filters) {
    const wanted = chosen[name] ?? null;
    if (wanted === null) continue;
    const has = setting.facts[name];
    if (kind === "is") {
      if (has !== wanted) found[name] = Infinity;
      continue;
    }
    if (has === null) {
      found[name] = Infinity;
      continue;
    }
    const turned = name === "score" && about.higher[setting.facts.metric] === false;
    const least = kind === "at_least" && !turned;
    if (least ? has >= wanted : has <= wanted) continue;
    found[name] = Math.abs(has - wanted) / (Math.abs(wanted) || 1);
  }
  return found;
}

function qualifyingOf(settings, chosen, about) {
  return settings.filter((one) => !Object.keys(brokenBy(one, chosen, about)).length);
}

function nearestTo(settings, chosen, about) {
  let best = null;
  for (const setting of settings) {
    const excess = Object.values(brokenBy(setting, chosen, about));
    const rank = [excess.length, excess.reduce((a, b) => a + b, 0)];
    const isNearer =
      !best || rank[0] < best.rank[0] ||
      (rank[0] === best.rank[0] && rank[1] < best.rank[1]);
    if (isNearer) best = { setting, rank };
  }
  return best?.setting;
}

function alikeKey(setting, about) {
  return JSON.stringify(about.alike.map((name) => setting.facts[name]));
}

function paretoOf(among, about) {
  const alike = new Map();
  for (const setting of among) {
    const { metric, score, epsilon, upload_mb, wan_seconds } = setting.facts;
    const higher = about.higher[metric] ?? null;
    if (score === null || higher === null) continue;
    const cost = [higher ? -score : score, epsilon];
    cost.push(upload_mb ?? Infinity, wan_seconds ?? Infinity);
    const key = alikeKey(setting, about) + Boolean(setting.is_projected);
    if (!alike.has(key)) alike.set(key, []);
    alike.get(key).push({ place: setting.place, cost });
  }
  const found = new Set();
  for (const each of alike.values()) {
    for (const one of each) {
      const isBeaten = each.some(
        (other) =>
          other.cost.every((cell, i) => cell <= one.cost[i]) &&
          other.cost.some((cell, i) => cell < one.cost[i]),
      );
      if (!isBeaten) found.add(one.place);
    }
  }
  return found;
}
