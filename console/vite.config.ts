import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// `make console` builds into the package; a test builds elsewhere, and compares. No source map, no date, no path: the
// same sources always give the same bytes.
export default defineConfig({
  base: "/console/",
  plugins: [svelte({ compilerOptions: { runes: true } })],
  build: {
    outDir: "../src/antiphon/console/static",
    emptyOutDir: true,
    assetsDir: "",
    target: "es2023",
    cssTarget: ["chrome123", "firefox121", "safari17.5"], // these know light-dark()
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    assetsInlineLimit: 0, // a data: URL is no 'self'
    rolldownOptions: {
      output: { entryFileNames: "[name]-[hash].js", chunkFileNames: "[name]-[hash].js", assetFileNames: "[name]-[hash][extname]" },
    },
  },
  server: { proxy: { "^/(antiphon|v1|openresponses|health|ready|openapi.json|console/manifest.json)": "http://127.0.0.1:8000" } },
});
