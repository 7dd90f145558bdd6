import { defineConfig } from "vite";

export default defineConfig({
  // The demo serves the folder; relative addresses let it stand under any path.
  base: "./",
  build: { target: "es2022", assetsInlineLimit: 0 },
});
