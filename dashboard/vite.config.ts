import preact from "@preact/preset-vite";
import { defineConfig } from "vite";

// Addresses are relative, so that the page works below any path; no file is inlined, for the policy of the page allows no inline code.
export default defineConfig({
  base: "./",
  plugins: [preact()],
  build: {
    outDir: "../src/chappe/web/dashboard",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
  },
});
