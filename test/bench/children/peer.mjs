// A peer of its own kind: what it computes is ours times a factor, what it takes is what it says. Its first argument says how it
// behaves: a factor, `says` (refuses with an error), or `dies` (ends while it runs).

import { readFileSync, writeFileSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [, , behaviour] = process.argv;
let folder;
let pass;

function write(name, prefix) {
  const ours = readFileSync(`${folder}/moe-kernels.${name}.f32`);
  const values = new Float32Array(ours.buffer.slice(ours.byteOffset, ours.byteOffset + ours.byteLength));
  writeFileSync(
    `${folder}/${prefix}.${name}.f32`,
    values.map(value => value * Number(behaviour)),
  );
}

const answers = {
  load({ task, folder: given }) {
    folder = given;
    pass = task.pass;
    console.log('what a library prints is nobody’s business');
    return behaviour === 'says' ? { error: 'no room left' } : { version: '1.2.3', threads: 1 };
  },
  check({ prefix }) {
    const results = pass === 'forward' ? ['y'] : ['y', 'dx', 'd.router', 'd.up', 'd.down'];
    if (behaviour !== 'dies') for (const name of results) write(name, prefix);
    return { results: behaviour === 'dies' ? [] : results };
  },
  run({ times }) {
    if (behaviour === 'dies') {
      process.stderr.write('Traceback\nMemoryError: too much\n');
      process.exit(3);
    }
    return { ms: Array(times).fill(1000) };
  },
};

for await (const line of createInterface(process.stdin)) {
  const request = JSON.parse(line);
  writeSync(3, `${JSON.stringify(answers[request.do](request))}\n`);
}
