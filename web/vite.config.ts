/** Builds the page into the Python package, with the hash of its sources beside it and a strict content policy. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import react from "@vitejs/plugin-react";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";
import { hashOfSources } from "./stamp.ts";

const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "worker-src 'self'",
  "manifest-src 'self'",
  "style-src 'self'",
  "img-src 'self' blob: data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

/** What the built script holds of others; their licences travel with it. */
const BUNDLED = ["react", "react-dom", "scheduler"];

/** Emscripten's JavaScript of onnxruntime, which starts the threads too: a file of its own. */
const RUNTIME = "ort-wasm-simd-threaded.mjs";

const inPackage = (name: string, file: string): string =>
  readFileSync(join(import.meta.dirname, "node_modules", name, file), "utf8");

function licences(): string {
  const texts = BUNDLED.map((name) => `${name}\n\n${inPackage(name, "LICENSE").trim()}\n`);
  // Its package names the MIT licence without the text.
  const mit = inPackage("react", "LICENSE").replace(/^Copyright.*$/m, "Copyright (c) Microsoft Corporation");
  texts.push(`onnxruntime-web\n\n${mit.trim()}\n`);
  return `The script of this page contains:\n\n${texts.join("\n")}`;
}

function stamped(): Plugin {
  return {
    name: "stamped",
    apply: "build",
    transformIndexHtml: () => [
      { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content: POLICY }, injectTo: "head-prepend" },
    ],
    generateBundle() {
      this.emitFile({ type: "asset", fileName: "licences.txt", source: licences() });
      const runtime = inPackage("onnxruntime-web/dist", RUNTIME);
      this.emitFile({ type: "asset", fileName: `assets/${RUNTIME}`, source: runtime });
      const sources = hashOfSources(import.meta.dirname);
      this.emitFile({ type: "asset", fileName: "build.json", source: `${JSON.stringify({ sources }, null, 2)}\n` });
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [react(), stamped()],
  build: {
    outDir: "../src/playloom/server/static",
    emptyOutDir: true,
    sourcemap: false,
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rolldownOptions: {
      input: { index: "index.html", "service-worker": "src/local/serviceWorker.ts" },
      output: {
        entryFileNames: ({ name }) => (name === "service-worker" ? "[name].js" : "assets/[name]-[hash].js"),
      },
    },
  },
  worker: { format: "es" },
  server: { proxy: { "/v1": { target: "http://127.0.0.1:5000", ws: true } } },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
});
