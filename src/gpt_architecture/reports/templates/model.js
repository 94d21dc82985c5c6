"use strict";
const large = document.getElementById("large");
const chosen = document.getElementById("chosen");
const heads = [...document.querySelectorAll(".head")];
for (const head of heads) {
  head.addEventListener("click", () => {
    for (const each of heads) each.setAttribute("aria-pressed", String(each === head));
    large.replaceChildren(...[...head.firstElementChild.children].map((path) => path.cloneNode()));
    chosen.textContent = head.dataset.name;
  });
}
