"use strict";
// Which leaves fit the answers: `advice.leaf` and `advice.advise` again, for the page.

const leafData = JSON.parse(document.getElementById("asked-about").textContent);

const holds = (wanted, chosen) =>
  Object.entries(wanted).every(([name, accepted]) => accepted.includes(chosen[name]));

function objects(leaf, chosen, participants) {
  for (const [name, accepted] of Object.entries(leaf.needs)) {
    if (name in chosen && !accepted.includes(chosen[name])) return true;
  }
  if (leaf.ruled_out.some((one) => holds(one.answers, chosen))) return true;
  const isTold = (name) => name in chosen || (name === "participants" && participants != null);
  const isOpen = Object.keys(leaf.reasons).some((name) => !isTold(name));
  if (leaf.role !== "pattern" && isOpen) return true;
  if (participants == null) return false;
  return participants < leaf.least || (leaf.most != null && participants > leaf.most);
}

function fitsOf(chosen, participants) {
  const isTold = (name) => name in chosen || (name === "participants" && participants != null);
  const found = leafData.leaves
    .filter((leaf) => !objects(leaf, chosen, participants))
    .map((leaf) => {
      const reasons = Object.entries(leaf.reasons).filter(([name]) => isTold(name));
      const cautions = leaf.cautions.filter((one) => holds(one.answers, chosen));
      return {
        leaf,
        reasons: reasons.map(([, why]) => why),
        cautions: cautions.map((one) => one.why),
        score: reasons.length - 2 * cautions.length,
      };
    });
  const rank = ({ leaf, score }) => [
    leafData.roles.indexOf(leaf.role),
    Number(leaf.is_floor),
    -score,
    -Object.keys(leaf.needs).length,
    leaf.name,
  ];
  return found.sort((one, other) => {
    const [mine, theirs] = [rank(one), rank(other)];
    const at = mine.findIndex((value, i) => value !== theirs[i]);
    return at < 0 ? 0 : mine[at] < theirs[at] ? -1 : 1;
  });
}

function conflictOf(chosen) {
  return leafData.conflicts.find(({ one, other }) =>
    [one, other].every(([name, answer]) => chosen[name] === answer),
  );
}

function element(name, text, within) {
  const made = document.createElement(name);
  made.textContent = text;
  within?.append(made);
  return made;
}

function showLeaf({ leaf, reasons, cautions }) {
  const item = element("li", "");
  const role = leaf.role === "pattern" ? "" : ` (${leaf.role})`;
  element("h3", leaf.title + role, item);
  const told = [
    ["For it", reasons],
    ["Against it", cautions],
    ["What it is", [leaf.what]],
    ["Against whom", [leaf.against]],
    ["Measured", leaf.measured],
    ["It takes", [leaf.roles]],
    ["Not protected", [leaf.not_protected]],
    ["Attack", [leaf.attack]],
    ["In production", [leaf.production]],
  ];
  for (const [name, texts] of told) {
    for (const text of texts) {
      const line = element("p", "", item);
      element("strong", `${name}: `, line);
      line.append(text);
    }
  }
  for (const command of leaf.commands) {
    const line = element("p", "", item);
    element("strong", "Next: ", line);
    element("code", command, line);
  }
  return item;
}

function readAnswers(fields) {
  const chosen = {};
  let participants = null;
  for (const { name, value } of fields) {
    if (value === "") continue;
    if (name !== "participants") chosen[name] = value;
    else if (Number(value) >= 1) participants = Number(value);
  }
  return { chosen, participants };
}

function answer() {
  const { chosen, participants } = readAnswers(document.getElementById("asked").elements);
  const said = document.getElementById("asked-said");
  const list = document.getElementById("asked-leaves");
  list.replaceChildren();
  const conflict = conflictOf(chosen);
  if (conflict) {
    const pair = [conflict.one, conflict.other].map((one) => one.join(" "));
    said.textContent = `${pair.join(" and ")} contradict each other: ${conflict.why}.`;
    return;
  }
  const found = fitsOf(chosen, participants);
  const patterns = found.filter(({ leaf }) => leaf.role === "pattern").length;
  const notes = leafData.notes.filter((one) =>
    Object.entries(one.answers).every(([name, value]) => chosen[name] === value),
  );
  said.textContent = [
    patterns ? `${patterns} patterns fit, best first.` : "No pattern here meets all answers.",
    ...notes.map((one) => one.note),
  ].join(" ");
  list.append(...found.map(showLeaf));
}

document.getElementById("asked").addEventListener("input", answer);
document.getElementById("asked").addEventListener("submit", (event) => event.preventDefault());
answer();
