// The process of a contender that runs in Node: loads the module it is given, answers requests until its input ends.

import { writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { writeFloats } from './layer-files.ts';
import type { Load, Loaded } from './peer.ts';
import { type Failure, REPLY_DESCRIPTOR, type Replies, type Request } from './protocol.ts';

const [, , module] = process.argv;
const { load } = (await import(module!)) as { load: Load };
let folder: string;
let loaded: Loaded;

async function answer(request: Request): Promise<Replies[Request['do']]> {
  switch (request.do) {
    case 'load': {
      folder = request.folder;
      loaded = await load(request.task, folder);
      // What loading left behind would be collected in the middle of a run.
      globalThis.gc?.();
      return { version: loaded.version, threads: loaded.threads };
    }
    case 'check': {
      await loaded.run();
      const results = await loaded.results();
      for (const [name, values] of Object.entries(results))
        writeFloats(folder, `${request.prefix}.${name}`, values);
      loaded.clear();
      return { results: Object.keys(results) };
    }
    case 'run': {
      const ms: number[] = [];
      for (let i = 0; i < request.times; i++) {
        const start = performance.now();
        await loaded.run();
        ms.push(performance.now() - start);
        loaded.clear();
      }
      return { ms };
    }
  }
}

for await (const line of createInterface(process.stdin)) {
  const reply = await answer(JSON.parse(line)).catch(
    (error: unknown): Failure => ({ error: error instanceof Error ? error.message : String(error) }),
  );
  writeSync(REPLY_DESCRIPTOR, `${JSON.stringify(reply)}\n`);
}
// Libraries keep threads that would outlive the input.
process.exit();
