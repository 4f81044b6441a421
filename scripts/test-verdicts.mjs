// Whether `bench --baseline` can be believed on this machine as it is: `npm run test:verdicts`. Ten times a campaign, the same once more,
// and the same with the kernels slowed down, by the switch of the test build: `slower` must be said of the last each time, of
// the second never.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    times: { type: 'string', default: '10' },
    percent: { type: 'string', default: '50' },
    bench: {
      type: 'string',
      default: '--shape 64,512,1024,8,2 --dtype bfloat16 --pass forward --min-time 2 --max-time 12',
    },
  },
});
const folder = mkdtempSync(join(tmpdir(), 'verdicts-'));
const times = Number(values.times);

function campaign(name, slowdown, ...options) {
  const out = join(folder, `${name}.jsonl`);
  const command = ['--import', 'tsx', 'src/cli/main.ts', 'bench', ...values.bench.split(' ')];
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [...command, '--out', out, ...options, '--json'],
    {
      encoding: 'utf8',
      env: {
        ...process.env,
        MOE_KERNELS_BINARY: resolve('build/simt/Release/moe_kernels.node'),
        MOE_KERNELS_TEST_SLOWDOWN: slowdown,
      },
    },
  );
  if (status !== 0 && status !== 1) throw new Error(stderr);
  return stdout
    .trim()
    .split('\n')
    .map(line => JSON.parse(line));
}

const overlap = (a, b, low, high) => a[low] <= b[high] && b[low] <= a[high];
const counts = { same: {}, slowed: {}, inMs: 0, inRulers: 0 };
const count = (kind, results) => {
  for (const { baseline } of results)
    counts[kind][baseline.verdict] = (counts[kind][baseline.verdict] ?? 0) + 1;
};
try {
  for (let i = 0; i < times; i++) {
    const before = campaign(`before-${i}`, '0');
    const baseline = ['--baseline', join(folder, `before-${i}.jsonl`)];
    const same = campaign(`same-${i}`, '0', ...baseline);
    const slowed = campaign(`slowed-${i}`, values.percent, ...baseline);
    count('same', same);
    count('slowed', slowed);
    for (const [at, result] of same.entries()) {
      counts.inMs += overlap(before[at], result, 'lowMs', 'highMs');
      counts.inRulers += overlap(before[at], result, 'rulersLow', 'rulersHigh');
    }
    const shown = [before, same, slowed].map(
      ([{ medianMs, rulers }]) => `${medianMs.toFixed(2)} ms = ${rulers.toFixed(2)} rulers`,
    );
    console.log(`${i + 1}: ${shown.join(', ')}: ${same[0].baseline.verdict}, ${slowed[0].baseline.verdict}`);
  }
} finally {
  rmSync(folder, { recursive: true });
}
const total = Object.values(counts.same).reduce((a, b) => a + b);
console.log(
  `unchanged: ${JSON.stringify(counts.same)}; ${values.percent} % slower: ${JSON.stringify(counts.slowed)}`,
);
console.log(
  `intervals of unchanged campaigns that overlap: ${counts.inMs} of ${total} in ms, ${counts.inRulers} in rulers`,
);
process.exit(counts.same.slower === undefined && counts.slowed.slower === total ? 0 : 1);
