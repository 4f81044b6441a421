// A peer of its own kind: what it computes is ours, from a folder, times a factor; what it takes is what it says. Its first argument
// says how it behaves: a factor, `refuses`, `forgets` (a result), or `dies` (while it runs).

import { readFileSync, writeFileSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [, , behaviour, ours] = process.argv;
let folder;
let pass;

function write(name, prefix) {
  const bytes = readFileSync(`${ours}/${name}.f32`);
  const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const factor = behaviour === 'dies' ? 1 : Number(behaviour);
  const theirs = values.map(value => value * factor);
  writeFileSync(`${folder}/${prefix}.${name}.f32`, theirs);
}

const answers = {
  load({ task, folder: given }) {
    folder = given;
    pass = task.pass;
    console.log('what a library prints is nobody’s business');
    return behaviour === 'refuses' ? { error: 'no room left' } : { version: '1.2.3', threads: 1 };
  },
  check({ prefix }) {
    const gradients = ['dx', 'd.router', 'd.up', 'd.down'];
    const results = { forward: ['y'], backward: gradients, both: ['y', ...gradients] }[pass];
    if (behaviour === 'forgets') return { results: [] };
    for (const name of results) write(name, prefix);
    return { results };
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
