"use strict";
// Comfort only: everything on the page can be read without it. It never makes markup out of text.
(() => {
  const make = (name, text, parent) => {
    const made = document.createElement(name);
    made.textContent = text;
    parent.append(made);
    return made;
  };

  // A link into something folded unfolds it; browsers differ in how far they do so by themselves.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.localName === "details") at.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();

  // Commands can be copied. One listener for all of them: there may be ten thousand.
  const copy = async (pre, button) => {
    getSelection().selectAllChildren(pre.querySelector("code"));
    try {
      await navigator.clipboard.writeText(pre.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected; press Ctrl+C";
    }
  };
  const offer = (root) => {
    for (const pre of root.querySelectorAll("pre:not([data-copy])")) {
      pre.dataset.copy = "";
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.addEventListener("click", () => copy(pre, button));
      pre.before(button);
    }
  };
  offer(document.getElementById("byhand"));
  document.addEventListener("toggle", (event) => event.target.open && offer(event.target), true);

  // A filter over the releases.
  const section = document.getElementById("releases");
  const rows = [...section.querySelectorAll(".releases > li")];
  const tools = document.createElement("div");
  tools.className = "tools";
  tools.setAttribute("role", "search");
  section.querySelector("p").after(tools);
  const label = make("label", "Only releases with ", tools);
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "a name, a date, “refused”, …";
  label.append(field);
  const count = make("output", "", tools);
  const filter = () => {
    const wanted = field.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const hit = !wanted || row.firstChild.firstChild.textContent.toLowerCase().includes(wanted);
      row.classList.toggle("hidden", !hit);
      if (hit) shown += 1;
    }
    for (const chunk of section.querySelectorAll("details.chunk:has(> .releases)")) {
      const some = chunk.querySelector(".releases > li:not(.hidden)") !== null;
      chunk.classList.toggle("hidden", !some);
      if (wanted && some && shown <= 500) chunk.open = true;
    }
    count.textContent = wanted ? `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "";
  };
  let later = 0;
  field.addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(filter, 150);
  });
  const folds = make("button", "Unfold all shown", tools);
  folds.type = "button";
  folds.addEventListener("click", () => {
    const all = [...section.querySelectorAll(".releases > li > details")].filter((each) => each.checkVisibility());
    const open = !all.some((each) => each.open);
    for (const each of all) each.open = open;
    folds.textContent = open ? "Fold all" : "Unfold all shown";
  });
})();
