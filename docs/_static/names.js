// Gives the theme's buttons the names that screen readers and voice control need, and long signatures valid lists.
addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll(".search-button-field")) {
    button.setAttribute("aria-label", button.innerText.replace(/\s+/g, " ").trim() || "Search");
  }
  for (const toggle of document.querySelectorAll(".bd-sidebar-primary summary")) {
    const link = toggle.closest("li")?.querySelector("a");
    if (link) toggle.setAttribute("aria-label", `Pages of ${link.textContent.trim()}`);
  }
  for (const list of document.querySelectorAll("dt.sig > dl")) {
    const lines = document.createElement("div");
    for (const item of [...list.children]) {
      const line = document.createElement("div");
      line.className = "sig-line";
      line.append(...item.childNodes);
      lines.append(line);
    }
    list.replaceWith(lines);
  }
});
