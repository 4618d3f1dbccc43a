// Loads every workflow into ComfyUI's front end as dropping its file does, and says what became of it, as JSON.
// node front_end.js URL WORKFLOWS_FOLDER [FOLDER_FOR_PICTURES]     needs playwright-core (NODE_PATH) and $CHROMIUM
const { chromium } = require("playwright-core");
const fs = require("fs");
const path = require("path");
const [url, folder, pictures] = process.argv.slice(2);

async function open(browser, errors) {
  const page = await browser.newPage({ viewport: { width: 2200, height: 1200 } });
  page.on("console", (m) => m.type() === "error" && errors.push(m.text()));
  page.on("pageerror", (e) => errors.push(String(e)));
  await page.goto(url, { timeout: 240000 });
  const ready = () => window.app?.graph && window.LiteGraph?.registered_node_types.MarkdownNote;
  await page.waitForFunction(ready, null, { timeout: 240000 });
  await page.waitForTimeout(3000);
  return page;
}

async function drop(page, file) {
  const text = fs.readFileSync(file, "utf-8");
  await page.evaluate(
    async ({ text, name }) => {
      await window.app.handleFile(new File([text], name, { type: "application/json" }));
      await new Promise((done) => setTimeout(done, 1000));
      window.app.canvas.low_quality_zoom_threshold = 0;
      const nodes = window.app.graph.nodes;
      const low = (i) => Math.min(...nodes.map((n) => n.pos[i] - 40 * i));
      const high = (i) => Math.max(...nodes.map((n) => n.pos[i] + n.size[i]));
      window.app.canvas.ds.fitToBounds([low(0), low(1), high(0) - low(0), high(1) - low(1)], { zoom: 0.85 });
      window.app.canvas.setDirty(true, true);
    },
    { text, name: path.basename(file) },
  );
}

async function look(page) {
  return page.evaluate(async () => {
    const nodes = window.app.graph.nodes;
    const { output, workflow } = await window.app.graphToPrompt();
    return {
      unknown: nodes.filter((n) => !window.LiteGraph.registered_node_types[n.type]).map((n) => n.type),
      red: nodes.filter((n) => n.has_errors).map((n) => n.type),
      prompt: output,
      widgets: Object.fromEntries(workflow.nodes.map((n) => [n.id, n.widgets_values])),
    };
  });
}

async function help(page) {
  await page.evaluate(() => {
    const node = window.app.graph.nodes.find((n) => n.type.startsWith("SVDP"));
    window.app.canvas.selectNode ? window.app.canvas.selectNode(node) : window.app.canvas.select(node);
  });
  const button = page.locator('[data-testid="info-button"]').first();
  await button.waitFor({ timeout: 15000 });
  await button.evaluate((b) => b.click()); // it follows the node about, so it is never at rest
  const heading = page.locator("h1, h2", { hasText: "Inputs" }).first();
  await heading.waitFor({ timeout: 15000 });
  return true;
}

(async () => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu"],
  });
  const errors = [];
  const page = await open(browser, errors);
  const before = errors.length;
  const found = {};
  for (const name of fs.readdirSync(folder).filter((f) => f.endsWith(".json"))) {
    const from = errors.length;
    await drop(page, path.join(folder, name));
    found[name] = await look(page);
    await page.waitForTimeout(800);
    found[name].errors = errors.slice(from);
    if (pictures) await page.screenshot({ path: path.join(pictures, name.replace(".json", ".png")) });
  }
  await drop(page, path.join(folder, fs.readdirSync(folder).filter((f) => f.endsWith(".json"))[0]));
  const opened = await help(page).catch((e) => String(e));
  if (pictures) await page.screenshot({ path: path.join(pictures, "help.png") });
  console.log(JSON.stringify({ workflows: found, help: opened, start: errors.slice(0, before) }));
  await browser.close();
})().catch((e) => {
  console.error(String(e.stack || e));
  process.exit(1);
});
