// The blocks of a guide. Each opens with a comment that says when it holds and what it is: `// before: relay.js`,
// `// file: cache.js` where there is no before, or `# run: publish` where the reader types it.

import { mkdir, readFile, writeFile } from "node:fs/promises";

const BLOCK = /^```(\w+)\n(?:\/\/|#|--|<!--) (before|after|file|run): (.+?)(?: -->)?\n([^]*?)^```$/gm;

/** @returns {Promise<{ language: string, when: "before" | "after" | "file" | "run", name: string, text: string }[]>} */
export async function blocks(guide) {
  const markdown = await readFile(guide, "utf8");
  const found = [...markdown.matchAll(BLOCK)].map(([, language, when, name, text]) => ({ language, when, name, text }));
  const fences = markdown.match(/^```\w+$/gm).length;
  if (found.length !== fences) throw new Error(`${fences - found.length} blocks of ${guide} do not say what they are, so no test runs them`);
  return found;
}

/** Writes every block into `folder/before` and `folder/after`, with what the guide's reader has already beside them. */
export async function write(blocks, folder, present) {
  for (const when of ["before", "after"]) {
    await mkdir(`${folder}/${when}`, { recursive: true });
    for (const [name, text] of Object.entries(present)) await writeFile(`${folder}/${when}/${name}`, text);
  }
  for (const { when, name, text } of blocks) await writeFile(`${folder}/${when}/${name.replaceAll(/[^\w.-]/g, "-")}`, text);
}
