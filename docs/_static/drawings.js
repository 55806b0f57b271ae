// Draws the page's Mermaid drawings in the colors of the scheme, again when the reader changes it.
const LIGHT = {
  primaryColor: "#eaf1f9", primaryTextColor: "#1c2733", primaryBorderColor: "#1f5fa8", lineColor: "#53606d",
  textColor: "#1c2733", edgeLabelBackground: "#ffffff",
};
const DARK = {
  darkMode: true, background: "#14181e", primaryColor: "#22303f", primaryTextColor: "#e6ebf1",
  primaryBorderColor: "#7db8f5", lineColor: "#a4b0bd", textColor: "#e6ebf1", edgeLabelBackground: "#14181e",
};

addEventListener("DOMContentLoaded", () => {
  const drawings = [...document.querySelectorAll("pre.mermaid")].map((element) => [element, element.textContent]);
  let shown;
  const draw = async () => {
    const dark = document.documentElement.dataset.theme === "dark";
    if (dark === shown) return;
    shown = dark;
    const themeVariables = dark ? DARK : LIGHT;
    mermaid.initialize({ startOnLoad: false, theme: "base", themeVariables, flowchart: { useMaxWidth: false } });
    for (const [element, source] of drawings) {
      element.removeAttribute("data-processed");
      element.textContent = source;
    }
    await mermaid.run({ nodes: drawings.map(([element]) => element) });
    for (const [index, [element]] of drawings.entries()) {
      const drawing = element.querySelector("svg");
      if (drawing.viewBox.baseVal.width < 1.5 * element.clientWidth) drawing.style.cssText = "max-width: 100%; height: auto";
      element.tabIndex = 0;
      element.setAttribute("role", "region");
      element.setAttribute("aria-label", `Drawing ${index + 1}`);
    }
  };
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  draw();
});
