"use strict";
const links = [...document.querySelectorAll(".tok")];
const mark = () => {
  for (const link of links) {
    if (link.hash === location.hash) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
};
const visible = () => links.filter((link) => document.querySelector(link.hash).offsetParent !== null);
addEventListener("hashchange", mark);
mark();
addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const scrolls = event.target.closest("input, .scroll");
  if (!step || scrolls || event.altKey || event.ctrlKey || event.metaKey) return;
  const shown = visible();
  const here = shown.findIndex((link) => link.hash === location.hash);
  const next = shown[here < 0 ? 0 : here + step];
  if (next) {
    event.preventDefault();
    location.hash = next.hash;
  }
});
document.getElementById("unexpected").addEventListener("change", (event) => {
  document.body.classList.toggle("only-unexpected", event.target.checked);
});
