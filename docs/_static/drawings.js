// Draws the page's Mermaid drawings in the colours of the scheme, again when the reader changes it.
addEventListener("DOMContentLoaded", () => {
  const drawings = [...document.querySelectorAll("pre.mermaid")].map((element) => [element, element.textContent]);
  let shown;
  const draw = async () => {
    const dark = document.documentElement.dataset.theme === "dark";
    if (dark === shown) return;
    shown = dark;
    mermaid.initialize({ startOnLoad: false, theme: dark ? "dark" : "neutral", flowchart: { useMaxWidth: false } });
    for (const [element, source] of drawings) {
      element.removeAttribute("data-processed");
      element.textContent = source;
    }
    await mermaid.run({ nodes: drawings.map(([element]) => element) });
    for (const [element] of drawings) {
      element.tabIndex = 0;
      element.setAttribute("role", "region");
      element.setAttribute("aria-label", "Drawing");
    }
  };
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  draw();
});
