// Opens pages of the built site in a headless browser, at two widths and in both color schemes, and searches.
// `nox -s docs -- --browser` runs it: node check_site.mjs FOLDER BROWSER, with puppeteer-core and axe-core installed.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { createRequire } from "node:module";

const [folder, executablePath] = process.argv.slice(2);
const require = createRequire(path.join(process.cwd(), "package.json"));
const puppeteer = require("puppeteer-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const PAGES = [
  "index.html",
  "ideas.html",
  "examples/plot_06_ensemble.html",
  "losses/LossDice.html",
  "models/ModelMultiHead.html",
  "optimizers/SAM.html",
  "how-to/plain-loop.html",
  "api/generated/fuse_losses.functional.focal_loss.html",
  "architecture.html",
];
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

const server = http.createServer((request, response) => {
  const file = path.join(folder, decodeURIComponent(new URL(request.url, "http://localhost").pathname));
  fs.readFile(file, (error, content) => {
    response.writeHead(error ? 404 : 200, { "content-type": TYPES[path.extname(file)] ?? "application/octet-stream" });
    response.end(content);
  });
});
await new Promise((resolve) => server.listen(0, "localhost", resolve));
const site = `http://localhost:${server.address().port}`;
const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const problems = [];

async function open(name, width, scheme) {
  const page = await browser.newPage();
  const note = (text) => problems.push(`${name} at ${width}, ${scheme}: ${text}`);
  page.on("console", (message) => message.type() === "error" && note(message.text()));
  page.on("pageerror", (error) => note(String(error)));
  page.on("request", (one) => /^(http:\/\/localhost|data:|blob:)/.test(one.url()) || note(`needs ${one.url()}`));
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(`${site}/${name}`, { waitUntil: "networkidle0" });
  return [page, note];
}

for (const name of PAGES) {
  for (const width of [1280, 390]) {
    for (const scheme of ["light", "dark"]) {
      const [page, note] = await open(name, width, scheme);
      const wider = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      if (wider > 0) note(`scrolls sideways by ${wider} pixels`);
      const undrawn = await page.evaluate(() => document.querySelectorAll("pre.mermaid:not(:has(svg))").length);
      if (undrawn) note(`${undrawn} drawings are missing`);
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      for (const one of violations) note(`${one.id}: ${one.nodes[0].html.slice(0, 120)}`);
      await page.close();
    }
  }
}

const [page, note] = await open("search.html?q=focal", 1280, "light");
await page.waitForSelector("#search-results li a");
const first = await page.$eval("#search-results li a", (link) => link.href);
await page.goto(first, { waitUntil: "networkidle0" });
if (!/focal/i.test(await page.$eval("h1", (title) => title.textContent))) note(`the first hit for focal is ${first}`);
console.log(`${PAGES.length} pages, ${problems.length} problems; the first hit for focal is ${first.replace(site, "")}`);
await browser.close();
server.close();
if (problems.length) {
  console.error(problems.join("\n"));
  process.exit(1);
}
