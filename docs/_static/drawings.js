// Draws the page's Mermaid drawings in the colours of the scheme, again when the reader changes it.
addEventListener("DOMContentLoaded", () => {
  const drawings = [...document.querySelectorAll("pre.mermaid")].map((element) => [element, element.textContent]);
  let shown;
  const draw = async () => {
    const dark = document.documentElement.dataset.theme === "dark";
    if (dark === shown) return;
    shown = dark;
    mermaid.initialize({ startOnLoad: false, theme: dark ? "dark" : "neutral",
      themeVariables: dark ? { edgeLabelBackground: "#14181e" } : {}, flowchart: { useMaxWidth: false } });
    for (const [element, source] of drawings) {
      element.removeAttribute("data-processed");
      element.textContent = source;
    }
    await mermaid.run({ nodes: drawings.map(([element]) => element) });
    for (const [index, [element]] of drawings.entries()) {
      element.tabIndex = 0;
      element.setAttribute("role", "region");
      element.setAttribute("aria-label", `Drawing ${index + 1}`);
    }
  };
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  draw();
});
